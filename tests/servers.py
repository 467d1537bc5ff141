"""Servers on free ports of this machine, for tests of what talks to them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from studies.bench.arena import mlflow_command
from studies.bench.machines import free_port


def waited_for(ready: Callable[[], bool]) -> None:
    for _ in range(1200):
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError("it does not start")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, from when it answers until it does no more."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        waited_for(lambda: answers(port))
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        waited_for(lambda: not answers(port))


def mlflow_server(root: Path, port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """With artifacts of its own, which it takes itself."""
    return served(mlflow_command(root, port), port, root / "server.log")


class Postgres:
    """A server in a folder of its own, on a free port; its user "me" has the password "se cret"."""

    def __init__(self, root: Path) -> None:
        self._bin = next(Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/bin"))
        self._root, self.port = root, free_port()
        if not (self._bin / "initdb").is_file():
            pytest.skip("needs PostgreSQL")
        self._user = "postgres" if os.getuid() == 0 else None
        secret = root / "password"
        secret.write_text("se cret")
        if self._user:
            shutil.chown(root, self._user)
            shutil.chown(secret, self._user)
        self._call("initdb", "-U", "me", "-A", "scram-sha-256", f"--pwfile={secret}")

    @property
    def uri(self) -> str:
        return f"postgresql://me:se%20cret@127.0.0.1:{self.port}/postgres"

    def database(self, name: str) -> str:
        """The URI of a new one."""
        import psycopg

        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.uri.replace("/postgres", f"/{name}")

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -k {self._root}"
        self._call("pg_ctl", "-w", "-o", options, "-l", str(self._root / "log"), "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-m", "immediate", "stop")

    def _call(self, name: str, *arguments: str) -> None:
        command = [str(self._bin / name), "-D", str(self._root / "data"), *arguments]
        subprocess.run(
            command, check=True, user=self._user, stdout=subprocess.DEVNULL, cwd=self._root
        )


@contextmanager
def mariadb(root: Path) -> Iterator[str]:
    """A server in a folder of its own: the URL of its database, whose user's password, "secret",
    is in a file."""
    server = shutil.which("mariadbd")
    if server is None:
        pytest.skip("needs MariaDB")
    port, data, me = free_port(), root / "data", f"--user={os.environ.get('USER', 'root')}"
    subprocess.run(
        ["mariadb-install-db", f"--datadir={data}", me, "--skip-test-db"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    setup = root / "setup.sql"
    setup.write_text(
        "create database lab;\ncreate user me identified by 'secret';\ngrant all on lab.* to me;\n"
    )
    known = root / "my.cnf"
    known.write_text("[client]\npassword = secret\n")
    place = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={root}/s"]
    command = [
        server,
        "--no-defaults",
        "--skip-name-resolve",
        me,
        f"--datadir={data}",
        f"--init-file={setup}",
        *place,
    ]
    with served(command, port, root / "mariadb.log"):
        yield f"mysql+pymysql://me@127.0.0.1:{port}/lab?read_default_file={known}"

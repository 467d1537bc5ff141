"""Does a study under faults come to what an undisturbed one comes to?

A small study runs on a cluster of two machines with an MLflow server, again and again. Each time
faults strike at random: the driver, stages, coordinators, the desk, a machine, the head or the
server are killed, stored results are changed or cut off, the disk is full for a while. The same
command goes on until the study is finished. Then its table, the bytes of its results and its runs
in MLflow must be those of the undisturbed study; exit code 1 if any is not. The full disk needs
root, for a small file system of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guard.artifacts import ArtifactStore, Damaged, parsed_record
from guard.errors import StudyError
from studies.bench.machines import ENVIRONMENT, Cluster, free_port, kill
from studies.driver import flags
from studies.reporting.console import Terminal
from tune.places import typed, usable_folder

SETTINGS = (
    "squeeze.epochs=10",
    "student.train.epochs=20",
    "sre2l.iterations=50",
    "evaluation.attacks=fgsm",
    "evaluation.diagnose=false",
    "method=sre2l",
    "ipc=1",
    "seed=choice(0, 1, 2)",
    "regularizer.weight=0.3",
    "regularizer.h=choice(0.1, 0.3)",
    "confirm.attacks=fgsm",
    "confirm.seeds=1",
)
STUDY = "digits"
MACHINES = ("first", "second")
PAUSE_S, LOOK_S = (0.5, 8.0), 0.2
"""Between two faults; until a command that was started is seen to compute."""
AWAY_S = 4.0
"""For how long a server is away, and a disk full."""
MAX_STARTS = 60
"""Of the command, before a study counts as one that never ends."""
DISK_MIB = 256


@dataclass(kw_only=True)
class Arena:
    """What faults strike."""

    output: Path
    """On a file system of its own, if there may be one."""
    cluster: Cluster
    tracking: Tracking
    draws: random.Random
    has_disk: bool
    driver: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)
    """The last lines of every driver that has ended badly."""

    def start(self) -> None:
        """The study's command."""
        address = ("--address", self.cluster.address, "--device", "cpu")
        self.driver = subprocess.Popen(
            [*study_command(self.output), *address, "--tracking-uri", self.tracking.uri],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self, timeout_s: float) -> int | None:
        """The exit code of the command; None while it runs."""
        assert self.driver is not None
        try:
            told, _ = self.driver.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if self.driver.returncode:
            self.said.append(f"{self.driver.returncode}: {told.decode()[-600:]}")
        return self.driver.returncode

    def one_of(self, what: str) -> str:
        """Kill a process of the cluster with such a name; "" if there is none."""
        found = self.cluster.running(what)
        if not found:
            return ""
        process = self.draws.choice(found)
        kill(process)
        return f"process {process.pid}"

    def stored(self) -> list[Path]:
        """Every file of a published result."""
        files = (self.output / "artifacts").glob("*/[!.]*/**/*")
        return sorted(file for file in files if file.is_file())


class Tracking:
    """An MLflow server."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.uri = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        place = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        place += ["--artifacts-destination", str(self._folder / "server")]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1", *place], stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def end_driver(arena: Arena, number: signal.Signals) -> str:
    if arena.driver is None or arena.driver.poll() is not None:
        return ""
    arena.driver.send_signal(number)
    return number.name


def end_machine(arena: Arena) -> str:
    name = arena.draws.choice(MACHINES)
    arena.cluster.kill(name)
    arena.cluster.join(name, 1)
    return name


def end_head(arena: Arena) -> str:
    """All of the cluster goes with it, and another one comes."""
    for process in arena.cluster.running("", "head"):
        kill(process)
    arena.cluster.stop()
    arena.cluster.start()
    for name in MACHINES:
        arena.cluster.join(name, 1)
    return "and another cluster"


def end_server(arena: Arena) -> str:
    arena.tracking.stop()
    time.sleep(AWAY_S)
    arena.tracking.start()
    return f"for {AWAY_S:g} s"


def flip(arena: Arena) -> str:
    files = [file for file in arena.stored() if file.stat().st_size]
    if not files:
        return ""
    file = arena.draws.choice(files)
    content = bytearray(file.read_bytes())
    content[arena.draws.randrange(len(content))] ^= 1 << arena.draws.randrange(8)
    file.write_bytes(content)
    return str(file.relative_to(arena.output))


def cut(arena: Arena) -> str:
    files = arena.stored()
    if not files:
        return ""
    file = arena.draws.choice(files)
    os.truncate(file, arena.draws.randrange(file.stat().st_size + 1))
    return str(file.relative_to(arena.output))


def fill(arena: Arena) -> str:
    if not arena.has_disk:
        return ""
    ballast = arena.output.parent / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
            file.flush()
    time.sleep(AWAY_S)
    ballast.unlink()
    return f"for {AWAY_S:g} s"


FAULTS: Mapping[str, Callable[[Arena], str]] = {
    "driver killed": lambda arena: end_driver(arena, signal.SIGKILL),
    "driver asked to end": lambda arena: end_driver(arena, signal.SIGTERM),
    "stage killed": lambda arena: arena.one_of("ray::stage"),
    "coordinator killed": lambda arena: arena.one_of("ray::ImplicitFunc"),
    "desk killed": lambda arena: arena.one_of("ray::Desk"),
    "machine killed": end_machine,
    "head killed": end_head,
    "MLflow killed": end_server,
    "bit flipped": flip,
    "file cut off": cut,
    "disk full": fill,
}
"""What a fault does; it says what it has struck, or "" if there was nothing to strike."""
WEIGHTS: Mapping[str, float] = {"head killed": 0.3}
"""How often, against the others' 1."""


def study_command(output: Path) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "studies.sweep", "--sampler", "grid", "--name", STUDY]
    return [*command, "--output", str(output), *settings]


def disturbed(arena: Arena, num_faults: int, console: Terminal) -> Counter[str]:
    """A study until it is finished, and the faults that it has met, at most so many. Raises
    StudyError for one that never is."""
    met: Counter[str] = Counter()
    for _ in range(MAX_STARTS):
        arena.start()
        code, is_at_work = None, False
        while code is None:
            code = arena.ended(arena.draws.uniform(*PAUSE_S) if is_at_work else LOOK_S)
            is_at_work = is_at_work or bool(arena.cluster.running("ray::stage"))
            if is_at_work and code is None and met.total() < num_faults:
                name, struck = strike(arena)
                met[name] += 1
                console.print(f"  {name}: {struck}")
        if code == 0:
            return met
    last = "\n".join(arena.said[-3:])
    raise StudyError(f"the study is not finished after {MAX_STARTS} starts; the last said:\n{last}")


def strike(arena: Arena) -> tuple[str, str]:
    """One fault, of those that find something to strike: its name and what that was."""
    names, weights = list(FAULTS), [WEIGHTS.get(name, 1.0) for name in FAULTS]
    struck = ""
    while not struck:
        (name,) = arena.draws.choices(names, weights)
        struck = FAULTS[name](arena)
    return name, struck


def table(output: Path) -> list[dict[str, str]]:
    """Of results.csv what does not depend on a clock."""
    with (output / STUDY / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def stored_sums(output: Path) -> dict[str, object]:
    """Of every whole result its summary and the sums of its files, by address."""
    store = ArtifactStore(output / "artifacts")
    found: dict[str, object] = {}
    for folder in store.folders():
        with contextlib.suppress(Damaged):
            record = parsed_record(folder, store.record(folder))
            address = folder.relative_to(store.root).as_posix()
            found[address] = record["summary"], record["files"]
    return found


def known_as_damaged(output: Path) -> set[str]:
    """Addresses of results that were struck after their last reader, so that nobody has computed
    them again."""
    store = ArtifactStore(output / "artifacts")
    return {Path(fault.place).relative_to(store.root).as_posix() for fault in store.faults()}


def runs(uri: str) -> list[str]:
    """Of the study in MLflow: which trial each is of, and how it ended."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    every = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(every, f"tags.`guard.study` = '{STUDY}'", max_results=1000)
    return sorted(f"{run.data.tags['guard.trial']} {run.info.status}" for run in found)


def differences(calm: Path, calm_runs: list[str], arena: Arena) -> list[str]:
    """In words, between an undisturbed study and one that met faults."""
    found = []
    if table(arena.output) != table(calm):
        found.append("results.csv is another one")
    expected, made = stored_sums(calm), stored_sums(arena.output)
    for address in sorted((expected.keys() | made.keys()) - known_as_damaged(arena.output)):
        if expected.get(address) != made.get(address):
            found.append(f"{address} is another one")
    if runs(arena.tracking.uri) != calm_runs:
        found.append(f"MLflow has {runs(arena.tracking.uri)}, not {calm_runs}")
    return found


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small file system in the folder, if this process may make one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}M", "none", str(folder)]
    is_there = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_there
    finally:
        if is_there:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def arena_in(folder: Path, seed: int) -> Iterator[Arena]:
    """A cluster, a server and a place of their own."""
    folder.mkdir(parents=True)
    cluster, tracking = Cluster(folder), Tracking(folder, free_port())
    with disk(folder / "disk") as has_disk:
        try:
            cluster.start()
            for name in MACHINES:
                cluster.join(name, 1)
            tracking.start()
            yield Arena(
                output=folder / "disk" / "runs",
                cluster=cluster,
                tracking=tracking,
                draws=random.Random(seed),
                has_disk=has_disk,
            )
        finally:
            tracking.stop()
            cluster.stop()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--each", type=int, default=12, metavar="N", help="of one study at most")
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--output", metavar="DIR", help="default: a temporary folder")
    return parser


def main(argv: Sequence[str]) -> int:
    """0 if every disturbed study is like the undisturbed one. Raises StudyError."""
    args = parser().parse_args(argv)
    console, bad = Terminal(), 0
    with tempfile.TemporaryDirectory() as scratch:
        root = usable_folder("--output", typed("--output", args.output or scratch))
        with arena_in(root / "calm", 0) as arena:
            console.print("undisturbed")
            disturbed(arena, 0, console)
            calm = root / "calm-runs"
            subprocess.run(["cp", "-a", str(arena.output), str(calm)], check=True)
            calm_runs = runs(arena.tracking.uri)
        met: Counter[str] = Counter()
        while met.total() < args.faults:
            seed = args.seed + len(list(root.glob("seed-*")))
            console.print(f"seed {seed}")
            with arena_in(root / f"seed-{seed}", seed) as arena:
                met += disturbed(arena, min(args.each, args.faults - met.total()), console)
                found = differences(calm, calm_runs, arena)
            bad += len(found)
            for line in found or ["  as undisturbed"]:
                console.print(line)
    for name, count in met.most_common():
        console.print(f"{count:>4}  {name}")
    console.print(f"{met.total()} faults, {bad} differences")
    return 1 if bad else 0


if __name__ == "__main__":
    flags.run(main)

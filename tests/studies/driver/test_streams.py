"""Standard streams that are closed, gone, full, or of another encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.driver.streams import native_apart

COMMAND = """
import sys
from studies.driver.streams import make_lasting
make_lasting()
print("mean ± 1, λ …, 猫, \\udcff")
sys.stdout.flush()
print("no λ", file=sys.stderr)
sys.exit(3)
"""


def ran(redirection: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a shell, with a redirection."""
    line = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", COMMAND]
    return subprocess.run(line, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("redirection", "out", "err"),
    [
        ("<&-", True, True),
        (">&-", False, True),
        ("2>&-", True, False),
        ("<&- >&- 2>&-", False, False),
        (">/dev/full", False, True),
    ],
)
def test_what_is_closed_or_full_changes_no_exit_code(
    redirection: str, out: bool, err: bool
) -> None:
    done = ran(redirection, PYTHONIOENCODING="utf-8")
    assert done.returncode == 3
    assert done.stdout.startswith(b"mean") == out
    assert done.stderr == ("no λ\n".encode() if err else b"")


def test_a_reader_that_goes_away_changes_no_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", COMMAND]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr and b"Error" not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown", "told"),
    [
        ("utf-8", "mean ± 1, λ …, 猫, ?\n", "no λ\n"),
        ("iso-8859-1", "mean ± 1, lambda ..., ?, ?\n", "no lambda\n"),
        ("ascii", "mean +- 1, lambda ..., ?, ?\n", "no lambda\n"),
    ],
)
def test_a_terminal_gets_what_it_can_show(encoding: str, shown: str, told: str) -> None:
    done = ran(PYTHONIOENCODING=encoding)
    assert done.returncode == 3
    assert done.stdout == shown.encode(encoding)
    assert done.stderr == told.encode(encoding)


APART = """
import os, sys
from pathlib import Path
from studies.driver.streams import native_apart
with native_apart(Path(sys.argv[1])):
    print("of Python", file=sys.stderr)
    os.write(2, b"of native code\\n")
os.write(2, b"after it\\n")
print("and after", file=sys.stderr)
"""


def test_native_code_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    found = subprocess.run(
        [sys.executable, "-c", APART, str(log)], capture_output=True, text=True, check=True
    )
    assert found.stderr.splitlines() == ["of Python", "after it", "and after"]
    assert log.read_text() == "of native code\n"


def test_no_file_is_left_for_nothing(tmp_path: Path) -> None:
    with native_apart(tmp_path / "ray.log"), native_apart(None):
        pass
    assert list(tmp_path.iterdir()) == []


MOURNED = """
import os, signal, sys
import psutil
from studies.driver.streams import epitaph
def end_all():
    for child in psutil.Process().children():
        child.terminate()
with epitaph("it is gone"):
    {end}
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "it is gone\n"),
        ("os._exit(1)", "it is gone\n"),
        ("os.abort()", "it is gone\n"),
        ("end_all(); os._exit(1)", "it is gone\n"),
        ("pass", ""),
        ("sys.exit(3)", ""),
    ],
)
def test_an_end_that_python_does_not_know_of_is_told(end: str, said: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", MOURNED.format(end=end)], capture_output=True, text=True
    )
    assert found.stderr == said

"""Standard streams that are closed, gone, full, or of another encoding."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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

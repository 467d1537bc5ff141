"""Processes that are started for a piece of work, and end with it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import errands
import pytest
import torch

from guard.artifacts import MissingInput
from guard.errors import Diverged
from guard.member import pickled
from guard.processes import Answer, ProcessLost, check_devices, environment, in_processes
from guard.trial import TrialConfig
from guard.trial_stages import plan

GONE_S = 30.0


def gone(folder: Path, size: int) -> bool:
    """Whether every process that left its number there ends soon, and what it has started."""
    numbers = [int(n) for path in folder.glob("*.pids") for n in path.read_text().split()]
    assert len(numbers) == 2 * size
    deadline = time.monotonic() + GONE_S
    while any(map(is_running, numbers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, numbers))


def is_running(number: int) -> bool:
    """Not so for one that has ended and that nobody has asked for yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_first_process_answers_for_all() -> None:
    assert in_processes(errands.said_to_one_another, 3, "cpu") == (0, 3, [6, 6, 6, 3, 3])


def test_the_error_of_the_first_to_fail_is_raised_and_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the loss became nan") as caught:
        in_processes(partial(errands.diverge_alone, tmp_path), 2, "cpu")
    assert str(caught.value) == "the loss became nan"
    assert "in process 2 of 2" in caught.value.__notes__[0]
    assert "diverge_alone" in caught.value.__notes__[0]
    assert gone(tmp_path, 2)


def test_a_killed_process_is_said_in_a_line_and_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(ProcessLost, match=r"^process 2 of 2 was ended by SIGKILL$"):
        in_processes(partial(errands.killed_alone, tmp_path), 2, "cpu")
    assert gone(tmp_path, 2)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_none_outlives_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import errands
from functools import partial
from pathlib import Path
from guard.processes import in_processes
in_processes(partial(errands.wait, Path({str(tmp_path)!r})), 2, "cpu")
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        while len(list(tmp_path.glob("*.pids"))) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        os.kill(parent.pid, number)
        assert parent.wait() != 0
    assert gone(tmp_path, 2)


def sent(error: Exception) -> Exception | None:
    """What is left of an error that a process answers with."""
    answer: Answer = pickle.loads(pickled(Answer(moment=0.0, error=error)))
    return answer.error


def test_errors_that_a_stage_answers_for_stay_what_they_are() -> None:
    full = sent(torch.OutOfMemoryError("CUDA out of memory"))
    assert isinstance(full, torch.OutOfMemoryError) and str(full) == "CUDA out of memory"
    stage = plan(TrialConfig())[0]
    missing = sent(MissingInput(stage, "model.safetensors is not there"))
    assert isinstance(missing, MissingInput) and missing.stage == stage
    assert isinstance(sent(Diverged("nan")), Diverged)


def test_an_error_that_cannot_be_read_again_is_told() -> None:
    told = sent(errands.Unreadable("what was wrong", "and more"))
    assert type(told) is RuntimeError and str(told) == "Unreadable: what was wrong"


def test_each_process_wants_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, "cuda")
    check_devices(5, "cpu")
    with pytest.raises(ValueError, match="3 processes want a GPU each, and this one sees 2"):
        in_processes(errands.said_to_one_another, 3, "cuda")


def test_they_find_what_this_process_finds_and_talk_on_this_machine_alone() -> None:
    found = environment()
    assert found["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert found["NCCL_SOCKET_IFNAME"] == found["GLOO_SOCKET_IFNAME"]
    assert str(Path(errands.__file__).parent) in found["PYTHONPATH"].split(os.pathsep)

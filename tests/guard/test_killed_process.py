"""A stage whose process is killed at any moment, again and again, computes little twice and ends in
the bytes of an undisturbed one."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guard.artifacts import ArtifactStore, build
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
KILLS, EVERY_S = 20, 0.5
NOTED = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from guard import checkpoint
from guard.artifacts import ArtifactStore, build
from test_killed_process import squeeze
def note(word, epochs):
    print(word, epochs, time.monotonic(), flush=True)
def offer(self, parts, progress):
    note("computed", len(progress))
    usual(self, parts, progress)
def save(self, parts, progress):
    replace(self, parts, progress)
    note("kept", len(progress))
checkpoint.EVERY_S = {EVERY_S}
usual, replace = checkpoint.Checkpoint.offer, checkpoint.Checkpoint.save
checkpoint.Checkpoint.offer, checkpoint.Checkpoint.save = offer, save
ArtifactStore(Path(sys.argv[1])).get_or_build(squeeze(), build)
"""


def squeeze() -> Stage:
    changes = {"regularizer": "none", "squeeze.epochs": 300, "model": {"width": 6, "depth": 2}}
    return plan(TrialConfig().override(changes))[0]


def begin(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NOTED, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str], draws: random.Random) -> list[str]:
    """What the process has noted by some moment after its first epochs."""
    assert process.stdout
    noted = [process.stdout.readline() for _ in range(draws.randint(1, 12))]
    time.sleep(draws.uniform(0, EVERY_S))
    process.kill()
    return [*noted, *process.stdout.read().splitlines()]


def contents(store: ArtifactStore) -> dict[str, bytes]:
    folder = store.path(squeeze())
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "stage.json"}


def overdue(noted: list[list[str]]) -> int:
    """How many epochs were left unkept although the last state was old enough."""
    count, since = 0, float(noted[0][2])
    for (word, _, moment), following in itertools.pairwise(noted):
        if word == "kept":
            since = float(moment)
        elif float(moment) - since >= EVERY_S and following[0] != "kept":
            count += 1
    return count


def test_killed_at_twenty_moments(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    draws, kept, last, twice = random.Random(0), 0, 0, 0
    for _ in range(KILLS):
        with begin(tmp_path / "killed") as process:
            noted = [line.split() for line in killed(process, draws)]
        first = int(noted[0][1])
        assert kept < first <= last + 1, "a state that was kept is gone on from"
        assert overdue(noted) == 0
        twice += last + 1 - first
        last = int(noted[-1][1])
        kept = max([kept, *(int(epoch) for word, epoch, _ in noted if word == "kept")])
    record_property("epochs computed twice", f"{twice} of {last}")
    with begin(tmp_path / "killed") as process:
        assert process.communicate() and process.returncode == 0
    killed_often, undisturbed = ArtifactStore(tmp_path / "killed"), ArtifactStore(tmp_path / "calm")
    undisturbed.get_or_build(squeeze(), build)
    assert contents(killed_often) == contents(undisturbed)

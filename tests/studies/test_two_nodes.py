"""A cluster of several machines, each a raylet here: the driver and the head compute nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import files
from studies.bench.chaos import table
from studies.bench.machines import ENVIRONMENT, Cluster

FAKE_DEVICE = Path(__file__).with_name("fake_device")
"""Its sitecustomize.py makes "cuda" another name of the CPU."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STAGE = "ray::stage"
SETTINGS = (
    "squeeze.epochs=30",
    "student.train.epochs=10",
    "sre2l.iterations=20",
    "evaluation.attacks=fgsm",
    "evaluation.diagnose=false",
    "method=sre2l",
    "ipc=1",
    "seed=choice(0, 1, 2, 3)",
    "regularizer=none",
    "confirm.seeds=0",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.start()
    yield made
    made.stop()


def sweep(output: Path, *arguments: str) -> subprocess.Popen[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "studies.sweep", "--sampler", "grid", "--output", str(output)]
    return subprocess.Popen(
        [*command, *settings, *arguments],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_auto_is_the_clusters_device_and_its_machines_are_asked(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.join("small", 1)
    cluster.join("claims a gpu", 1, 1)
    refused = sweep(tmp_path / "out", "--address", cluster.address)
    told = refused.communicate()[0]
    assert refused.returncode == 2, told
    assert told.count("no device 'cuda' on this machine") == 1, told
    there = sweep(tmp_path / "out", "--address", cluster.address, "--device", "cpu", "--dry-run")
    assert there.wait() == 0


def test_stages_go_where_the_gpus_are(cluster: Cluster, tmp_path: Path) -> None:
    cluster.join("plain", 2)
    cluster.join("with gpus", 2, 2, {"PYTHONPATH": str(FAKE_DEVICE)})
    running = sweep(tmp_path / "out", "--address", cluster.address)
    most = 0
    while running.poll() is None:
        assert not cluster.running(STAGE, "plain")
        most = max(most, len(cluster.running(STAGE, "with gpus")))
        time.sleep(0.05)
    told = running.communicate()[0]
    assert running.returncode == 0, told
    assert most == 2
    about = json.loads((tmp_path / "out" / "digits" / "study.json").read_text(encoding="utf-8"))
    assert about["compute.device"] == "cuda"
    assert {row["status"] for row in table(tmp_path / "out" / "digits")} == {"complete"}


def test_a_study_goes_on_when_a_machine_dies_and_another_joins(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.join("first", 1)
    cluster.join("second", 1)
    running = sweep(tmp_path / "cluster", "--address", cluster.address)
    deadline, seen = time.monotonic() + 600, set()
    while seen != {"first", "second"}:
        assert time.monotonic() < deadline and running.poll() is None
        seen |= {name for name in ("first", "second") if cluster.running(STAGE, name)}
        time.sleep(0.1)
    while not cluster.running(STAGE, "second"):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    cluster.kill("second")
    cluster.join("third", 1)
    told = running.communicate()[0]
    assert running.returncode == 0, told
    assert "raylet" not in told and "node" not in told
    alone = sweep(tmp_path / "alone", "--set", "run.concurrent=1")
    assert alone.communicate() and alone.returncode == 0
    assert table(tmp_path / "cluster" / "digits") == table(tmp_path / "alone" / "digits")
    assert all(row["status"] == "complete" for row in table(tmp_path / "cluster" / "digits"))
    made, expected = (files(tmp_path / n / "artifacts") for n in ("cluster", "alone"))
    assert made == expected

"""A study in S3, with Optuna and MLflow on PostgreSQL: the figures that it has in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import Postgres, free_port, served
from studies.bench.chaos import table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SETTINGS = (
    "squeeze.epochs=3",
    "student.train.epochs=10",
    "sre2l.iterations=20",
    "evaluation.attacks=fgsm",
    "evaluation.diagnose=false",
    "method=sre2l",
    "ipc=1",
    "regularizer.weight=0.3",
    "regularizer.h=choice(0.1, 0.3)",
    "confirm.attacks=fgsm",
    "confirm.seeds=2",
)
KEYS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an output in a new bucket of an S3 server."""
    boto3 = pytest.importorskip("boto3")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served(command, port, tmp_path / "s3.log"):
        endpoint = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="lab")
        yield f"s3://lab/runs?endpoint_override=127.0.0.1:{port}&scheme=http"


def run(module: str, *arguments: str, cache: Path, **environment: str) -> str:
    """What a command says; it ends well."""
    found = subprocess.run(
        [sys.executable, "-m", f"studies.{module}", *arguments],
        env={**os.environ, "GUARD_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def sweep(output: str, *arguments: str, cache: Path, **environment: str) -> str:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["--sampler", "grid", "--output", output, *settings, *arguments]
    return run("sweep", *command, cache=cache, **environment)


def results(cache: Path) -> list[dict[str, str]]:
    (path,) = (cache / "robust-distillation-lab").rglob("lab/runs/digits/results.csv")
    return table(path.parent)


def test_a_study_in_s3_and_postgresql_is_the_one_in_a_folder(
    tmp_path: Path, bucket: str, postgres: Postgres
) -> None:
    sweep(str(tmp_path / "runs"), cache=tmp_path / "none")
    plain = table(tmp_path / "runs" / "digits")
    servers = {"PGPASSWORD": "se cret", "MLFLOW_TRACKING_URI": postgres.uri}
    optuna = postgres.database("optuna").replace(":se%20cret", "")
    storage = ("--set", f"search.storage={optuna}")
    said = sweep(bucket, *storage, cache=tmp_path / "a", **servers)
    assert results(tmp_path / "a") == plain and "se%20cret" not in said
    assert not (tmp_path / "none").exists()

    again = sweep(bucket, *storage, cache=tmp_path / "b", **servers)  # on another machine
    assert "3 of 3 trials are finished" in again and "starting Ray" not in again
    assert results(tmp_path / "b") == plain

    study = bucket.replace("/runs", "/runs/digits")
    assert "report.html" in run("report", study, cache=tmp_path / "c", PGPASSWORD="se cret")
    assert results(tmp_path / "c") == plain
    verified = run("report", "--verify", study, cache=tmp_path / "d")
    assert "0 of 52 results are damaged" in verified
    best = bucket.replace("/runs", "/runs/digits/best.json")
    trial = run("trial", best, "--output", bucket, cache=tmp_path / "e")
    assert re.search(r"complete in .*; 0 of \d+ stages computed", trial)
    cleaned = run("clean", bucket, "--older-than", "0", cache=tmp_path / "f")
    assert "0 results" in cleaned

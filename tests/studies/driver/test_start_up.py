"""What a command loads: no more than it needs for its answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import run_python

HEAVY = (
    "ray",
    "mlflow",
    "matplotlib",
    "plotly",
    "pandas",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "alembic",
    "torch._dynamo",
    "torchattacks",
    "torchvision",
)
CODE = """
import runpy, sys
sys.argv = ["studies.{study}", *{flags!r}]
try:
    runpy.run_module("studies.{study}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print(sorted(name for name in {heavy!r} if name in sys.modules))
"""
OTHERS = ("compare", "adversarial", "ablation", "transfer", "gallery", "labels", "scaling")


@pytest.mark.parametrize(
    "study", ["sweep", "curvature", *(pytest.param(s, marks=pytest.mark.slow) for s in OTHERS)]
)
def test_a_plan_is_told_without_what_runs_it(study: str, tmp_path: Path) -> None:
    flags = ["--dry-run", "--output", str(tmp_path)]
    told = run_python(CODE.format(study=study, flags=flags, heavy=HEAVY))
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == "[]"


BEFORE_RAY = """
import sys
import studies.driver.session, studies.sweep, studies.driver.sweep_job
print(sorted(name for name in {heavy!r} if name in sys.modules))
"""


def test_ray_is_started_without_what_only_the_end_of_a_study_needs() -> None:
    heavy = (*HEAVY, "ray.tune", "ray.data", "ray.train")
    told = run_python(BEFORE_RAY.format(heavy=heavy))
    assert told.stdout.splitlines()[-1] == "['ray']", told.stdout + told.stderr

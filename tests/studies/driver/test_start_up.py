"""What a command loads: no more than it needs for its answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import run_python

CODE = """
import runpy, sys
sys.argv = ["studies.{study}", "--dry-run", "--output", {output!r}]
try:
    runpy.run_module("studies.{study}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
heavy = ("ray", "mlflow", "matplotlib", "plotly", "pandas", "torch._dynamo", "torchattacks")
print(sorted(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(("study", "loaded"), [("sweep", []), ("compare", ["matplotlib"])])
def test_a_plan_is_told_without_what_runs_it(study: str, loaded: list[str], tmp_path: Path) -> None:
    told = run_python(CODE.format(study=study, output=str(tmp_path)))
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == str(loaded)

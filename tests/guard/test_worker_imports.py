"""What a process loads for a stage: no more than its work needs."""

from __future__ import annotations

from pathlib import Path

from helpers import run_python

WORKER = """
import sys
from pathlib import Path
from guard import ArtifactStore, TrialConfig
from guard.trial_stages import TrialStages

config = TrialConfig().override({{
    "model": {{"width": 4, "depth": 2}}, "squeeze.epochs": 1, "regularizer.fraction": 0.1,
    "sre2l": {{"iterations": 1, "chunk": 1}}, "ipc": 1, "student.train.epochs": 1,
}})
store = ArtifactStore(Path({root!r}))
for wave in TrialStages.of(config).waves:
    for stage in wave:
        if stage.name not in ("evaluate", "diagnose"):
            store.get_or_build(stage)
heavy = (
    "torchattacks", "scipy", "sklearn", "pandas", "matplotlib", "torchvision", "ray", "optuna",
    "mlflow", "sqlalchemy", "torch._inductor.compile_fx",
)
print(sorted(name for name in heavy if name in sys.modules), store.path(stage).parent.name)
"""


def test_a_worker_that_never_attacks_loads_no_attacks_and_no_scipy(tmp_path: Path) -> None:
    done = run_python(WORKER.format(root=str(tmp_path)))
    assert done.stdout.split("] ")[0] == "[", done.stdout + done.stderr
    made = {folder.name for folder in tmp_path.iterdir()}
    assert made == {"squeeze", "recover", "distilled", "relabel", "student"}

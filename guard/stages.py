"""Which function does the work of which stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from guard.artifacts import ArtifactStore, Stage
from guard.distilled import assemble
from guard.methods.dc import matching as dc
from guard.methods.mtt import matching as mtt
from guard.methods.sre2l import recover as sre2l
from guard.methods.subset import choice as subset
from guard.models.input_layer import fit_whitening
from guard.robustness.evaluate import evaluate_stage
from guard.robustness.landscape import look_around
from guard.robustness.reliability import diagnose_stage
from guard.training.loop import Diverged
from guard.training.student import relabel, train_student
from guard.training.teacher import squeeze

Builder = Callable[[Stage, ArtifactStore, Path], Mapping[str, Any]]

STAGES: Mapping[str, Builder] = {
    "whitening": fit_whitening,
    "squeeze": squeeze,
    "expert": mtt.train_expert,
    "recover": sre2l.recover,
    "gradient-matching": dc.match_gradients,
    "trajectory-matching": mtt.match_trajectories,
    "subset": subset.pick,
    "distilled": assemble,
    "relabel": relabel,
    "student": train_student,
    "evaluate": evaluate_stage,
    "diagnose": diagnose_stage,
    "landscape": look_around,
}


def build(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Do a stage's work; divergence is a result too (summary: `diverged`), so it is cached."""
    try:
        return STAGES[stage.name](stage, store, folder)
    except Diverged as diverged:
        return {"diverged": str(diverged)}

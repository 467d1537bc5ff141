"""The card of a distilled set as people get it: what the set was stored with, and what was found of
its teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guard.config.evaluation import expanded
from guard.robustness.measures import CLEAN, ROBUST
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages


def finished_card(
    folder: Path | str, config: TrialConfig, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """The stored card of a trial's set with `teacher`: the clean and robust accuracy, in [0, 1], of
    the network that it was distilled by, or else labelled by, on validation images, and under what.

    folder: of the set; metrics: of the trial. The card is stored without it, since the same set
    comes of trials with other threat models. Without a teacher, or before it was checked, there is
    nothing to add.
    """
    card: dict[str, Any] = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))
    found = {measure.metric: f"teacher/{measure.metric}" for measure in (CLEAN, ROBUST)}
    if not all(name in metrics for name in found.values()):
        return card
    check = TrialStages.of(config).teacher_check[-1]
    teacher = {
        "network": check.model.address,
        "split": check.split,
        "num_samples": int(metrics["teacher/num_samples"]),
        **{name: metrics[full] for name, full in found.items()},
        "norm": check.evaluation.norm,
        "eps": check.evaluation.eps,
        "attacks": list(expanded(check.evaluation.attacks)),
    }
    return {**card, "teacher": teacher}

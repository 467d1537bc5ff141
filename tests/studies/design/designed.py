"""A preset to plan studies on, and the order in which runs must come."""

from __future__ import annotations

from studies.presets import PRESETS
from tune.runs import Run

PRESET = PRESETS["digits"]()
BASE = PRESET.config


def controls_first(runs: list[Run]) -> bool:
    """Whether each regularized run comes after its control, on the same seed."""
    controls: set[str] = set()
    for run in runs:
        if run.control:
            controls.add(run.config.fingerprint())
        elif run.config.unregularized().fingerprint() not in controls:
            return False
    return True

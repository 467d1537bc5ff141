"""Which share of a GPU a stage gets: as much as one like it has taken of the memory.

The first stage of its kind and shape has a GPU alone and is measured; those after it share one.
Nothing here imports Ray or torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from guard.stage import Stage

ALONE, SMALLEST, STEP = 1.0, 0.05, 0.05
HEADROOM = 1.2
"""A stage like one that was measured may take so much more."""
FREE = frozenset(
    {
        "seed",
        "student_seed",
        "split_seed",
        "weight",
        "h",
        "eps",
        "more_eps",
        "lr",
        "lr_images",
        "lr_labels",
        "rate",
        "momentum",
        "weight_decay",
        "bn_weight",
        "first_bn_multiplier",
        "temperature",
        "step_size",
    }
)
"""Names of fields that no memory depends on; any other one is taken to matter."""
PLACES = frozenset({"number", "chunk", "part"})
"""A stage's own fields that say which of several alike it is: an expert, a chunk of the images, a
part of the labels."""


def shape(stage: Stage) -> str:
    """The same for stages that take as much memory, as far as their fields tell."""
    inputs = {role: shape(own) for role, own in stage.inputs.items()}
    config = {name: own for name, own in stage.config.items() if name not in PLACES}
    return json.dumps([stage.name, _without_free(config), inputs], sort_keys=True)


class Packing:
    """The shares of a study's stages."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._tried: set[str] = set()

    def of(self, stage: Stage) -> float:
        """In (0, 1]: all of it before one like it is measured."""
        return self._shares.get(shape(stage), ALONE)

    def saw(self, stage: Stage, taken: float) -> None:
        """A stage has taken so much of its GPU's memory, in [0, 1]; 0: that is not known."""
        if taken <= 0:
            return
        wanted = STEP * math.ceil(round(HEADROOM * taken / STEP, 6))
        own = shape(stage)
        self._shares[own] = max(min(max(wanted, SMALLEST), ALONE), self._shares.get(own, 0.0))

    def ran_out(self, stage: Stage) -> bool:
        """A stage found too little memory: from now on those like it get twice as much. False if
        that was tried for this very stage, or it had a GPU alone."""
        had = self.of(stage)
        if stage.address in self._tried or had >= ALONE:
            return False
        self._tried.add(stage.address)
        self._shares[shape(stage)] = min(2 * had, ALONE)
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was too small. The desk has no torch."""
    kind = type(error)
    return kind.__name__ == "OutOfMemoryError" and kind.__module__.partition(".")[0] == "torch"


def _without_free(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_free(own) for k, own in value.items() if k not in FREE}
    return [_without_free(own) for own in value] if isinstance(value, list | tuple) else value

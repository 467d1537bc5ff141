"""Signs that an accuracy is not what it seems, mostly that a robust one is too good: rules over
what `guard.robustness.reliability` measures.

After Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), and
Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Raised where the measured value is above the limit."""

    measure: str
    limit: float
    meaning: str


FLAGS: Mapping[str, Flag] = {
    "vanishing-gradient": Flag(
        measure="zero_gradients",
        limit=0.1,
        meaning="the input gradient of many samples is zero in float32",
    ),
    "black-box-wins": Flag(
        measure="square_gain",
        limit=0.03,
        meaning="a short Square attack breaks what the gradient attack leaves",
    ),
    "transfer-wins": Flag(
        measure="transfer_gain",
        limit=0.03,
        meaning="another model's adversarial examples break what it leaves",
    ),
    "restarts-help": Flag(
        measure="restart_gain", limit=0.1, meaning="restarting PGD breaks many more samples"
    ),
    "large-eps-survivors": Flag(
        measure="large_eps_excess",
        limit=0.0,
        meaning="at half of the pixel range accuracy stays above chance",
    ),
    "random": Flag(
        measure="random_change", limit=1e-4, meaning="the same input gives other outputs"
    ),
    "stateful": Flag(
        measure="state_change", limit=1e-4, meaning="outputs depend on what was asked before"
    ),
    "probabilities": Flag(
        measure="probabilities", limit=0.5, meaning="outputs are probabilities, not logits"
    ),
    "student-at-chance": Flag(
        measure="behind_teacher",
        limit=0.85,
        meaning="the student is near chance under a good teacher: it has learned next to nothing",
    ),
}


def flags_of(measured: Mapping[str, float], prefix: str = "reliability/") -> list[str]:
    """The names of the flags that metrics such as "reliability/square_gain" raise."""
    return [
        name
        for name, flag in FLAGS.items()
        if measured.get(prefix + flag.measure, 0.0) > flag.limit
    ]

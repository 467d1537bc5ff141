"""Signs that a robust accuracy is too good: rules over what `guard.robustness.reliability`
measures.

After Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (arXiv 1802.00420), and
Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """Raised where the measured value is above the limit."""

    measure: str
    limit: float
    meaning: str


FLAGS: Mapping[str, Flag] = {
    "vanishing-gradient": Flag(
        "zero_gradients", 0.1, "the input gradient of many samples is zero in float32"
    ),
    "black-box-wins": Flag(
        "square_gain", 0.03, "a short Square attack breaks what the gradient attack leaves"
    ),
    "transfer-wins": Flag(
        "transfer_gain", 0.03, "another model's adversarial examples break what it leaves"
    ),
    "restarts-help": Flag("restart_gain", 0.1, "restarting PGD breaks many more samples"),
    "large-eps-survivors": Flag(
        "large_eps_excess", 0.0, "at half of the pixel range accuracy stays above chance"
    ),
    "random": Flag("random_change", 1e-4, "the same input gives other outputs"),
    "stateful": Flag("state_change", 1e-4, "outputs depend on what was asked before"),
    "probabilities": Flag("probabilities", 0.5, "outputs are probabilities, not logits"),
}


def flags_of(measured: Mapping[str, float], prefix: str = "reliability/") -> list[str]:
    """The names of the flags that metrics such as "reliability/square_gain" raise."""
    return [
        name
        for name, flag in FLAGS.items()
        if measured.get(prefix + flag.measure, 0.0) > flag.limit
    ]

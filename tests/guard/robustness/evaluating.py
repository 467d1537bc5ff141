"""Evaluations of the victim, and how two sets of verdicts are compared."""

from __future__ import annotations

from typing import Any

import torch

from guard.config import EvaluationConfig
from guard.robustness.verdicts import Verdicts


def config(victim: Any, **changes: Any) -> EvaluationConfig:
    return EvaluationConfig(**{"eps": victim.eps, "attacks": ("pgd5",), **changes})


def assert_same(found: Verdicts, expected: Verdicts) -> None:
    assert torch.equal(found.clean, expected.clean)
    for mine, other in (
        (found.survived, expected.survived),
        (found.distances, expected.distances),
    ):
        assert set(mine) == set(other)
        for key in mine:
            assert mine[key].dtype == other[key].dtype and torch.equal(mine[key], other[key])

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attacking import QUERIES

import guard.robustness.attacks


@pytest.fixture
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at single attacks."""
    monkeypatch.setattr(guard.robustness.attacks, "SQUARE_QUERIES", QUERIES)
    monkeypatch.setattr(guard.robustness.attacks, "AUTOATTACK_STEPS", 5)


@pytest.fixture(scope="module")
def cheap_attacks() -> Iterator[None]:
    """For a file of whole evaluations: small budgets, and a cw that breaks the victim."""
    values = {"SQUARE_QUERIES": 40, "AUTOATTACK_STEPS": 5}
    values |= {"CW_C": 5, "CW_LR": 0.05, "CW_STEPS": 40}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(guard.robustness.attacks, name, value)
        yield

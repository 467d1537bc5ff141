"""What is said of an MLflow that refuses: one line, without passwords."""

from __future__ import annotations

from guard.errors import StudyError
from tune.uris import redacted


def refusal(uri: str, why: str) -> StudyError:
    """A place that cannot be used, and why."""
    return StudyError(f"MLflow at {redacted(uri)} {why}")

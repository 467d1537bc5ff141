"""What is said of an MLflow that refuses: one line, without passwords."""

from __future__ import annotations

from guard.errors import StudyError
from tune.causes import causes
from tune.uris import redacted


def refusal(uri: str, why: str) -> StudyError:
    """A place that cannot be used, and why."""
    return StudyError(f"MLflow at {redacted(uri)} {why}")


def first_line(error: BaseException) -> str:
    """What an error says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redacted(lines[0]) if lines else type(error).__name__


def reason(error: BaseException) -> str:
    """What an error comes from: "[Errno 111] Connection refused"."""
    *_, origin = causes(error)
    return first_line(origin)

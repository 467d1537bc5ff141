"""What an error comes from, behind those that wrap it."""

from __future__ import annotations

from collections.abc import Iterator

from tune.uris import redacted


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, the origin last: Ray wraps one as its `cause`,
    SQLAlchemy as its `orig`, Python as `__cause__` or `__context__`."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = _wrapped(link) or link.__cause__ or link.__context__


def unwrapped(error: BaseException) -> BaseException:
    """What a stage or a trial raised, of an error that Ray may have wrapped, maybe twice."""
    while (cause := _wrapped(error)) is not None:
        error = cause
    return error


def first_line(error: BaseException) -> str:
    """What an error says first, without passwords."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redacted(lines[0]) if lines else type(error).__name__


def reason(error: BaseException) -> str:
    """What an error comes from: "[Errno 111] Connection refused"."""
    *_, origin = causes(error)
    return first_line(origin)


def _wrapped(error: BaseException) -> BaseException | None:
    inner = getattr(error, "cause", None) or getattr(error, "orig", None)
    return inner if isinstance(inner, BaseException) and inner is not error else None

"""JSON as it may be found: empty, half, foreign, or absurd."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_DEPTH = 50


def parse_json(text: str) -> Any:
    """The value. Raises ValueError, with a reason that ends a sentence, for what is no JSON (NaN
    is none), for a name that an object has twice, and for more than 50 levels."""
    if not text.strip("\0 \t\r\n"):
        raise ValueError("it is empty")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        level, depth = [child for parent in level for child in _children(parent)], depth + 1
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and ValueError, with a reason, for a file without
    one."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has {name!r} twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

"""A configuration in words: where a penalty acts, the penalty, and what else sets it apart.

The one wording of run names, progress, reports and tables, such as
"sre2l, IPC 10, curvature (λ = 0.3, h = 0.1), seed = 1".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from guard.config import RegularizerConfig, radius_text
from guard.trial import TrialConfig

IN_TITLE = (
    "method",
    "given.path",
    "ipc",
    "regularizer",
    "regularizer.kind",
    "regularizer.weight",
    "regularizer.h",
)
"""Fields that a title says in words of their own."""

SIGNS = {"weight": "λ", "h": "h"}
"""Numbers of a regularizer that have a column, or a sign, of their own."""

STUDENTS = "student.regularizer."
"""Fields that are said in the words of a penalty."""
Field = tuple[str, str]
"""The kind of regularizer that a field is of, "" for any other field, and its path."""


def title(config: TrialConfig, params: Mapping[str, Any] | None = None) -> str:
    """The configuration in words.

    params: what sets it apart in its study, by path; what the title says anyway is left out.
    """
    said = ("regularizer",) if attacks(config.regularizer) else ()
    others = {
        path: value
        for path, value in (params or {}).items()
        if path not in IN_TITLE and not _within(path, said)
    }
    return joined(place(config), penalty(config.regularizer), settings(others))


def joined(*parts: str) -> str:
    """The parts that say something, with commas."""
    return ", ".join(filter(None, parts))


def place(config: TrialConfig) -> str:
    """Where the penalty acts: "sre2l, IPC 10", or the method alone where nothing is distilled."""
    return f"{method(config)}, IPC {config.ipc}" if config.distils else method(config)


def method(config: TrialConfig) -> str:
    """The method, and what it is of: "sre2l", "given set.npz"."""
    return f"{config.method} {config.own.title}".rstrip()


def penalty(regularizer: RegularizerConfig) -> str:
    """The regularizer with the numbers that it reads: "curvature (λ = 0.3, h = 0.1)", "none"; an
    attack also with what sets it apart from a named one: "pgd-at (steps = 3, eps = 2/255)"."""
    read = numbers(regularizer)
    signs = [f"{SIGNS[name]} = {value:.3g}" for name, value in read.items() if value is not None]
    title = regularizer.title
    if attacks(regularizer):
        title, apart = regularizer.nearest
        signs += [f"{name} = {_field(name, apart[name])}" for name in sorted(apart.keys() - SIGNS)]
    return title + (f" ({', '.join(signs)})" if signs else "")


def attacks(regularizer: RegularizerConfig) -> bool:
    """Whether its words say all of its fields."""
    return regularizer.active and regularizer.attacks


def _field(name: str, value: Any) -> str:
    return radius_text(value) if name == "eps" and value is not None else number(value)


def numbers(regularizer: RegularizerConfig) -> dict[str, float | None]:
    """λ and h, as fields are named; None for one that is not read."""
    used = regularizer.fields_used() if regularizer.active else frozenset()
    return {name: getattr(regularizer, name) if name in used else None for name in SIGNS}


def settings(fields: Mapping[str, Any]) -> str:
    """Fields by path: "sre2l.bn_weight = 0.1, seed = 1"."""
    return ", ".join(f"{path} = {number(value)}" for path, value in fields.items())


def number(value: Any) -> str:
    """A float with four digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def told_apart(configs: Sequence[TrialConfig], said: Collection[str] = ()) -> list[str]:
    """Of each config, in words, the fields without words of their own in which the configs differ,
    where they are not as usual (`usual`). said: fields and sections that have words elsewhere."""
    fields = {own: found for own, found in varied(configs).items() if not _within(own[1], said)}
    expected = usual(fields)
    return [
        settings(
            {
                path: value
                for (kind, path), value in read_fields(config).items()
                if (kind, path) in fields and json.dumps(value) != expected.get((kind, path))
            }
        )
        for config in configs
    ]


def _within(path: str, sections: Collection[str]) -> bool:
    return any(path == own or path.startswith(f"{own}.") for own in sections)


def elsewhere(configs: Sequence[TrialConfig]) -> str:
    """What holds where `told_apart` says nothing else, as a sentence; "" for nothing."""
    values = {path: json.loads(text) for (_, path), text in usual(varied(configs)).items()}
    return f"Where nothing else is said: {settings(values)}." if values else ""


def usual(fields: Mapping[Field, Counter[str]]) -> dict[Field, str]:
    """The value (as JSON) that more than two thirds of those who read a varied field have."""
    found = {}
    for name, counts in fields.items():
        text, count = counts.most_common(1)[0]
        if 3 * count > 2 * counts.total():
            found[name] = text
    return found


def varied(configs: Sequence[TrialConfig]) -> dict[Field, Counter[str]]:
    """Fields without words of their own in which configs that read them differ, and how many have
    which value (as JSON)."""
    counts: dict[Field, Counter[str]] = {}
    for config in configs:
        for name, value in read_fields(config).items():
            counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {k: found for k, found in counts.items() if len(found) > 1 and k[1] not in IN_TITLE}


def read_fields(config: TrialConfig) -> dict[Field, Any]:
    """What a trial of this config reads, as far as its regularizer decides it, and the
    regularizer's name does not say it."""
    regularizer, prefix = config.regularizer, "regularizer."
    is_plain = (
        regularizer.active and regularizer.title == regularizer.kind and not regularizer.attacks
    )
    used = regularizer.fields_used() if is_plain else frozenset()
    found: dict[Field, Any] = {}
    for path, value in config.flat().items():
        if path.startswith(STUDENTS):
            found["", STUDENTS.rstrip(".")] = penalty(config.student.regularizer)
        elif path.startswith("labels.") and not config.is_taught:
            continue
        elif not path.startswith(prefix):
            found["", path] = value
        elif path.removeprefix(prefix) in used:
            found[regularizer.kind, path] = value
    return found

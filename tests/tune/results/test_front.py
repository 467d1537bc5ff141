from __future__ import annotations

import random

import pytest

from builders import configured, record
from tune.results.front import Controls, choose, control_of, pareto_front
from tune.results.records import Record


def drawn(count: int, seed: int) -> list[Record]:
    """Trials on a coarse grid of accuracies, so that many are equal; a third are controls."""
    generator = random.Random(seed)
    found = []
    for number in range(count):
        control = generator.random() < 0.3
        ipc, crop = generator.choice((1, 10)), generator.choice(("none", "image", "never"))
        clean, robust = generator.randrange(6) / 6, generator.randrange(6) / 6
        found.append(
            record(
                number,
                clean,
                robust,
                configured({"ipc": ipc}, control=control),
                params={"ipc": ipc, "sre2l.crop": crop, "regularizer.h": generator.random()},
                status=generator.choice(("complete",) * 4 + ("failed",)),
            )
        )
    generator.shuffle(found)
    return found


def beats(a: Record, b: Record) -> bool:
    pairs = list(zip(a.objectives, b.objectives, strict=True))
    return all(x >= y for x, y in pairs) and a.objectives != b.objectives


@pytest.mark.parametrize("seed", range(20))
def test_the_front_the_controls_and_the_choice_are_as_they_are_defined(seed: int) -> None:
    records = drawn(60, seed)
    complete = [r for r in records if r.status == "complete"]
    front = [r for r in complete if not any(beats(other, r) for other in complete)]
    assert pareto_front(records) == sorted(
        front, key=lambda r: (-r.objectives[0], -r.objectives[1], r.trial)
    )
    controls = Controls(records)
    for one in records:
        group = [r for r in complete if r.control and r.group == one.group]
        same = [r for r in group if r.unregularized == one.unregularized]
        best = max(same or group, key=lambda r: (r.objectives[1], -r.trial), default=None)
        assert controls.of(one) == control_of(one, records) == best
    allowed = [
        r
        for r in complete
        if (control := controls.of(r)) and r.objectives[0] >= control.objectives[0] - 0.2
    ]
    assert choose(records, 0.2) == max(
        allowed, key=lambda r: (r.objectives[1], r.objectives[0], -r.trial), default=None
    )


def test_nothing_has_no_front() -> None:
    assert pareto_front([]) == [] and choose([], 0.1) is None

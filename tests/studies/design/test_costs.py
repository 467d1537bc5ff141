"""What distilling takes, from what records and the timeline say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import configured, judged, planned
from guard.stage import closure
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from studies.design.costs import Purposes, distilling
from tune.results.comparison import compare
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.timeline import FILE, Span, append

SECONDS = {"squeeze": 8.0, "expert": 4.0, "recover": 2.0, "distilled": 0.5, "student": 1.0}
"""By the name of a stage; all others take 0.25."""


def results(root: Path, *configs: dict[str, Any]) -> Results:
    folder = StudyFolder(root, "s")
    folder.path.mkdir(parents=True)
    records = []
    for number, fields in enumerate(configs):
        config = configured({"evaluation.splits": ["test"], "regularizer": "none", **fields})
        stages = tuple(
            {"name": s.name, "key": s.key, "seconds": seconds(s.name), "built": True}
            for s in closure(TrialStages.of(config).student)
        )
        records.append(judged(root, planned(number, config), 0.9, 0.3, stages=stages))
    return Results(folder=folder, records=records, comparisons=compare(records))


def seconds(name: str) -> float:
    return SECONDS.get(name, 0.25)


@pytest.mark.parametrize(
    ("method", "networks", "images"),
    [("sre2l", {"squeeze"}, {"recover"}), ("mtt", {"expert"}, {"trajectory-matching"})],
)
def test_every_stage_up_to_the_student_has_one_purpose(
    method: str, networks: set[str], images: set[str]
) -> None:
    config = TrialConfig().unregularized().override({"method": method})
    found = Purposes.of(config)
    names = [{address.partition("/")[0] for address in own} for own in found.in_order]
    assert names[0] == networks and names[1] == images | {"distilled"} and "student" in names[2]
    stages = list(closure(TrialStages.of(config).student))
    assert len(stages) == sum(map(len, found.in_order))


def test_the_teacher_of_labels_alone_is_not_what_images_take() -> None:
    config = TrialConfig().override({"method": "random", "student.labels": "soft"})
    found = Purposes.of(config)
    assert not found.networks
    assert {"squeeze", "relabel"} <= {address.partition("/")[0] for address in found.after}


def test_a_table_has_a_row_for_each_arm_that_distils(tmp_path: Path) -> None:
    one_part = {"method": "sre2l", "sre2l.chunk": 10}
    found = results(tmp_path, one_part, {"method": "random"}, {"method": "whole"})
    (table,) = distilling(found)
    assert [row[0].partition(",")[0] for row in table.rows] == ["sre2l", "random"]
    assert table.rows[0][1:] == ["8.0", "2.5", "1.2", "–"]
    assert table.rows[1][1:] == ["0.0", "0.8", "1.0", "–"]
    assert distilling(results(tmp_path / "whole", {"method": "whole"})) == []


def test_the_seconds_of_an_arm_are_a_mean_over_its_seeds(tmp_path: Path) -> None:
    found = results(tmp_path, {}, {"seed": 1, "student.seed": 1})
    slower = found.records[1].stages
    twice = tuple({**own, "seconds": 3 * own["seconds"]} for own in slower)
    found.records[1].__dict__["stages"] = twice
    (table,) = distilling(found)
    assert [row[1] for row in table.rows] == ["16.0"]


def test_memory_is_the_most_of_a_worker_in_the_arms_own_stages(tmp_path: Path) -> None:
    found = results(tmp_path, {"method": "sre2l"}, {"method": "random"})
    own = [
        Span(stage=s["name"], key=s["key"], worker="w", start=0, end=1, memory_mib=memory)
        for s, memory in zip(found.records[0].stages, (400.0, 900.0, 500.0), strict=False)
    ]
    other = Span(stage="evaluate", key="x", worker="w", start=0, end=1, memory_mib=5000.0)
    append(found.folder.path / FILE, [*own, other])
    (table,) = distilling(found)
    assert [row[4] for row in table.rows] == ["900", "–"]

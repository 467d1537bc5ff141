"""What the study of samplers makes of a table of trials; tests/tune/test_replay.py replays one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from studies import samplers
from studies.design.study import conclusion
from studies.presets import PRESETS
from tried import RECORDS, SPACE
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.rows import to_csv

SAMPLED = ("random", "auto")
SIZES = (8, 12)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Of a grid that has run, with a few short searches to be replayed."""
    monkeypatch.setattr(samplers, "SAMPLED", SAMPLED)
    monkeypatch.setattr(samplers, "SIZES", SIZES)
    monkeypatch.setattr(samplers, "REPLAYS", 2)
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    penalty = {k: v for k, v in SPACE.base.flat().items() if k.startswith("regularizer.")}
    (folder.path / "study.json").write_text(json.dumps(penalty))
    return Results(folder=folder, records=RECORDS, comparisons=())


def measure(results: Results) -> list[Any]:
    machine: Any = SimpleNamespace(folder=results.folder, say=lambda line: None)
    rows = list(samplers.measure(results, machine))
    results.measured.write_text(to_csv(rows))
    return rows


def test_the_grid_has_eight_of_each_number_and_shows_every_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "POINTS", 8)
    design = samplers.design(PRESETS["digits"]())
    counts = {path: len(values) for path, values in design.axes.items()}
    assert counts["regularizer.weight"] == counts["regularizer.h"] == 8
    assert design.leg.looks and design.leg.whole
    assert design.fixed["evaluation.splits"] == ["validation"]


def test_the_space_that_was_a_grid_is_a_space_again(results: Results) -> None:
    space = samplers.searched(results)
    assert space.distributions["ipc"] == CategoricalDistribution((1, 10))
    weight = space.distributions["regularizer.weight"]
    assert isinstance(weight, FloatDistribution) and weight.log
    assert (weight.low, weight.high) == (0.01, 1.0)
    assert space.base.regularizer == SPACE.base.regularizer


def test_every_search_is_replayed_with_every_seed(results: Results) -> None:
    ends = [row for row in measure(results) if row["kind"] == "end"]
    told = [(r["sampler"], r["trials"], r["reduction"], r["seed"]) for r in ends]
    searches = [(name, size, 1.0) for name in SAMPLED for size in SIZES]
    searches += [("auto", size, factor) for size in SIZES for factor in (2.0, 3.0)]
    assert sorted(told) == sorted((*search, seed) for search in searches for seed in (0, 1))


def test_the_tables_and_the_answer_say_what_was_measured(results: Results) -> None:
    rows = measure(results)
    rungs, found, halving = samplers.tables(results)
    assert [row[0] for row in found.rows] == list(SAMPLED)
    areas = [
        row["hypervolume"]
        for row in rows
        if (row["kind"], row["sampler"], row["trials"], row["reduction"]) == ("end", "auto", 12, 1)
    ]
    assert found.rows[1][2].startswith(f"{sum(areas) / 2:.3f} ± ")
    whole, half, _ = halving.rows[3:]
    assert whole[:2] == ["12", "1"] and whole[4] == "1.00" and float(half[4]) < 1
    assert {row[4] for row in rungs.rows} == {"1.00"}, "the teacher's order is the student's"
    said = conclusion(samplers.STUDY, results)
    assert said.startswith("Area in 12 trials: ") and f"take {half[4]} of the stage-seconds" in said
    assert list(samplers.figures(results)) == ["halving"]


def test_a_curve_never_falls_and_ends_where_the_searches_do(results: Results) -> None:
    rows = measure(results)
    curve = samplers.curve(results, 12, 1.0)
    areas = [area for _, area in curve]
    assert len(curve) == samplers.MOMENTS and areas == sorted(areas)
    ends = [r for r in rows if (r["kind"], r["sampler"], r["trials"]) == ("end", "auto", 12)]
    whole = [row["hypervolume"] for row in ends if row["reduction"] == 1]
    assert areas[-1] == pytest.approx(sum(whole) / 2)
    share = samplers.equal_after(results, 12, 1.0)
    assert share is not None and 0 < share <= 1


def test_before_the_replays_there_is_nothing_to_say(results: Results) -> None:
    assert conclusion(samplers.STUDY, results) == "Nothing can be compared yet."
    assert [table.anchor for table in samplers.tables(results)] == ["rungs"]
    assert samplers.figures(results) == {}

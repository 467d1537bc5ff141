"""Which sampler finds the most, and what does ending hopeless trials early save?

Every trial of a grid over the preset's space is run once, whole and with every look at its teacher.
Searches are then replayed on this table (`tune.replay`): with each sampler, and with each reduction
factor of successive halving. What they find is the area that their complete trials dominate in
clean and robust validation accuracy, of those that the constraint allows.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import optuna
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from guard.trial import TrialConfig
from guard.trial_stages import EVERY_LOOK, rung_of
from studies.design.design import Design
from studies.design.study import Machine, Row, Study, Table
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.distributions import spread
from tune.options import SamplerName, SearchConfig
from tune.planning import SAMPLERS, Plan
from tune.proposer import seen
from tune.replay import Mark, replayed
from tune.replay import Table as TrialTable
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.reading import read_object
from tune.results.records import SEEDS, Record
from tune.results.rows import read_csv
from tune.space import SearchSpace

POINTS = 8
"""Of each numeric field of the preset's space."""
SIZES = (12, 30, 60)
"""Trials of a replayed search, controls included."""
REPLAYS = 10
"""Seeds of the sampler."""
REDUCTIONS = (1.0, 2.0, 3.0)
SLOTS = 2
"""Legs at a time."""
SAMPLED = tuple(name for name in SAMPLERS if name != "grid")
FIGURES = ("robust", "kept", "clean")
"""Of a teacher at a rung."""
MOMENTS = 20
"""Of a replay, for the curves."""


def design(preset: Preset) -> Design:
    axes = {path: spread(distribution, POINTS) for path, distribution in preset.space.items()}
    return Design(axes=axes, settings={"evaluation.splits": ["validation"]}, leg=EVERY_LOOK)


def searched(results: Results) -> SearchSpace:
    """The space that the study's grid is of; its base as study.json says it."""
    records = results.records
    paths = dict.fromkeys(path for record in records for path in record.params)
    distributions: dict[str, BaseDistribution] = {}
    for path in paths:
        values = list(dict.fromkeys(r.params[path] for r in records if path in r.params))
        if path in SEEDS:
            continue
        if isinstance(values[0], float):
            low, high = min(values), max(values)
            distributions[path] = FloatDistribution(low, high, log=low > 0)
        else:
            distributions[path] = CategoricalDistribution(values)
    stated = read_object(results.folder.path / "study.json")
    penalty = {k: v for k, v in stated.items() if k.partition(".")[0] == "regularizer"}
    return SearchSpace(TrialConfig.from_dict(records[0].config).override(penalty), distributions)


def measure(results: Results, machine: Machine) -> Sequence[Row]:
    """Replay the searches: a row for the end of each, and for moments of the default sampler's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = searched(results)
    table = TrialTable(results.records, space)
    nowhere = StudyFolder(machine.folder.path / "replayed", "nothing")

    def search(sampler: SamplerName, trials: int, reduction: float, seed: int) -> list[Mark]:
        plan = Plan(
            folder=nowhere,
            space=space,
            num_trials=trials,
            sampler=sampler,
            seed=seed,
            reduction=reduction,
        )
        return replayed(table, plan, SearchConfig().max_clean_drop, SLOTS)

    rows: list[Row] = []
    wanted = [(sampler, size, 1.0) for sampler in SAMPLED for size in SIZES]
    wanted += [("auto", size, factor) for size in SIZES for factor in REDUCTIONS if factor > 1]
    for sampler, trials, reduction in wanted:
        machine.say(f"replaying {sampler}, {trials} trials, reduction {reduction:g}")
        for seed in range(REPLAYS):
            marks = search(sampler, trials, reduction, seed)
            about = {"sampler": sampler, "trials": trials, "reduction": reduction, "seed": seed}
            rows.append({**about, "kind": "end", **vars(marks[-1])})
            if sampler == "auto":
                rows += [{**about, "kind": "moment", **row} for row in moments(marks)]
    return rows


def moments(marks: Sequence[Mark]) -> Iterator[Row]:
    """What a replay has found at even shares of its stage-seconds."""
    end = marks[-1].stage_seconds
    for number in range(1, MOMENTS + 1):
        now = end * number / MOMENTS
        reached = [mark.hypervolume for mark in marks if mark.stage_seconds <= now]
        yield {"share": number / MOMENTS, "stage_seconds": now, "hypervolume": max([0.0, *reached])}


def rows_of(results: Results, kind: str) -> list[dict[str, str]]:
    return [row for row in read_csv(results.measured) if row["kind"] == kind]


def told(rows: Sequence[Mapping[str, str]], name: str) -> str:
    """Mean ± standard deviation."""
    values = [float(row[name]) for row in rows]
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def samplers_table(results: Results) -> Table:
    ends = [row for row in rows_of(results, "end") if float(row["reduction"]) == 1]
    cells = [
        [
            name,
            *(
                told([r for r in ends if (r["sampler"], int(r["trials"])) == (name, n)], figure)
                for figure in ("hypervolume", "robust")
                for n in SIZES
            ),
        ]
        for name in dict.fromkeys(row["sampler"] for row in ends)
    ]
    return Table(
        anchor="samplers",
        title="What each sampler finds",
        caption=f"Every trial to its end; {REPLAYS} seeds of the sampler, mean ± standard "
        "deviation; of the trials of a search some are its baselines and the preset's own values. "
        "auto, the default: tpe-group with 5 random trials first instead of 10.",
        columns=[
            "sampler",
            *(f"{figure}, {n} trials" for figure in ("area", "robust") for n in SIZES),
        ],
        rows=cells,
    )


def halving_table(results: Results) -> Table:
    ends = [row for row in rows_of(results, "end") if row["sampler"] == "auto"]
    cells = []
    for trials in SIZES:
        own = [row for row in ends if int(row["trials"]) == trials]
        plain = [row for row in own if float(row["reduction"]) == 1]
        for reduction in REDUCTIONS:
            rows = [row for row in own if float(row["reduction"]) == reduction]
            share = seconds(rows) / seconds(plain)
            found = (told(rows, "hypervolume"), told(rows, "robust"), f"{share:.2f}")
            equal = equal_after(results, trials, reduction)
            cells.append([str(trials), f"{reduction:g}", *found, f"{equal:.2f}" if equal else "–"])
    return Table(
        anchor="halving",
        title="What ending trials early saves",
        caption="Of so many trials at a rung one goes on, 1: every trial goes to its end; "
        f"{REPLAYS} seeds of the sampler. Stage-seconds as a share of those without it: of the "
        "search, and until its mean area is what it is at the end without it (–: never).",
        columns=["trials", "reduction", "area", "robust", "stage-seconds", "as good after"],
        rows=cells,
    )


def curve(results: Results, trials: int, reduction: float) -> list[tuple[float, float]]:
    """Stage-seconds, and the mean area that is found by then, of the default sampler's searches."""
    rows = [
        row
        for row in rows_of(results, "moment")
        if (int(row["trials"]), float(row["reduction"])) == (trials, reduction)
    ]
    shares = sorted({float(row["share"]) for row in rows})
    at = [[row for row in rows if float(row["share"]) == share] for share in shares]
    return [(seconds(r), statistics.mean(float(row["hypervolume"]) for row in r)) for r in at]


def equal_after(results: Results, trials: int, reduction: float) -> float | None:
    """The share of the seconds of whole searches after which others have found as much; None:
    never."""
    end, goal = curve(results, trials, 1.0)[-1]
    reached = [now for now, area in curve(results, trials, reduction) if area >= goal]
    return reached[0] / end if reached else None


def seconds(rows: Sequence[Mapping[str, str]]) -> float:
    return statistics.mean(float(row["stage_seconds"]) for row in rows)


def rungs_table(results: Results) -> Table:
    """How well what is seen at a rung ranks what trials come to."""
    from scipy.stats import spearmanr

    groups: dict[tuple[str, int], list[Record]] = {}
    for record in results.records:
        if record.status == "complete" and not record.control:
            groups.setdefault(record.group, []).append(record)
    cells = []
    rungs = {rung_of(metric) for record in results.records for metric in record.metrics}
    for number in sorted(rungs - {0}):
        for (method, ipc), records in groups.items():
            looks = [look for own in records for look in list(seen(own))[number - 1 : number]]
            if len(looks) < len(records):
                continue
            ends = [record.objectives[1] for record in records]
            found = [
                float(spearmanr([getattr(look, figure) for look in looks], ends).statistic)
                for figure in FIGURES
            ]
            about = [str(number), method, str(ipc), str(len(records))]
            cells.append([*about, *(f"{rho:.2f}" for rho in found)])
    return Table(
        anchor="rungs",
        title="What a rung says of a trial's end",
        caption="Spearman's rank correlation of the teacher's validation accuracy at a rung with "
        "the student's robust one at the end, over the grid. kept: of the teacher's right answers, "
        "the share that stays right under attack. Trials go on by robust and kept.",
        columns=["rung", "method", "IPC", "trials", *FIGURES],
        rows=cells,
    )


def tables(results: Results) -> list[Table]:
    made = [rungs_table(results)] if results.records else []
    is_measured = bool(read_csv(results.measured))
    return [*made, samplers_table(results), halving_table(results)] if is_measured else made


def figures(results: Results) -> Mapping[str, Figure]:
    """What is found over the seconds, with halving and without."""
    if not rows_of(results, "moment"):
        return {}
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for reduction, style in zip(REDUCTIONS, ("-", "--", ":"), strict=True):
        label = "every trial whole" if reduction == 1 else f"one of {reduction:g} goes on"
        axes.plot(*zip(*curve(results, SIZES[-1], reduction), strict=True), style, label=label)
    axes.set_xlabel(f"stage-seconds, mean of {REPLAYS} searches of {SIZES[-1]} trials")
    axes.set_ylabel("dominated area of clean x robust accuracy")
    axes.legend(fontsize=8)
    return {"halving": figure}


def answer(results: Results) -> str:
    ends = rows_of(results, "end")
    if not ends:
        return "Nothing is replayed yet."
    most = SIZES[-1]
    found = {
        name: statistics.mean(
            float(row["hypervolume"])
            for row in ends
            if (row["sampler"], int(row["trials"]), float(row["reduction"])) == (name, most, 1.0)
        )
        for name in dict.fromkeys(row["sampler"] for row in ends)
    }
    ranked = sorted(found, key=lambda name: -found[name])
    order = ", ".join(f"{name} {found[name]:.3f}" for name in ranked)
    halved = halving_table(results).rows[-2]
    return (
        f"Area in {most} trials: {order}. When one of two trials goes on from a rung, {most} "
        f"trials take {halved[-2]} of the stage-seconds and find {halved[2]}."
    )


STUDY = Study(
    name="samplers",
    question="Which sampler finds the most, and what does ending hopeless trials early save?",
    source="",
    design=design,
    measure=measure,
    figures=figures,
    answer=answer,
    tables=tables,
    seeds=1,
)


if __name__ == "__main__":
    run_command(STUDY)

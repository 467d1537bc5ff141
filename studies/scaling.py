"""How accuracy grows with images per class and network width, and throughput with workers."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guard.errors import StudyError
from guard.robustness.measures import CLEAN, ROBUST, Measure
from guard.trial import TrialConfig
from studies.design.design import Design
from studies.design.study import Machine, Row, Study, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from studies.reporting.powerlaw import PowerLaw, fit
from tune.results.comparison import Comparison
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.records import SEEDS, Record
from tune.results.rows import read_csv
from tune.results.statistics import Estimate
from tune.results.wording import joined, penalty, told_apart
from tune.runs import Run, run_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IPCS = (1, 2, 5, 10, 20)
WIDTHS = (0.25, 0.5, 1.0)
"""Factors of the preset's width, at its IPC."""
AXES = {"ipc": "images per class", "width": "channels"}
MEASURED = (CLEAN, ROBUST)
TARGETS = (0.9, 0.95)
TRIALS_A_WORKER = 3
PLAIN: Mapping[str, Any] = {
    "method": "random",
    "regularizer": "none",
    "evaluation.diagnose": False,
    "labels": {},
    "student.labels": "hard",
    "student.regularizer": "none",
    "student.learned_lr": False,
    "student.hard_epochs": 0,
}
"""Students on real images, whatever else the study is of."""


def design(preset: Preset) -> Design:
    model = preset.config.model
    factors = WIDTHS if model.reads_width else ()
    ipcs = [{"ipc": ipc} for ipc in IPCS]
    widths = [
        {"model.width": max(1, round(f * model.width)), "ipc": preset.config.ipc} for f in factors
    ]
    return Design(axes={}, variants=[*ipcs, *widths], settings=confirmed(preset, method="sre2l"))


Curve = dict[tuple[str, str], list[Comparison]]


def curves(results: Results) -> Curve:
    """(axis, what is the same along it) -> the arms, ascending. The axes cross at the most usual
    width, and at the IPC of the others."""
    if not results.comparisons:
        return {}
    configs = [comparison.arm.config for comparison in results.comparisons]
    widths = [config.model.width for config in configs]
    usual = max(set(widths), key=widths.count)
    crossing = {config.ipc for config in configs if config.model.width != usual}
    found: Curve = {}
    for name, comparison in zip(names(configs), results.comparisons, strict=True):
        config = comparison.arm.config
        if config.model.width == usual:
            found.setdefault(("ipc", name), []).append(comparison)
        if config.ipc in crossing:
            found.setdefault(("width", name), []).append(comparison)
    return {key: sorted(arms, key=lambda c: size(key[0], c)) for key, arms in found.items()}


def names(configs: Sequence[TrialConfig]) -> list[str]:
    """Each in words, without its IPC and width: the penalty, and what else differs."""
    settings = told_apart(configs, ("model.width",))
    one_method = len({config.method for config in configs}) == 1
    return [
        joined("" if one_method else config.method, penalty(config.regularizer), text)
        for config, text in zip(configs, settings, strict=True)
    ]


def size(axis: str, comparison: Comparison) -> int:
    config = comparison.arm.config
    return config.ipc if axis == "ipc" else config.model.width


def laws(results: Results) -> dict[tuple[str, str, Measure], PowerLaw]:
    """(axis, arm, measure) -> the law of the error, where there are points enough."""
    found = {}
    for (axis, arm), arms in curves(results).items():
        for measure in MEASURED:
            points = [
                (float(size(axis, comparison)), 1 - accuracy)
                for comparison in arms
                for accuracy in comparison.arm.accuracies(measure)
            ]
            sizes = {size(axis, comparison) for comparison in arms}
            if len(sizes) > 1 and len(points) > 2:
                found[axis, arm, measure] = fit(points, arms[0].clean.num_samples)
    return found


def measure(results: Results, machine: Machine) -> Sequence[Row]:
    """Trials per minute with 1, 2, 4, … workers: students on real images, none of them cached."""
    from guard.data.datasets import load_data  # it imports torch

    config = TrialConfig.from_dict(results.records[0].config)
    ipc = min(10, load_data(config.data).smallest_class)
    config = config.override({**PLAIN, "ipc": ipc})
    slots = machine.stages_at_a_time
    counts = [2**power for power in range(slots.bit_length())]
    scratch = StudyFolder(machine.folder.path / f"throughput-{os.getpid()}", "trials")
    done, rows = 0, []
    try:
        with machine.at(scratch) as runner:
            for workers in counts:
                machine.say(f"throughput with {workers} workers")
                for trials in (workers, workers * TRIALS_A_WORKER):  # the first warm them up
                    runs = [uncached(config, done + number) for number in range(trials)]
                    start = time.perf_counter()
                    run_all(scratch, runs, runner, workers, check_finished, lambda: None)
                    seconds = time.perf_counter() - start
                    done += trials
                rows.append(
                    {"workers": workers, "trials": trials, "trials_a_minute": 60 * trials / seconds}
                )
    finally:
        shutil.rmtree(scratch.output, ignore_errors=True)
    return rows


def check_finished(record: Record) -> None:
    """Raises StudyError for a trial that failed, whose time says nothing."""
    if not record.finished:
        raise StudyError(f"throughput cannot be measured: a trial has failed ({record.reason})")


def uncached(config: TrialConfig, seed: int) -> Run:
    """A trial with a seed of its own, of which nothing is there yet."""
    own = config.override(dict.fromkeys(SEEDS, seed))
    return Run(trial=seed, config=own, params={}, control=True)


def figures(results: Results) -> Mapping[str, Figure]:
    if not results.comparisons:
        return throughput_figure(results)
    return {"scaling": growth_figure(results), **throughput_figure(results)}


def growth_figure(results: Results) -> Figure:
    """Errors against size with their laws: rows clean and robust, columns IPC and width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from studies.reporting.figures import draw_line

    figure = Figure(figsize=(9, 7), dpi=150, layout="constrained")
    grid = figure.subplots(2, 2, squeeze=False)
    found, fitted = curves(results), laws(results)
    for column, (axis, label) in enumerate(AXES.items()):
        for row, measure in enumerate(MEASURED):
            axes = grid[row, column]
            own = [(arm, arms) for (where, arm), arms in found.items() if where == axis]
            for number, (arm, arms) in enumerate(own):
                sizes = [float(size(axis, comparison)) for comparison in arms]
                errors = [one_minus(comparison.found[measure]) for comparison in arms]
                law = fitted.get((axis, arm, measure))
                slope = f", α = {law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]" if law else ""
                draw_line(axes, sizes, errors, number, "", f"{arm}{slope}")
                if law:
                    axes.plot(sizes, [law.error(n) for n in sizes], f"C{number}--", lw=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = sorted({size(axis, comparison) for _, arms in own for comparison in arms})
            axes.set_xticks(ticks, map(str, ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(label if axis == "ipc" else f"network width ({label})")
            axes.set_ylabel(f"{measure.heading} error (share of images)")
            axes.grid(alpha=0.3, which="both")
            if own:
                axes.legend(fontsize=7)
    figure.suptitle(f"{results.caption}\nerror = c·n^(−α), 95 % intervals", fontsize=9)
    return figure


def one_minus(found: Estimate) -> Estimate:
    """The error of an accuracy."""
    return replace(found, mean=1 - found.mean, low=1 - found.high, high=1 - found.low)


def throughput_figure(results: Results) -> Mapping[str, Figure]:
    """Measured trials a minute beside a straight line through the first; none before it is."""
    from matplotlib.figure import Figure

    rows = read_csv(results.measured)
    if not rows:
        return {}
    workers = [int(row["workers"]) for row in rows]
    speeds = [float(row["trials_a_minute"]) for row in rows]
    figure = Figure(figsize=(4.8, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(workers, speeds, "o-", label="measured")
    axes.plot(workers, [speeds[0] * n / workers[0] for n in workers], "k:", lw=1, label="linear")
    axes.set_xticks(workers)
    axes.set_xlabel("workers")
    axes.set_ylabel("trials a minute (nothing cached)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return {"throughput": figure}


def answer(results: Results) -> str:
    parts = []
    for (axis, arm, measure), law in laws(results).items():
        slope = f"{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"
        text = f"{measure.heading} error falls as {axis}^-{slope}"
        needs = ", ".join(says(law, target, AXES[axis]) for target in TARGETS)
        parts.append(f"{arm}: {text} ({needs})")
    return "; ".join(parts) + "." if parts else "Too few trials for a law."


def says(law: PowerLaw, target: float, axis: str) -> str:
    needed = law.needed(1 - target)
    where = f"at about {needed:.0f}" if needed is not None else "too far off to say at how many"
    if law.error(law.smallest) <= 1 - target:
        where = f"at {law.smallest:.0f} or fewer"
    return f"{target:.0%} {where} {axis}"


STUDY = Study(
    name="scaling",
    question="How do clean and robust accuracy grow with images per class and network width?",
    source="the scaling study",
    design=design,
    figures=figures,
    answer=answer,
    measure=measure,
)


if __name__ == "__main__":
    run_command(STUDY)

"""What a step costs: training with each regularizer, matching gradients, mean features or
trajectories, recovering images.

Every step of a group takes its turn in every round; a table gives the median time, the median
ratio to the group's first step, the work in forward passes of the batch (from counted FLOPs), and
the peak of the memory that the step allocates. On images of noise: the cost does not depend on
what they show.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table as ConsoleTable

from guard.device import setup, threads
from guard.errors import StudyError
from studies.bench.distilling_steps import (
    distribution_matching,
    recovery,
    scoring,
    taught,
    trajectories,
)
from studies.bench.measuring import measure
from studies.bench.training_steps import PRESETS_OWN, WHOLE, Bench
from studies.design.about import About, claim
from studies.design.study import Story, Table
from studies.driver import flags
from studies.driver.checks import on_device
from studies.driver.request import settled
from studies.driver.settings import search_space
from studies.reporting.console import Terminal
from studies.reporting.page import publish
from tune.copies import brought
from tune.places import held
from tune.results.findings import Results
from tune.results.folder import write_atomically
from tune.results.rows import read_csv, to_csv
from tune.results.tables import as_markdown
from tune.tracking.opening import open_store

LONG = 5
"""How many times as many student steps MTT's long walk has as its short one."""


def parser() -> argparse.ArgumentParser:
    parser = flags.command_parser("overhead", __doc__)
    flags.add_config_flags(parser)
    flags.add_output_flags(parser)
    flags.add_tracking_flag(parser)
    parser.set_defaults(name="overhead")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", metavar="N", help="default: squeeze.batch_size"
    )
    parser.add_argument(
        "--image-size", type=int, nargs="+", default=[32], metavar="SIDE", help="default: 32"
    )
    parser.add_argument("--student-steps", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured")
    return parser


def main(argv: Sequence[str]) -> int:
    """Measure every step, and write what it costs. Raises UserError."""
    args = flags.parsed(parser(), argv)
    numbers = [*args.image_size, *(args.batch_size or []), args.student_steps, args.rounds]
    if min(numbers) < 1:
        raise StudyError(f"sizes, steps and rounds must be at least 1, got {min(numbers)}")
    request, console = settled(args), Terminal()
    config = search_space(request.preset, request.settings, request.data).base
    config = on_device(config, request.device)
    sizes = [
        (side, batch_size)
        for side in args.image_size
        for batch_size in args.batch_size or [config.squeeze.batch_size]
    ]
    benches = [Bench(config, side, batch_size) for side, batch_size in sizes]
    steps = ", ".join(("a plain step", PRESETS_OWN, *WHOLE))
    work = f"{args.rounds} rounds of {steps} …"
    if request.dry_run:
        for bench in benches:
            console.print(f"{bench.title}: {work}")
        return 0
    folder, about = request.folder, About(study=STORY.name, command=request.command)
    with held(folder.path), brought(folder):
        store = open_store(request.tracking_uri, folder, request.options.tracking)
        claim(folder, about, config, {"sizes": str(sizes)})
        rows: list[dict[str, Any]] = []
        setup(config.compute)
        with threads(config.compute.num_threads):
            for bench in benches:
                console.print(f"{bench.title}: {work}")
                found = rows_of(bench, args.student_steps, args.rounds)
                console.print_table(as_table(found, bench.title))
                rows += found
        write_atomically(folder.path / "overhead.csv", to_csv(rows))
        write_atomically(folder.path / "overhead.md", markdown(rows))
        publish(console, STORY, folder, about, store)
    return 0


def rows_of(bench: Bench, student_steps: int, rounds: int) -> list[dict[str, Any]]:
    """One row a step, group by group."""
    own = bench.config
    groups = {
        "training step": (own.model, bench.training()),
        "DC's matching step": (own.dc.model, bench.gradient_matching()),
        "distribution matching": (own.dm.model, distribution_matching(bench)),
        "MTT's gradient": (own.mtt.model, trajectories(bench, student_steps, LONG * student_steps)),
        "RDED's scores": (own.model, scoring(bench)),
        "student's step": (own.student_model, taught(bench)),
    }
    if own.model.has_batchnorm:
        groups["SRe2L's recovery step"] = (own.model, recovery(bench))
    return [
        bench.row(group, name, cost, bench.forward(model))
        for group, (model, computations) in groups.items()
        for name, cost in measure(computations, rounds, bench.device).items()
    ]


def measured(results: Results) -> list[dict[str, str]]:
    return read_csv(results.folder.path / "overhead.csv")


def figures(results: Results) -> Mapping[str, Figure]:
    """Time of each step relative to its group's first, and its peak memory."""
    rows = measured(results)
    if not rows:
        return {}
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(rows)), dpi=150, layout="constrained")
    for axes, (column, label, decimals) in zip(
        figure.subplots(1, 2, sharey=True),
        [("ratio", "time / that of the group's first step", 2), ("peak_mebibytes", "peak MiB", 0)],
        strict=True,
    ):
        values = [float(row[column]) for row in rows]
        axes.barh(range(len(rows)), values, color="C0", hatch="//", edgecolor="white")
        for row, value in enumerate(values):
            axes.annotate(f" {value:,.{decimals}f}", (value, row), va="center", fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.15)
        names = [f"{row['step']} ({row['group']}, {size(row)})" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    return {"overhead": figure}


def tables(results: Results) -> list[Table]:
    rows = [[size(row), *cells(row)] for row in measured(results)]
    if not rows:
        return []
    caption = (
        "Medians over interleaved rounds; ratio to the group's first step; work from counted "
        "FLOPs, in forward passes of the batch; peak of the memory that the step allocates. "
        "Published (Table 4, one A100, batch 32): GUARD 0.007 s and 3,851 MiB, embedded "
        "adversarial training 2.198 s and 4,211 MiB an iteration."
    )
    return [
        Table(
            anchor="costs",
            title="Every step",
            caption=caption,
            columns=["size", *COLUMNS],
            rows=rows,
        )
    ]


def size(row: Mapping[str, Any]) -> str:
    return f"{row['image_size']} px, batch {row['batch_size']}"


def answer(results: Results) -> str:
    told = (PRESETS_OWN, "curvature", "pgd-at", "pgd-at, 10 steps", "pgd-at, ls-pgd")
    steps = [row for row in measured(results) if row["step"] in told]
    ratios = [
        f"{row['step']} takes {float(row['ratio']):.1f} times as long as a plain step "
        f"({float(row['forward_passes']):.1f} forward passes; {size(row)}, {row['device']})"
        for row in steps
    ]
    if not ratios:
        return "Nothing is measured yet."
    return f"A training step with {'; with '.join(ratios)}."


STORY = Story(
    name="overhead",
    question="What does a step cost with each regularizer, in time and memory?",
    source="GUARD, Tables 4 and 7",
    after=("4", "7"),
    figures=figures,
    answer=answer,
    tables=tables,
)


COLUMNS = ("group", "step", "ms", "ratio", "forward passes", "peak MiB")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the tables for people."""
    return [
        row["group"],
        row["step"],
        f"{float(row['milliseconds']):.1f}",
        f"{float(row['ratio']):.2f}",
        f"{float(row['forward_passes']):.1f}",
        f"{float(row['peak_mebibytes']):.1f}",
    ]


def as_table(rows: Sequence[Mapping[str, Any]], title: str) -> ConsoleTable:
    table = ConsoleTable(title=title)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right")
    for number, row in enumerate(rows):
        new_group = number == 0 or rows[number - 1]["group"] != row["group"]
        if new_group:
            table.add_section()
        group, *others = cells(row)
        table.add_row(group if new_group else "", *others)
    return table


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    named = [[f"{size(row)}, {row['device']}", *cells(row)] for row in rows]
    return as_markdown((["size", *COLUMNS], named))


if __name__ == "__main__":
    flags.run(main)

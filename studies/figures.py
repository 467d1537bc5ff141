"""Pictures of a study, readable in print and without colour."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tune.records import OBJECTIVES, Record, choose, pareto_front

MARKERS = "os^Dv<>P*X"
"""One for each method and IPC."""


def pareto_figure(records: list[Record], max_clean_drop: float) -> Figure:
    """Every complete trial by clean and robust validation accuracy: filled markers are
    regularized, hollow ones are the unregularized baselines; the line is the Pareto front."""
    complete = [record for record in records if record.status == "complete"]
    groups = sorted({record.group for record in complete})
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    front = pareto_front(complete)
    axes.step(*_points(front), where="post", color="0.6", lw=1, label="Pareto front", zorder=1)
    for number, (method, ipc) in enumerate(groups):
        marker, color = MARKERS[number % len(MARKERS)], f"C{number}"
        for control in (False, True):
            chosen = [r for r in complete if r.group == (method, ipc) and r.control == control]
            if not chosen:
                continue
            kind = "unregularized" if control else "regularized"
            axes.scatter(
                *_points(chosen),
                marker=marker,
                s=70 if control else 36,
                facecolors="none" if control else color,
                edgecolors=color,
                linewidths=1.6,
                label=f"{method}, IPC {ipc}, {kind}",
                zorder=2,
            )
    flagged = [record for record in complete if record.flags]
    if flagged:
        label = "evaluation unreliable"
        axes.scatter(*_points(flagged), marker="x", s=90, color="black", label=label, zorder=3)
    best = choose(records, max_clean_drop)
    if best is not None:
        clean, robust = best.objectives
        axes.annotate(
            f"chosen (trial {best.trial})",
            (clean, robust),
            xytext=(-40, -6),
            textcoords="offset points",
            ha="right",
            arrowprops={"arrowstyle": "->"},
        )
    if complete:
        samples = int(complete[0].metrics["validation/num_samples"])
        eps = complete[0].config["evaluation"]["eps"]
        attacks = ", ".join(complete[0].config["evaluation"]["attacks"])
        axes.set_title(
            f"{complete[0].config['data']['name']}: {len(complete)} students on {samples} "
            f"validation images\n{attacks}, L∞ eps {eps:.4g}",
            fontsize=10,
        )
    axes.set_xlabel("clean accuracy (share of images)")
    axes.set_ylabel("robust accuracy (share of images)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _points(records: list[Record]) -> tuple[list[float], list[float]]:
    clean, robust = OBJECTIVES
    return [r.metrics[clean] for r in records], [r.metrics[robust] for r in records]


def save_png(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))

"""The loss around real samples, without GUARD's penalty and with it: is its reason at work?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.numpy import load_file

from guard.artifacts import ArtifactStore, Stage
from guard.config import TrialConfig
from guard.landscape import landscape_stages
from studies import cli, command
from studies.design import Design
from studies.figures import MARKERS
from studies.presets import Preset
from studies.study import Results, Row, Study, Table, confirmed
from tune.comparison import penalty_text
from tune.folder import read_csv

if TYPE_CHECKING:
    from studies.session import Session


def design(preset: Preset) -> Design:
    return Design({"method": ("sre2l",)}, settings=confirmed(preset))


def stages(results: Results) -> Iterator[tuple[Mapping[str, str | int], Stage]]:
    """(method, IPC, penalty, model, seed) and the stage that measures it."""
    for comparison in results.comparisons:
        for record in comparison.arm.records.values():
            config = TrialConfig.from_dict(record.config)
            for part, stage in landscape_stages(config).items():
                facts = {
                    "method": config.method,
                    "ipc": config.ipc,
                    "penalty": penalty_text(config.regularizer),
                    "settings": comparison.arm.settings,
                    "model": part,
                    "seed": config.seed,
                }
                yield facts, stage


def measure(results: Results, session: Session) -> Sequence[Row]:
    """A row a model."""
    every = list(stages(results))
    artifacts = session.run_stage()(*(stage for _, stage in every))
    return [
        {**facts, **artifact.summary["metrics"]}
        for (facts, _), artifact in zip(every, artifacts, strict=True)
    ]


def spectra(results: Results) -> dict[tuple[str, str], list[NDArray[np.float64]]]:
    """(model, penalty) -> eigenvalues (N, k) of each seed."""
    store = ArtifactStore(results.folder.artifacts)
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for facts, stage in stages(results):
        file = store.path(stage.address) / "landscape.safetensors"
        if file.is_file():
            key = str(facts["model"]), f"{facts['method']}, {facts['penalty']}"
            found.setdefault(key, []).append(load_file(file)["eigenvalues"])
    return found


def figures(results: Results) -> Mapping[str, Figure]:
    """Left: the mean of the i-th largest eigenvalue. Right: the largest one, samples sorted."""
    found = spectra(results)
    figure = Figure(figsize=(9, 6.4), dpi=150, layout="constrained")
    grid = figure.subplots(2, 2, squeeze=False)
    for row, part in zip(grid, ("teacher", "student"), strict=True):
        arms = [(penalty, seeds) for (model, penalty), seeds in found.items() if model == part]
        for number, (penalty, seeds) in enumerate(arms):
            marker, every = MARKERS[number % len(MARKERS)], np.concatenate(seeds)
            index = range(1, every.shape[1] + 1)
            row[0].plot(index, every.mean(axis=0), f"{marker}-", label=penalty, lw=1)
            largest = np.sort(every[:, 0])[::-1]
            share = np.arange(1, len(largest) + 1) / len(largest)
            row[1].plot(share, largest, marker=marker, markevery=0.1, lw=1, label=penalty)
        row[0].set_ylabel(f"{part}: eigenvalue (1 / pixel²)")
        row[0].set_xlabel("number of the eigenvalue, mean over samples")
        row[1].set_xlabel("share of samples, sorted by their largest eigenvalue")
        for axes in row:
            axes.set_yscale("symlog", linthresh=0.1)
            axes.grid(alpha=0.3)
            if arms:
                axes.legend(fontsize=7)
    samples = next(iter(found.values()))[0].shape[0] if found else 0
    num_seeds = max((len(arrays) for arrays in found.values()), default=0)
    figure.suptitle(
        f"{results.comparisons[0].arm.config.data.name}: input Hessian of the cross-entropy at "
        f"{samples} test images, {num_seeds} seeds",
        fontsize=10,
    )
    return {"eigenvalues": figure}


def answer(results: Results) -> str:
    parts = []
    for (model, penalty), seeds in spectra(results).items():
        means = [float(values[:, 0].mean()) for values in seeds]
        spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        parts.append(f"{model}, {penalty}: {np.mean(means):.2f}{spread}")
    if not parts:
        return "Nothing is measured yet."
    return f"Mean largest eigenvalue of the input Hessian: {'; '.join(parts)}."


COLUMNS = {
    "largest_eigenvalue": "λ₁ (mean)",
    "largest_eigenvalue_median": "λ₁ (median)",
    "gradient_norm": "‖∇ℓ‖",
    "cosine": "|cos(∇ℓ, v₁)|",
    "bound/distilled_loss": "left side",
    "bound/loss": "ℓ",
    "bound/gradient": "ρ‖∇ℓ‖",
    "bound/curvature": "½ρ²λ₁",
    "bound/lipschitz": "L",
    "bound/distance": "σ",
    "bound/bound": "right side",
    "bound/holds": "holds in",
}


def tables(results: Results) -> list[Table]:
    """A row a model: means over samples; the terms of Proposition 1 are means over classes."""
    rows = read_csv(results.measured)
    if not rows:
        return []
    names = [name for name in COLUMNS if name in rows[0]]
    texts = [
        [
            f"{row['method']}, {row['model']}, {row['penalty']}, seed {row['seed']}",
            *(f"{float(row[name]):.3g}" if row[name] else "" for name in names),
        ]
        for row in rows
    ]
    caption = (
        "Cross-entropy at real test images, lengths in pixels (L2). Proposition 1: the left side "
        "is at most ℓ + ρ‖∇ℓ‖ + ½ρ²λ₁ + Lσ, for perturbations up to the radius ρ that holds the "
        "threat model's ball; the last column is the share of classes in which it holds. L is a "
        "lower estimate."
    )
    columns = ["model", *(COLUMNS[name] for name in names)]
    return [Table("landscape", "Around real samples", caption, columns, texts)]


STUDY = Study(
    name="curvature",
    question="Does the penalty flatten the loss around real samples, and does the theory hold?",
    source="GUARD, Figure 2 and Proposition 1",
    design=design,
    figures=figures,
    answer=answer,
    measure=measure,
    tables=tables,
)


if __name__ == "__main__":
    cli.run(lambda argv: command.main(STUDY, argv))

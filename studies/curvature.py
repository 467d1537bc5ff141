"""The loss around real samples, without GUARD's penalty and with it: is its reason at work?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from guard.artifacts import ArtifactStore
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import landscapes
from studies.design.design import Design
from studies.design.study import Machine, Row, Study, Table, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Arm, shared_place, short_titles
from tune.results.findings import Results
from tune.results.rows import read_csv
from tune.results.statistics import interval
from tune.results.tables import by_chance, level
from tune.results.wording import joined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Spectra = Mapping[int, NDArray[np.float64]]
"""Eigenvalues (N, k) of the input Hessian at N samples, descending, by seed."""


def design(preset: Preset) -> Design:
    return Design(axes={"method": ("sre2l",)}, settings=confirmed(preset))


MODELS = ("teacher", "student")


def stages(arm: Arm) -> Iterator[tuple[Mapping[str, str | int], Stage]]:
    """(method, IPC, penalty, model, seed) and the stage that measures it."""
    for record in arm.records.values():
        config = TrialConfig.from_dict(record.config)
        for part, stage in landscapes(config).items():
            facts: dict[str, str | int] = {
                "method": config.method,
                "ipc": config.ipc,
                "penalty": arm.penalty,
                "settings": arm.settings,
                "model": part,
                "seed": config.seed,
            }
            yield facts, stage


def measure(results: Results, machine: Machine) -> Sequence[Row]:
    """A row a model."""
    every = [pair for comparison in results.comparisons for pair in stages(comparison.arm)]
    artifacts = machine.run_stage()(*(stage for _, stage in every))
    return [
        {**facts, **artifact.summary["metrics"]}
        for (facts, _), artifact in zip(every, artifacts, strict=True)
    ]


def spectra(arm: Arm, model: str, store: ArtifactStore) -> Spectra:
    """Eigenvalues (N, k) by seed, as far as they are measured."""
    found = {}
    for facts, stage in stages(arm):
        if facts["model"] == model and store.get(stage) is not None:
            file = store.fetch(store.path(stage)).path / "landscape.safetensors"
            found[int(facts["seed"])] = load_file(file)["eigenvalues"]
    return found


def figures(results: Results) -> Mapping[str, Figure]:
    """Left: the mean of the i-th largest eigenvalue. Right: the largest one, samples sorted."""
    from matplotlib.figure import Figure

    from studies.reporting.figures import MARKERS

    if not results.comparisons:
        return {}
    store = results.folder.store
    titles = short_titles(results.comparisons)
    samples = num_seeds = 0
    figure = Figure(figsize=(9, 6.4), dpi=150, layout="constrained")
    grid = figure.subplots(2, 2, squeeze=False)
    for row, part in zip(grid, MODELS, strict=True):
        found = [spectra(comparison.arm, part, store) for comparison in results.comparisons]
        arms = [(title, seeds) for title, seeds in zip(titles, found, strict=True) if seeds]
        for number, (title, seeds) in enumerate(arms):
            marker, every = MARKERS[number % len(MARKERS)], np.concatenate(list(seeds.values()))
            samples, num_seeds = len(every) // len(seeds), max(num_seeds, len(seeds))
            index = range(1, every.shape[1] + 1)
            row[0].plot(index, every.mean(axis=0), f"{marker}-", label=title, lw=1)
            largest = np.sort(every[:, 0])[::-1]
            share = np.arange(1, len(largest) + 1) / len(largest)
            row[1].plot(share, largest, marker=marker, markevery=0.1, lw=1, label=title)
        row[0].set_ylabel(f"{part}: eigenvalue (1 / pixel²)")
        row[0].set_xlabel("number of the eigenvalue, mean over samples")
        row[1].set_xlabel("share of samples, sorted by their largest eigenvalue")
        for axes in row:
            axes.set_yscale("symlog", linthresh=0.1)
            axes.grid(alpha=0.3)
            if arms:
                axes.legend(fontsize=7)
    data, place = results.comparisons[0].arm.config.data.name, shared_place(results.comparisons)
    figure.suptitle(
        f"{joined(data, place)}: input Hessian of the cross-entropy at "
        f"{samples} test images, {num_seeds} seeds",
        fontsize=10,
    )
    return {"eigenvalues": figure}


def answer(results: Results) -> str:
    """The mean largest eigenvalue of each model, and its paired difference to the control's."""
    store = results.folder.store
    by_config = {comparison.arm.config: comparison.arm for comparison in results.comparisons}
    parts = []
    for title, comparison in zip(
        short_titles(results.comparisons), results.comparisons, strict=True
    ):
        control = by_config.get(comparison.arm.config.unregularized())
        for model in MODELS:
            ours = spectra(comparison.arm, model, store)
            theirs = spectra(control, model, store) if control and not comparison.is_control else {}
            if ours:
                parts.append(f"{model}, {title}: {largest(ours)}{change(ours, theirs)}")
    if not parts:
        return "Nothing is measured yet."
    gains = [c.robust_gain for c in results.comparisons if c.robust_gain is not None]
    what = f"Mean largest eigenvalue of the input Hessian{results.where}"
    brackets = f" In brackets: {level(gains)}. {by_chance(len(gains) * len(MODELS))}"
    return f"{what}: {'; '.join(parts)}.{brackets if gains else ''}"


def largest(seeds: Spectra) -> str:
    """The mean over seeds and samples ± the deviation between seeds."""
    means = [float(values[:, 0].mean()) for values in seeds.values()]
    spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
    return f"{np.mean(means):.2f}{spread}"


def change(ours: Spectra, theirs: Spectra) -> str:
    """The paired difference in words, with its 95 % interval."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return ""
    differences = np.stack([ours[seed][:, 0] - theirs[seed][:, 0] for seed in shared])
    low, high = map(float, interval(differences.astype(np.float64)))
    outcome = "flatter" if high < 0 else "steeper" if low > 0 else "no clear difference"
    return f", {outcome}: {differences.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


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
    several = len({row["ipc"] for row in rows}) > 1
    texts = [
        [
            joined(
                row["method"],
                f"IPC {row['ipc']}" if several else "",
                row["model"],
                row["penalty"],
                row["settings"],
                f"seed {row['seed']}",
            ),
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
    return [
        Table(
            anchor="landscape",
            title="Around real samples",
            caption=caption,
            columns=columns,
            rows=texts,
        )
    ]


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
    run_command(STUDY)

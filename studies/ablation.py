"""Gradient against curvature regularization, and what else differs between published variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from studies.design.design import Design, Settings
from studies.design.differences import differences
from studies.design.study import Study, Table, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Comparison, short_titles
from tune.results.findings import Results, duel, gains_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRADIENT_WEIGHTS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""λ_g of GUARD's Table 3."""
FRACTIONS = (1.0, 0.25, 0.125)


def design(preset: Preset) -> Design:
    """SRe2L at one IPC; everything but the named field is as in the preset. More r_bn in both arms,
    because the published baseline and GUARD may differ in it."""
    base, own = preset.config, preset.config.regularizer
    gradient: list[Settings] = [
        {"regularizer.kind": "gradient-norm", "regularizer.weight": weight}
        for weight in GRADIENT_WEIGHTS
    ]
    published: list[Settings] = [
        {"regularizer": name} for name in ("released-cifar", "released-imagenet")
    ]
    curvature: list[Settings] = [
        {"regularizer.power": 1},
        {"regularizer.direction": "sign"},
        {"regularizer.bn": "eval" if own.bn == "train" else "train"},
        *({"regularizer.fraction": share} for share in FRACTIONS if share != own.fraction),
    ]
    confounder: Settings = {"sre2l.bn_weight": 10 * base.sre2l.bn_weight}
    variants = [{}, *gradient, *curvature, *published, confounder]
    return Design(axes={}, variants=variants, settings=confirmed(preset, method="sre2l"))


def figures(results: Results) -> Mapping[str, Figure]:
    from studies.reporting.figures import arms_figure

    return {"accuracy": arms_figure(results.comparisons, results.caption)}


def answer(results: Results) -> str:
    """GUARD's penalty against the best gradient penalty, then every arm against its control."""
    guard = plain(results)
    gradients = [
        comparison
        for comparison in results.comparisons
        if comparison.arm.config.regularizer.kind == "gradient-norm"
    ]
    if guard is None or not gradients:
        return gains_in_words(results)
    best = max(gradients, key=lambda comparison: comparison.robust.mean)
    picked = f"The best of {len(gradients)} gradient penalties was picked on test images"
    return f"{duel(guard, best)}. {picked}. {gains_in_words(results)}"


def plain(results: Results) -> Comparison | None:
    """The arm that is the preset as it is, and regularized."""
    for comparison in results.comparisons:
        changes = [set(record.params) - {"seed"} for record in comparison.arm.records.values()]
        if not comparison.is_control and not any(changes):
            return comparison
    return None


def tables(results: Results) -> list[Table]:
    """What each change of the penalty costs or brings, against the penalty as it is."""
    guard = plain(results)
    if guard is None:
        return []
    titles = short_titles(results.comparisons)
    pairs = [
        ((title,), other, guard)
        for title, other in zip(titles, results.comparisons, strict=True)
        if other is not guard and not other.is_control
    ]
    return differences(
        "details",
        "Against the preset's penalty",
        ("configuration",),
        pairs,
        ": the configuration less the preset's own",
    )


STUDY = Study(
    name="ablation",
    question="Is it the curvature that helps, and which details of the penalty matter?",
    source="GUARD, Table 3",
    after=("3",),
    design=design,
    figures=figures,
    answer=answer,
    tables=tables,
)


if __name__ == "__main__":
    run_command(STUDY)

"""Gradient against curvature regularization, and what else differs between published variants."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies import cli, command
from studies.design import Design, Settings
from studies.figures import arms_figure
from studies.presets import Preset
from studies.study import Results, Study, confirmed, duel, gains_in_words
from tune.comparison import Comparison

GRADIENT_WEIGHTS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""λ_g of GUARD's Table 3."""


def design(preset: Preset) -> Design:
    """SRe2L at one IPC; everything but the named field is as in the preset. More r_bn in both arms,
    because the published baseline and GUARD may differ in it."""
    base = preset.config
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
        {"regularizer.bn": "train"},
        {"regularizer.fraction": 1.0},
    ]
    confounder: Settings = {"sre2l.bn_weight": 10 * base.sre2l.bn_weight}
    variants = [{}, *gradient, *curvature, *published, confounder]
    return Design({}, variants, settings=confirmed(preset, method="sre2l"))


def figures(results: Results) -> Mapping[str, Figure]:
    return {"accuracy": arms_figure(results.comparisons, results.caption)}


def answer(results: Results) -> str:
    """GUARD's penalty against the best gradient penalty, then every arm against its control."""
    kinds: dict[str, list[Comparison]] = {}
    for comparison in results.comparisons:
        kinds.setdefault(comparison.arm.config.regularizer.kind, []).append(comparison)
    guards = [comparison for comparison in kinds.get("curvature", []) if is_plain(comparison)]
    if not guards or "gradient-norm" not in kinds:
        return gains_in_words(results)
    guard, *_ = guards
    gradient = max(kinds["gradient-norm"], key=lambda comparison: comparison.robust.mean)
    best = f"The best of {len(kinds['gradient-norm'])} gradient penalties was picked on test images"
    return f"{duel(guard, gradient)}. {best}. {gains_in_words(results)}"


def is_plain(comparison: Comparison) -> bool:
    """Whether an arm is the preset as it is."""
    return all(set(record.params) <= {"seed"} for record in comparison.arm.records.values())


STUDY = Study(
    name="ablation",
    question="Is it the curvature that helps, and which details of the penalty matter?",
    source="GUARD, Table 3",
    design=design,
    figures=figures,
    answer=answer,
)


if __name__ == "__main__":
    cli.run(lambda argv: command.main(STUDY, argv))

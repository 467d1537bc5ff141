"""Adversarial training of the model distilled from, instead of GUARD's penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from studies.design.design import Design
from studies.design.study import Study, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.findings import Results, duel, gains_in_words
from tune.results.tables import by_chance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def design(preset: Preset) -> Design:
    """Attacks in pixels, at the radius that the student is evaluated at."""
    embedded = [{"regularizer": name} for name in ("pgd-at", "fgsm-rs", "trades")]
    axes = {"method": ("sre2l",), "ipc": (1, preset.config.ipc)}
    return Design(axes=axes, variants=[{}, *embedded], settings=confirmed(preset))


def figures(results: Results) -> Mapping[str, Figure]:
    from studies.reporting.figures import arms_figure

    return {"accuracy": arms_figure(results.comparisons, results.caption)}


def answer(results: Results) -> str:
    """GUARD's penalty against each kind of adversarial training where all else is the same."""
    guards = [c for c in results.comparisons if c.arm.config.regularizer.kind == "curvature"]
    duels = [
        duel(ours, theirs)
        for ours in guards
        for theirs in results.comparisons
        if theirs.arm.config.regularizer.attacks
        and theirs.arm.config.unregularized() == ours.arm.config.unregularized()
    ]
    return f"{'; '.join(duels)}. {by_chance(len(duels))}" if duels else gains_in_words(results)


STUDY = Study(
    name="adversarial",
    question="Does adversarial training of the teacher work instead of GUARD's penalty?",
    source="GUARD, Table 1",
    after=("1",),
    design=design,
    figures=figures,
    answer=answer,
)


if __name__ == "__main__":
    run_command(STUDY)

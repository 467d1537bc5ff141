"""Adversarial training of the model distilled from, instead of GUARD's penalty."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies import cli, command
from studies.design import Design
from studies.figures import arms_figure
from studies.presets import Preset
from studies.study import Results, Study, gains_in_words, on_test


def design(preset: Preset) -> Design:
    """Attacks in pixels, at the radius that the student is evaluated at."""
    embedded = [{"regularizer": name} for name in ("pgd-at", "fgsm-rs", "trades")]
    axes = {"method": ("sre2l",), "ipc": (1, 10)}
    return Design(axes, [{}, *embedded], settings=on_test(preset))


def figures(results: Results) -> Mapping[str, Figure]:
    return {"accuracy": arms_figure(results.comparisons, results.about)}


STUDY = Study(
    name="adversarial",
    question="Does adversarial training of the teacher work instead of GUARD's penalty?",
    source="GUARD, Table 1",
    design=design,
    figures=figures,
    answer=gains_in_words,
)


if __name__ == "__main__":
    cli.run(lambda argv: command.main(STUDY, argv))

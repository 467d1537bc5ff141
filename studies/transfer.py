"""Does GUARD carry over to other base methods? Each with the penalty and without it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies import cli, command
from studies.design import Design
from studies.figures import arms_figure
from studies.presets import Preset
from studies.study import Results, Study, gains_in_words, on_test

METHODS = ("sre2l", "cda", "dc", "dsa", "mtt")


def design(preset: Preset) -> Design:
    return Design({"method": METHODS}, settings=on_test(preset, ipc=10))


def figures(results: Results) -> Mapping[str, Figure]:
    return {"accuracy": arms_figure(results.comparisons, results.about)}


STUDY = Study(
    name="transfer",
    question="Does GUARD's penalty help base methods other than SRe2L?",
    source="GUARD, Table 5",
    design=design,
    figures=figures,
    answer=gains_in_words,
)


if __name__ == "__main__":
    cli.run(lambda argv: command.main(STUDY, argv))

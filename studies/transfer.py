"""Does GUARD carry over to other base methods, and is it their images or labels that carry it?"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies import cli, command
from studies.design import Design
from studies.figures import arms_figure, eps_figure
from studies.presets import Preset
from studies.study import Results, Study, confirmed, gains_in_words

METHODS = ("sre2l", "cda", "dc", "dsa", "mtt")
OTHER_LABELS = {"sre2l": "hard", "dc": "soft", "random": "soft"}
"""Labels that the method does not come with. Soft ones are a regularized teacher's, so real images
with them have what its labels carry and nothing else."""


def design(preset: Preset) -> Design:
    swapped = [{"method": name, "student.labels": own} for name, own in OTHER_LABELS.items()]
    return Design({"method": METHODS}, single=swapped, settings=confirmed(preset))


def figures(results: Results) -> Mapping[str, Figure]:
    accuracy = arms_figure(results.comparisons, results.caption)
    over_eps = eps_figure(results.comparisons, results.caption)
    return {"accuracy": accuracy, **({"eps": over_eps} if over_eps else {})}


STUDY = Study(
    name="transfer",
    question="Does GUARD's penalty help base methods other than SRe2L, by images or by labels?",
    source="GUARD, Table 5",
    design=design,
    figures=figures,
    answer=gains_in_words,
)


if __name__ == "__main__":
    cli.run(lambda argv: command.main(STUDY, argv))

"""Does GUARD carry over to other base methods?"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies.design.design import Design
from studies.design.study import Study, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from studies.reporting.figures import arms_figure, eps_figure
from tune.results.findings import Results, gains_in_words

METHODS = ("sre2l", "cda", "dc", "dsa", "mtt")


def design(preset: Preset) -> Design:
    return Design(axes={"method": METHODS}, settings=confirmed(preset))


def figures(results: Results) -> Mapping[str, Figure]:
    accuracy = arms_figure(results.comparisons, results.caption)
    over_eps = eps_figure(results.comparisons, results.caption)
    return {"accuracy": accuracy, **({"eps": over_eps} if over_eps else {})}


STUDY = Study(
    name="transfer",
    question="Does GUARD's penalty help base methods other than SRe2L?",
    source="GUARD, Table 5",
    after=("5",),
    design=design,
    figures=figures,
    answer=gains_in_words,
)


if __name__ == "__main__":
    run_command(STUDY)

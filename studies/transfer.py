"""Does GUARD carry over to other base methods?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guard.trial import TrialConfig
from studies.design.costs import distilling
from studies.design.design import Design
from studies.design.differences import differences
from studies.design.study import Study, Table, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Comparison, short_titles
from tune.results.findings import Results, gains_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("sre2l", "cda", "dc", "dsa", "mtt")


def design(preset: Preset) -> Design:
    return Design(axes={"method": METHODS}, settings=confirmed(preset))


def figures(results: Results) -> Mapping[str, Figure]:
    from studies.reporting.figures import arms_figure, eps_figure

    accuracy = arms_figure(results.comparisons, results.caption)
    over_eps = eps_figure(results.comparisons, results.caption)
    return {"accuracy": accuracy, **({"eps": over_eps} if over_eps else {})}


def tables(results: Results) -> list[Table]:
    """Penalties against one another, where a control has several, and what distilling takes."""
    groups: dict[TrialConfig, list[tuple[str, Comparison]]] = {}
    for title, own in zip(short_titles(results.comparisons), results.comparisons, strict=True):
        if not own.is_control:
            groups.setdefault(own.arm.config.unregularized(), []).append((title, own))
    pairs = [
        ((title, less), other, first)
        for (less, first), *others in groups.values()
        for title, other in others
    ]
    between = differences("between", "Between penalties", ("configuration", "against"), pairs)
    return [*between, *distilling(results)]


STUDY = Study(
    name="transfer",
    question="Does GUARD's penalty help base methods other than SRe2L?",
    source="GUARD, Table 5",
    after=("5",),
    design=design,
    figures=figures,
    answer=gains_in_words,
    tables=tables,
)


if __name__ == "__main__":
    run_command(STUDY)

"""Search λ, h, IPC and the base method for data sets that make robust students.

Every study starts with the unregularized baseline of each method and IPC. The search selects on
validation; the front and its baselines are then run again with new seeds on test images, and only
these figures are the study's result. Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from guard.errors import ConfigError
from studies.design.study import Story
from studies.driver import flags
from studies.driver.checks import checked_space
from studies.driver.options import SECTIONS
from studies.driver.place import placed
from studies.driver.request import Request, settled
from studies.driver.run import run
from studies.driver.settings import search_space
from tune.options import SamplerName
from tune.results.findings import Results, against_start, gains_in_words
from tune.space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(results: Results) -> Mapping[str, Figure]:
    """The front on validation, and accuracy over the radii on test images."""
    from studies.reporting.figures import eps_figure, pareto_figure
    from studies.reporting.series import Search

    found = {}
    if any(record.is_search for record in results.records):
        search = Search.of(results.records, results.max_clean_drop)
        found["pareto"] = pareto_figure(search, results.choice, results.comparisons)
    over_eps = eps_figure(results.comparisons, results.caption) if results.comparisons else None
    return found | ({"eps": over_eps} if over_eps else {})


def answer(results: Results) -> str:
    """What the confirmation says; before it, what the search chose."""
    if results.comparisons:
        return " ".join(filter(None, [gains_in_words(results), against_start(results)]))
    best = results.choice
    if best is None:
        return "Nothing can be said before a baseline is complete."
    clean, robust = best.objectives
    return (
        f"Chosen by the search, not confirmed: {best.title}, clean {clean:.3f}, robust "
        f"{robust:.3f} on validation images."
    )


STORY = Story(
    name="sweep",
    question="Which penalty, step, images per class and method make robust students?",
    source="",
    figures=figures,
    answer=answer,
)


def parser() -> argparse.ArgumentParser:
    parser = flags.command_parser(
        STORY.name,
        __doc__,
        SECTIONS,
        epilog="example: python -m studies.sweep --preset digits --num-trials 40 "
        "--set 'ipc=choice(1, 10, 50)' --set 'sre2l.bn_weight=loguniform(0.001, 1)' "
        "--set confirm.seeds=5",
    )
    flags.add_config_flags(parser)
    flags.add_output_flags(parser)
    search = parser.add_argument_group("how it is searched")
    search.add_argument(
        "--num-trials", type=int, metavar="N", help="finished trials in the end (default: preset's)"
    )
    search.add_argument(
        "--sampler",
        default="auto",
        choices=get_args(SamplerName),
        help="of Optuna's; auto: TPE in groups of fields, after 5 random trials (default)",
    )
    search.add_argument(
        "--from",
        dest="known",
        action="append",
        default=[],
        metavar="DIR/NAME",
        help="another study, whose trials the sampler is told of if this search could run them; "
        "repeatable",
    )
    flags.add_machine_flags(parser)
    return parser


def space(request: Request) -> SearchSpace:
    """The preset's space with the user's values, checked. Raises UserError."""
    found = search_space(request.preset, request.settings, request.data)
    if request.sampler != "grid":
        found.check_combinations()
    for config in found.control_configs():
        if "validation" not in config.evaluation.splits:
            raise ConfigError(
                "evaluation.splits",
                "a search selects on validation images, so validation must be one of them; got "
                f"{', '.join(config.evaluation.splits)}",
            )
    base = placed(found.base, request, found.distributions)
    return checked_space(replace(found, base=base))


def main(argv: Sequence[str]) -> int:
    """Search and confirm: 0 if the study is finished then, otherwise 1. Raises UserError."""
    request = settled(flags.parsed(parser(), argv))
    checked = space(request)
    from studies.driver.sweep_job import planned_job  # imports SQLAlchemy

    return run(planned_job(STORY, request, checked))


if __name__ == "__main__":
    flags.run(main)

"""Methods and attacks, with GUARD and without, beside the controls.

At the preset's images per class; `--set 'ipc=choice(1, 10, 50)'` makes them an axis, and `--set
'student.model.name=choice(bn-convnet, resnet18, torchvision:mobilenet_v2)'` the student's network.
`--set 'method=choice(given, sre2l, random, whole)' --set 'given.path=choice(a.npz, b/)'` puts sets
that somebody made beside ours. `--set 'student=choice(sre2l-cifar, rd3)'` asks whether a penalty's
gain stays under another recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from guard.config import ModelConfig
from guard.config.common import TORCHVISION
from guard.config.schema import digest
from studies.design.costs import distilling
from studies.design.design import Design
from studies.design.differences import MEASURED, Row, as_table, differences
from studies.design.study import Study, Table, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Against, Comparison, short_titles, surplus
from tune.results.findings import Results, gains_in_words
from tune.results.tables import percent, shared_attacks
from tune.results.wording import joined, settings, title, told_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUARDED = ("sre2l", "cda")
NETWORK = "student.model"
USUAL = "as usual"
UNGUARDED = ("mtt", "tesla", "mat", "random")


def design(preset: Preset) -> Design:
    attacks = dict.fromkeys(("pgd100", "mim", "cw", *preset.confirm.attacks))
    each_alone = {"evaluation.attacks": list(attacks), "evaluation.cascade": False}
    return Design(
        axes={"ipc": (preset.config.ipc,)},
        variants=[
            *({"method": name} for name in GUARDED),
            *({"method": name, "regularizer": "none"} for name in UNGUARDED),
        ],
        single=[{"method": "whole"}],
        settings=confirmed(preset, **each_alone),
    )


def figures(results: Results) -> Mapping[str, Figure]:
    from studies.reporting.figures import arms_figure, attacks_figure, ipc_figure

    arms, caption = results.comparisons, results.caption
    found = {"accuracy": arms_figure(arms, caption)}
    if len({comparison.arm.config.ipc for comparison in arms}) > 1:
        found["ipc"] = ipc_figure(arms, caption)
    if shared_attacks(arms):
        found["attacks"] = attacks_figure(arms, caption)
    return found


def tables(results: Results) -> list[Table]:
    """Sets that were given against the others, gains under one recipe against those under another,
    methods by the student's network, where there are several, and what distilling takes."""
    arms = results.comparisons
    return [*given(arms), *gains_between(arms), *across_networks(results), *distilling(results)]


def gains_between(comparisons: Sequence[Comparison]) -> list[Table]:
    """Whether what a regularizer brings a method stays, if a recipe is another one: each arm's gain
    less that of the first with the same method, images per class and regularizer."""
    controls = {own.arm.config: own for own in comparisons if own.is_control}
    first: dict[tuple[str, str], Against] = {}
    rows: list[Row] = []
    for own in comparisons:
        control = controls.get(own.arm.config.unregularized())
        if own.is_control or control is None:
            continue
        alike = (own.arm.place, own.arm.penalty)
        theirs = first.setdefault(alike, (own, control))
        if theirs[0] is not own:
            names = (joined(*alike), own.arm.settings or USUAL, theirs[0].arm.settings or USUAL)
            rows.append((names, [surplus((own, control), theirs, m) for m in MEASURED]))
    meaning = ", between what the regularizer brings under one and under the other"
    columns = ("regularizer", "with", "against")
    return as_table("gains", "Gains under other recipes", columns, rows, meaning)


def given(comparisons: Sequence[Comparison]) -> list[Table]:
    """Each set that was given against all that was not, of as many images per class."""
    titled = list(zip(short_titles(comparisons), comparisons, strict=True))
    pairs = [
        ((title, other), ours, theirs)
        for title, ours in titled
        for other, theirs in titled
        if is_given(ours) and not is_given(theirs) and alike(ours, theirs)
    ]
    meaning = "; a set that was given is one set: its runs differ in student and attacks alone"
    return differences("given", "Sets that were given", ("set", "against"), pairs, meaning)


def is_given(comparison: Comparison) -> bool:
    return comparison.arm.config.method == "given"


def alike(ours: Comparison, theirs: Comparison) -> bool:
    """Whether both train the same network on as many images per class, or one on all of them."""
    own, other = ours.arm.config, theirs.arm.config
    return own.student_model == other.student_model and (not other.distils or own.ipc == other.ipc)


def across_networks(results: Results) -> list[Table]:
    """Methods by the student's network, where there are several."""
    arms = [own for own in results.comparisons if own.arm.config.distils]
    configs = [own.arm.config for own in arms]
    networks = in_words([config.student_model for config in configs])
    cells: dict[str, dict[str, str]] = {}
    for own, config, rest in zip(arms, configs, told_apart(configs, (NETWORK,)), strict=True):
        same = {path: v for path, v in config.flat().items() if not path.startswith(NETWORK)}
        row = cells.setdefault(digest(same), {"": joined(title(config), rest)})
        row[networks[config.student_model]] = f"{percent(own.clean)}, {percent(own.robust)}"
    if len(networks) < 2:
        return []
    return [
        Table(
            anchor="networks",
            title="Across networks",
            caption="Clean and robust accuracy in percent, by the student's network; the set is "
            "the same along a row.",
            columns=["configuration", *networks.values()],
            rows=[
                [row[""], *(row.get(name, "") for name in networks.values())]
                for row in cells.values()
            ],
        )
    ]


def in_words(models: Sequence[ModelConfig]) -> Mapping[ModelConfig, str]:
    """Each of the networks, with what sets those apart that would read the same."""
    found = {}
    for model in models:
        values = model.to_dict()
        alike = [other.to_dict() for other in models if network(other) == network(model)]
        apart = {name: v for name, v in values.items() if any(o[name] != v for o in alike)}
        found[model] = joined(network(model), settings(apart))
    return found


def network(model: ModelConfig) -> str:
    """In words."""
    size = f" ({model.depth} x {model.width})" if model.reads_width else ""
    return model.name.removeprefix(TORCHVISION) + size


STUDY = Study(
    name="compare",
    question="How clean and how robust are students of each method, with GUARD's penalty and not?",
    source="GUARD, Tables 2 and 6",
    after=("2", "6"),
    design=design,
    figures=figures,
    answer=gains_in_words,
    tables=tables,
)


if __name__ == "__main__":
    run_command(STUDY)

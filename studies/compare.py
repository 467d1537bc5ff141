"""Methods and attacks, with GUARD and without, beside the controls.

At the preset's images per class; `--set 'ipc=choice(1, 10, 50)'` makes them an axis.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from studies.design.design import Design
from studies.design.study import Study, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from studies.reporting.figures import arms_figure, attacks_figure, ipc_figure
from tune.results.findings import Results, gains_in_words
from tune.results.tables import shared_attacks

GUARDED = ("sre2l", "cda")
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
    arms, caption = results.comparisons, results.caption
    found = {"accuracy": arms_figure(arms, caption)}
    if len({comparison.arm.config.ipc for comparison in arms}) > 1:
        found["ipc"] = ipc_figure(arms, caption)
    if shared_attacks(arms):
        found["attacks"] = attacks_figure(arms, caption)
    return found


STUDY = Study(
    name="compare",
    question="How clean and how robust are students of each method, with GUARD's penalty and not?",
    source="GUARD, Tables 2 and 6",
    after=("2", "6"),
    design=design,
    figures=figures,
    answer=gains_in_words,
)


if __name__ == "__main__":
    run_command(STUDY)

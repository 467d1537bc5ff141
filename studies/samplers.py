"""Which sampler finds the most, and what does ending hopeless trials early save?"""

from __future__ import annotations

from guard.pipeline import Leg
from studies.design.design import Design
from studies.design.study import Study
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.space import spread

POINTS = 8
"""Of each numeric field of the preset's space."""
ALL_LOOKS = Leg(looks=10)


def design(preset: Preset) -> Design:
    axes = {path: spread(distribution, POINTS) for path, distribution in preset.space.items()}
    return Design(axes=axes, settings={"evaluation.splits": ["validation"]}, leg=ALL_LOOKS)


STUDY = Study(
    name="samplers",
    question="Which sampler finds the most, and what does ending hopeless trials early save?",
    source="",
    design=design,
    figures=lambda results: {},
    answer=lambda results: "",
    seeds=1,
)


if __name__ == "__main__":
    run_command(STUDY)

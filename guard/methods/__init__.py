"""The base methods: which stages each one plans. The work of a stage is in the method's own file.

A new method is a section and a name in `guard.config`, a row here, and a file beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from guard.artifacts import Stage
from guard.config import RegularizerConfig, TrialConfig


class Method(Protocol):
    """How a base method distils. Its stages are planned here without doing any work."""

    @property
    def sections(self) -> tuple[str, ...]:
        """Sections of TrialConfig that only some methods read, and this one does."""
        ...

    @property
    def needs_real_images(self) -> bool:
        """Whether synthetic images start as real ones, so that IPC is bounded by the class size."""
        ...

    def teach(self, config: TrialConfig) -> Stage:
        """What the set is distilled from. Its summary has `metrics`."""
        ...

    def distill(self, config: TrialConfig, teacher: Stage) -> tuple[list[Stage], Stage]:
        """Stages that make images, at the same time where there are several (summary: `metrics`),
        and the one that puts the DistilledSet together from them."""
        ...


class SRe2L:
    """Squeeze, recover, relabel (arXiv 2306.13092). GUARD's penalty acts in squeeze."""

    sections = ("squeeze", "sre2l")
    needs_real_images = False

    def teach(self, config: TrialConfig) -> Stage:
        return squeeze_stage(config)

    def distill(self, config: TrialConfig, teacher: Stage) -> tuple[list[Stage], Stage]:
        recover = config.sre2l
        chunks = [
            Stage.of(
                "recover",
                1,
                {"teacher": teacher},
                recover=recover,
                chunk=index,
                seed=config.seed,
                compute=config.compute,
            )
            for index in range(-(-config.ipc // recover.chunk))
        ]
        inputs = {f"chunk-{index:04d}": chunk for index, chunk in enumerate(chunks)}
        distilled = Stage.of(
            "distilled",
            1,
            {"teacher": teacher, **inputs},
            method=config.method,
            ipc=config.ipc,
            compute=config.compute,
        )
        return chunks, distilled


def squeeze_stage(config: TrialConfig) -> Stage:
    """A teacher trained on the real images. λ = 0 is the stage without a penalty, whatever the
    other fields of the regularizer say."""
    active = config.regularizer.active
    penalty = config.regularizer if active else RegularizerConfig.named("none")
    return Stage.of(
        "squeeze",
        1,
        {},
        data=config.data,
        model=config.model,
        train=config.squeeze,
        regularizer=penalty,
        eps=config.evaluation.eps if penalty.units == "eps" else 0.0,
        seed=config.seed,
        compute=config.compute,
    )


METHODS: Mapping[str, Method] = {"sre2l": SRe2L()}

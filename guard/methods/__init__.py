"""The base methods: which stages each one plans. The work of a stage is in the method's own file.

A new method is a section and a name in `guard.config`, a row here, and a file beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from guard.artifacts import Stage
from guard.config import (
    DCConfig,
    ExpertConfig,
    ModelConfig,
    MTTConfig,
    RecoverConfig,
    RegularizerConfig,
    TrainConfig,
    TrialConfig,
)


class Method(Protocol):
    """How a base method distils. Its stages are planned here without doing any work."""

    @property
    def sections(self) -> tuple[str, ...]:
        """Sections of TrialConfig that only some methods read, and this one does."""
        ...

    @property
    def soft_labels(self) -> bool:
        """Whether its first teacher labels the student's batches where labels = auto."""
        ...

    def needs_real_images(self, config: TrialConfig) -> bool:
        """Whether synthetic images start as real ones, so that IPC is bounded by the class size."""
        ...

    def teachers(self, config: TrialConfig) -> list[Stage]:
        """Models that the set is distilled from, trained at the same time; each is a saved model
        (`guard.models.saving`) and its summary has `metrics`. May be none."""
        ...

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        """Stages that make images (`guard.distilled.save_part`), at the same time where there are
        several; their summary has `metrics`. None: the student trains on the real images."""
        ...


@dataclass(frozen=True)
class Recover:
    """SRe2L and CDA: squeeze, recover, relabel. The regularizer acts in squeeze."""

    section: str
    soft_labels = True

    @property
    def sections(self) -> tuple[str, ...]:
        return ("squeeze", self.section)

    def needs_real_images(self, config: TrialConfig) -> bool:
        return False

    def teachers(self, config: TrialConfig) -> list[Stage]:
        return [squeeze_stage(config)]

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        recover: RecoverConfig = getattr(config, self.section)
        return [
            Stage.of(
                "recover",
                2,
                {"teacher": teachers[0]},
                recover=recover,
                chunk=index,
                seed=config.seed,
                compute=config.compute,
            )
            for index in range(-(-config.ipc // recover.chunk))
        ]


@dataclass(frozen=True)
class GradientMatching:
    """DC and DSA. The regularizer acts in the real images' gradient that is matched."""

    section: str
    soft_labels = False

    @property
    def sections(self) -> tuple[str, ...]:
        return (self.section,)

    def needs_real_images(self, config: TrialConfig) -> bool:
        section: DCConfig = getattr(config, self.section)
        return section.init == "real"

    def teachers(self, config: TrialConfig) -> list[Stage]:
        return []

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        return [
            Stage.of(
                "gradient-matching",
                1,
                whitening(config, config.distilled_model),
                data=config.data,
                model=config.distilled_model,
                matching=getattr(config, self.section),
                regularizer=acting_regularizer(config),
                eps=threat_radius(config, config.regularizer),
                ipc=config.ipc,
                seed=config.seed,
                compute=config.compute,
            )
        ]


@dataclass(frozen=True)
class TrajectoryMatching:
    """MTT, TESLA and MAT. The regularizer acts in the training of the experts."""

    section: str
    soft_labels = False

    @property
    def sections(self) -> tuple[str, ...]:
        return (self.section,)

    def matching(self, config: TrialConfig) -> MTTConfig:
        section: MTTConfig = getattr(config, self.section)
        return section

    def needs_real_images(self, config: TrialConfig) -> bool:
        return self.matching(config).init == "real"

    def teachers(self, config: TrialConfig) -> list[Stage]:
        experts = self.matching(config).experts
        eps = max(
            threat_radius(config, config.regularizer), threat_radius(config, experts.adversary)
        )
        return [
            Stage.of(
                "expert",
                1,
                whitening(config, config.distilled_model),
                data=config.data,
                model=config.distilled_model,
                train=experts.train,
                ema=experts.ema,
                adversary=experts.adversary,
                regularizer=acting_regularizer(config),
                eps=eps,
                number=number,
                seed=config.seed,
                compute=config.compute,
            )
            for number in range(experts.count)
        ]

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        matching = self.matching(config)
        shortest = ExpertConfig(train=TrainConfig(epochs=matching.epochs_needed))
        matching = replace(matching, experts=shortest)  # the inputs say which
        experts = {f"expert-{number:04d}": expert for number, expert in enumerate(teachers)}
        return [
            Stage.of(
                "trajectory-matching",
                1,
                experts,
                data=config.data,
                matching=matching,
                ipc=config.ipc,
                seed=config.seed,
                compute=config.compute,
            )
        ]


@dataclass(frozen=True)
class RealSubset:
    """A control: `ipc` real images a class, drawn at random, or herded by the features of a network
    trained on all of them (iCaRL, arXiv 1611.07725)."""

    selection: str
    soft_labels = False

    @property
    def sections(self) -> tuple[str, ...]:
        return ("squeeze",) if self.selection == "herding" else ()

    def needs_real_images(self, config: TrialConfig) -> bool:
        return True

    def teachers(self, config: TrialConfig) -> list[Stage]:
        return [squeeze_stage(config.unregularized())] if self.selection == "herding" else []

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        return [
            Stage.of(
                "subset",
                1,
                {"features": teachers[0]} if teachers else {},
                data=config.data,
                selection=self.selection,
                ipc=config.ipc,
                seed=config.seed,
                compute=config.compute,
            )
        ]


class Whole:
    """A control: the student is trained on every real image, as `squeeze` says, with the trial's
    regularizer. What no small set is expected to exceed."""

    sections = ("squeeze",)
    soft_labels = False

    def needs_real_images(self, config: TrialConfig) -> bool:
        return False

    def teachers(self, config: TrialConfig) -> list[Stage]:
        return []

    def parts(self, config: TrialConfig, teachers: Sequence[Stage]) -> list[Stage]:
        return []


METHODS: Mapping[str, Method] = {
    "sre2l": Recover("sre2l"),
    "cda": Recover("cda"),
    "dc": GradientMatching("dc"),
    "dsa": GradientMatching("dsa"),
    "mtt": TrajectoryMatching("mtt"),
    "tesla": TrajectoryMatching("tesla"),
    "mat": TrajectoryMatching("mat"),
    "random": RealSubset("random"),
    "herding": RealSubset("herding"),
    "whole": Whole(),
}


def acting_regularizer(config: TrialConfig) -> RegularizerConfig:
    """λ = 0 is the stage without a penalty, whatever the other fields of the regularizer say."""
    return config.regularizer if config.regularizer.active else RegularizerConfig.named("none")


def threat_radius(config: TrialConfig, regularizer: RegularizerConfig) -> float:
    """eps of the threat model where the regularizer depends on it."""
    return config.evaluation.eps if regularizer.uses_threat_model else 0.0


def whitening(config: TrialConfig, *models: ModelConfig) -> dict[str, Stage]:
    """The stage that fits the first layer, as an input of one that builds such a model."""
    if all(model.input != "zca" for model in models):
        return {}
    return {"whitening": Stage.of("whitening", 1, {}, data=config.data, compute=config.compute)}


def squeeze_stage(config: TrialConfig, model: ModelConfig | None = None) -> Stage:
    """A network (default: the trial's model) trained on the real images."""
    model = model or config.model
    return Stage.of(
        "squeeze",
        2,
        whitening(config, model),
        data=config.data,
        model=model,
        train=config.squeeze,
        regularizer=acting_regularizer(config),
        eps=threat_radius(config, config.regularizer),
        seed=config.seed,
        compute=config.compute,
    )


def labeller(config: TrialConfig, teachers: Sequence[Stage]) -> Stage | None:
    """The model whose logits label the student's batches; None: the set's own labels."""
    method = METHODS[config.method]
    if config.student.labels == "hard" or (
        config.student.labels == "auto" and not method.soft_labels
    ):
        return None
    return teachers[0] if method.soft_labels else squeeze_stage(config)


def distilled_stage(config: TrialConfig, parts: Sequence[Stage], teacher: Stage | None) -> Stage:
    """Puts the DistilledSet together from its parts, with soft labels where there is a teacher."""
    inputs = {f"part-{index:04d}": part for index, part in enumerate(parts)}
    return Stage.of(
        "distilled",
        2,
        inputs if teacher is None else {"teacher": teacher, **inputs},
        method=config.method,
        ipc=config.ipc,
        compute=config.compute,
    )

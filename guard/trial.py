"""Everything that a trial's result depends on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from guard.config.common import ComputeConfig, ModelConfig, Seed
from guard.config.data import DataConfig
from guard.config.evaluation import EvaluationConfig
from guard.config.labels import OWN, LabelConfig, kept_epochs
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import OneOf, at_least
from guard.config.schema import LATER, Config, digest, later, type_hints
from guard.config.shared import Shared
from guard.config.training import PORTABLE, TAUGHT, SqueezeConfig, StudentConfig
from guard.errors import ConfigError
from guard.methods.dc import DC, DSA
from guard.methods.dm import C2R, DM, IDM, NCFM, ROME
from guard.methods.given import Given
from guard.methods.method import Method
from guard.methods.mtt import DATM, MAT, MTT, TESLA
from guard.methods.rded import RDED
from guard.methods.sre2l import CDA, SRe2L
from guard.methods.subset import Herding, KCenter, Random, Whole


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Config):
    """Everything that a trial's result depends on. Every field that is a `Method` is one that
    `method` may name."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: str = "sre2l"
    ipc: Annotated[int, at_least(1, at_most=100_000)] = 10
    """Images per class."""
    seed: Seed = 0
    """Of the teacher and of the distillation; the student and the attacks have their own."""
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    squeeze: SqueezeConfig = field(default_factory=SqueezeConfig)
    """Training on the real images: of the teacher of soft labels (sre2l, cda, rded), of the
    features of herding, and of the network of `whole`."""
    sre2l: SRe2L = field(default_factory=SRe2L)
    cda: CDA = field(default_factory=CDA)
    dc: DC = field(default_factory=DC)
    dsa: DSA = field(default_factory=DSA)
    mtt: MTT = field(default_factory=MTT)
    tesla: TESLA = field(default_factory=TESLA)
    mat: MAT = field(default_factory=MAT)
    random: Random = field(default_factory=Random)
    herding: Herding = field(default_factory=Herding)
    whole: Whole = field(default_factory=Whole)
    rded: RDED = field(default=RDED(), metadata=LATER)
    datm: DATM = field(default=DATM(), metadata=LATER)
    dm: DM = field(default=DM(), metadata=LATER)
    idm: IDM = field(default=IDM(), metadata=LATER)
    ncfm: NCFM = field(default=NCFM(), metadata=LATER)
    rome: ROME = field(default=ROME(), metadata=LATER)
    c2r: C2R = field(default=C2R(), metadata=LATER)
    kcenter: KCenter = field(default=KCenter(), metadata=LATER)
    given: Given = field(default=Given(), metadata=LATER)
    student: StudentConfig = field(default_factory=StudentConfig)
    labels: LabelConfig = field(default_factory=LabelConfig, metadata=LATER)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        """Raises ConfigError. A method that brings its images per class has the last word."""
        super().__post_init__()
        object.__setattr__(self, "ipc", self.own.images_per_class(self.ipc))

    def check(self) -> None:
        """What the sections say together. Raises ConfigError."""
        try:
            OneOf(methods()).check(self.method)
        except ConfigError as error:
            raise error.under("method") from None
        if self.own.needs_batchnorm and not self.model.has_batchnorm:
            raise ConfigError(
                "model.norm",
                f"{self.method} matches BatchNorm statistics, so it needs 'batch', "
                f"got {self.model.norm!r}",
            )
        if self.compute.device == "mps" and self.squeeze.processes > 1:
            raise ConfigError(
                "squeeze.processes", f"must be 1 on mps, got {self.squeeze.processes}"
            )
        if self.regularizer.active:
            self._check_regularizer()
        self.own.check_trial(self.shared)
        self._check_labels()
        if self.student.learned_lr and not self.own.learns_rate:
            able = ", ".join(name for name in methods() if getattr(self, name).learns_rate)
            raise ConfigError(
                "student.learned_lr", f"{self.method} learns no learning rate; {able} do"
            )

    def _check_labels(self) -> None:
        """Whether the method, the student's labels and their teacher go together. Raises
        ConfigError."""
        student = self.student
        if self.distils and student.labels == "own" and not self.own.learns_labels:
            raise ConfigError(
                "student.labels",
                f"own: {self.method} learns no labels here; auto is what it has",
            )
        if self.distils and student.regularizer.facts.needs_teacher and not self.is_taught:
            raise ConfigError(
                "student.regularizer.kind",
                f"{student.regularizer.kind} stays near a teacher's logits, so {self.method} needs "
                f"student.labels = {', '.join(TAUGHT)}; got {student.labels}",
            )
        if self.distils and student.hard_epochs and not self.is_taught:
            raise ConfigError(
                "student.hard_epochs",
                f"lie between a teacher's labels, so {self.method} needs student.labels = "
                f"{', '.join(TAUGHT)}; got {student.labels}",
            )
        if not self.distils and student.regularizer.facts.needs_teacher:
            raise ConfigError(
                "student.regularizer.kind",
                f"{student.regularizer.kind} stays near a teacher's logits, and {self.method} is "
                "taught by none",
            )
        student.regularizer.check_units("student.regularizer.units", {self.student_model.input})
        if not self.is_taught:
            return
        self.labels.check_units("labels.teachers", self.model)
        kept = kept_epochs(self.squeeze.epochs)
        if self.labels.epoch is not None and self.labels.epoch not in kept:
            raise ConfigError(
                "labels.epoch",
                f"of {self.squeeze.epochs} epochs {', '.join(map(str, kept))} are kept; got "
                f"{self.labels.epoch}",
            )

    def _check_regularizer(self) -> None:
        kind = self.regularizer.kind
        if self.regularizer.facts.needs_teacher:
            raise ConfigError(
                "regularizer.kind",
                f"{kind} stays near a teacher's logits, so it is of students alone: "
                f"student.regularizer={kind}",
            )
        if not self.distils and self.student.regularizer.active:
            raise ConfigError(
                "regularizer",
                f"{self.method} trains one network, on which student.regularizer acts already",
            )
        if not self.can_be_regularized:
            raise ConfigError(
                "regularizer",
                f"{self.method} trains no network on real images that {kind} could act on; "
                f"set regularizer=none, or student.labels = {', '.join(TAUGHT)}",
            )
        if "squeeze" in self.own.reads or self._labels_regularized:
            self.regularizer.check_augment("squeeze.augment", self.squeeze.augment)
        inputs = {model.input for model in self.regularized_models}
        self.regularizer.check_units("regularizer.units", inputs)

    @property
    def own(self) -> Method:
        """The section of the method that is used."""
        found: Method = getattr(self, self.method)
        return found

    @property
    def shared(self) -> Shared:
        """What the method may read."""
        return Shared(
            method=self.method,
            data=self.data,
            model=self.model,
            squeeze=self.squeeze,
            regularizer=self.regularizer,
            eps=self.evaluation.eps,
            ipc=self.ipc,
            seed=self.seed,
            compute=self.compute,
            keeps=self.is_taught and self.labels.epoch is not None,
        )

    @property
    def is_taught(self) -> bool:
        """Whether a teacher labels the student's images."""
        labels = self.student.labels
        by_method = labels == "auto" and self.own.teacher_labels
        return self.distils and (labels in TAUGHT or by_method)

    @property
    def has_portable_labels(self) -> bool:
        """Whether the teacher's labels lie in the distilled set."""
        return self.distils and self.student.labels in PORTABLE

    @property
    def can_be_regularized(self) -> bool:
        """Whether a regularizer has a place in the method, or in the teacher of its soft labels."""
        return self.own.takes_regularizer or self._labels_regularized

    @property
    def _labels_regularized(self) -> bool:
        """Whether a teacher that is trained as `squeeze` says, with the regularizer, labels."""
        return self.student.labels in TAUGHT and OWN in self.labels.teachers

    @property
    def distils(self) -> bool:
        """Whether there is a small set, of `ipc` images a class, that the student is trained on."""
        return self.own.distils

    @property
    def regularized_models(self) -> list[ModelConfig]:
        """The networks that the regularizer acts on."""
        models = [self.distilled_model if self.distils else self.student_model]
        return [*models, self.model] if self._labels_regularized else models

    @property
    def distilled_model(self) -> ModelConfig:
        """The network that the set is distilled with."""
        return self.own.network_of(self.shared)

    @property
    def student_model(self) -> ModelConfig:
        return self.student.model or self.distilled_model

    def fingerprint(self) -> str:
        """As of any config, but data and sets with a known content are named by it, wherever they
        lie, and a method's section that was added later says something only where the method is
        used."""
        values = self.to_dict()
        unused = later(type(self)).keys() & methods().keys() - set(sections(type(self.own)))
        for name in unused:
            values.pop(name, None)
        if self.method in values:
            values[self.method] = self.own.identity
        if self.data.sha256:
            values["data"]["path"] = ""
        return digest(values)[:16]

    def unregularized(self) -> TrialConfig:
        """The control: the same trial without the penalty."""
        return self.override({"regularizer": "none"})


@functools.cache
def methods() -> Mapping[str, type[Method]]:
    """The base methods by name: the fields of TrialConfig that are one."""
    hints = type_hints(TrialConfig)
    return {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, Method)
    }


def sections(method: type[Method]) -> tuple[str, ...]:
    """Sections of TrialConfig that not every method reads, and this one does."""
    own = tuple(name for name, other in methods().items() if other is method)
    return (*own, *method.reads)

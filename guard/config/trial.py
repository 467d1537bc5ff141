"""Everything that a trial's result depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from guard.config.common import ComputeConfig, DataConfig, ModelConfig, Seed
from guard.config.evaluation import EvaluationConfig
from guard.config.methods import (
    CDAConfig,
    DCConfig,
    DSAConfig,
    MATConfig,
    MTTConfig,
    RecoverConfig,
    TESLAConfig,
)
from guard.config.schema import Config, at_least, digest
from guard.config.training import RegularizerConfig, StudentConfig, TrainConfig
from guard.errors import ConfigError

MethodName = Literal[
    "sre2l", "cda", "dc", "dsa", "mtt", "tesla", "mat", "random", "herding", "whole"
]
LEARNS_RATE = ("mtt", "tesla", "mat")


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Config):
    """Everything that a trial's result depends on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodName = "sre2l"
    ipc: Annotated[int, at_least(1)] = 10
    """Images per class."""
    seed: Seed = 0
    """Of the teacher and of the distillation; the student and the attacks have their own."""
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    squeeze: TrainConfig = field(default_factory=TrainConfig)
    """Training on the real images: of the teacher of soft labels (sre2l, cda), of the features of
    herding, and of the network of `whole`."""
    sre2l: RecoverConfig = field(default_factory=RecoverConfig)
    cda: CDAConfig = field(default_factory=CDAConfig)
    dc: DCConfig = field(default_factory=DCConfig)
    dsa: DSAConfig = field(default_factory=DSAConfig)
    mtt: MTTConfig = field(default_factory=MTTConfig)
    tesla: TESLAConfig = field(default_factory=TESLAConfig)
    mat: MATConfig = field(default_factory=MATConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def check(self) -> None:
        if self.method in ("sre2l", "cda") and not self.model.has_batchnorm:
            raise ConfigError(
                "model.norm",
                f"{self.method} matches BatchNorm statistics, so it needs 'batch', "
                f"got {self.model.norm!r}",
            )
        if self.regularizer.active:
            self._check_regularizer()
        if self.student.learned_lr and self.method not in LEARNS_RATE:
            raise ConfigError(
                "student.learned_lr",
                f"{self.method} learns no learning rate; {', '.join(LEARNS_RATE)} do",
            )

    def _check_regularizer(self) -> None:
        kind = self.regularizer.kind
        if not self.takes_regularizer and self.student.labels != "soft":
            raise ConfigError(
                "regularizer",
                f"{self.method} picks real images and trains no teacher that {kind} could act on; "
                "set regularizer=none, or student.labels=soft",
            )
        experts = {"mtt": self.mtt, "tesla": self.tesla, "mat": self.mat}.get(self.method)
        if experts and experts.experts.adversary.active and self.regularizer.attacks:
            raise ConfigError(
                "regularizer.kind",
                f"the experts of {self.method} are adversarially trained already "
                f"({experts.experts.adversary.kind}); got {kind}",
            )
        inputs = {model.input for model in self.regularized_models}
        if self.regularizer.units == "normalized" and inputs != {"normalize"}:
            raise ConfigError(
                "regularizer.units", "normalized needs model.input = normalize, got zca"
            )

    @property
    def regularized_models(self) -> list[ModelConfig]:
        """The networks that the regularizer acts on."""
        models = [self.distilled_model if self.distils else self.student_model]
        return [*models, self.model] if self.student.labels == "soft" else models

    @property
    def takes_regularizer(self) -> bool:
        """Whether a penalty has a place in the method: every one that trains on real images."""
        return self.method not in ("random", "herding")

    @property
    def distils(self) -> bool:
        """Whether there is a small set, of `ipc` images a class, that the student is trained on."""
        return self.method != "whole"

    @property
    def distilled_model(self) -> ModelConfig:
        """The network that the set is distilled with."""
        own = {
            "dc": self.dc.model,
            "dsa": self.dsa.model,
            "mtt": self.mtt.model,
            "tesla": self.tesla.model,
            "mat": self.mat.model,
        }
        return own.get(self.method) or self.model

    @property
    def student_model(self) -> ModelConfig:
        return self.student.model or self.distilled_model

    def fingerprint(self) -> str:
        """As of any config, but data with a known content is named by it, wherever it lies."""
        values = self.to_dict()
        if self.data.sha256:
            values["data"]["path"] = ""
        return digest(values)[:16]

    def unregularized(self) -> TrialConfig:
        """The control: the same trial without the penalty."""
        return self.override({"regularizer": "none"})

"""Starting points: a full config and a search space for each data set.

The papers' hyper-parameters are those of SRe2L (arXiv 2306.13092), CDA, DC, DSA and MTT (named
settings in `guard.config`) and of GUARD's experiments (arXiv 2403.10045); `digits` and the `-small`
presets are tuned here for a small CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from guard.config import (
    DataConfig,
    DsaOp,
    EvaluationConfig,
    ModelConfig,
    RegularizerConfig,
    StudentConfig,
    TrainConfig,
)
from guard.methods.dc import DC, DSA
from guard.methods.mtt import MAT, MTT, TESLA, ExpertConfig, expert_training
from guard.methods.sre2l import CDA, SRe2L
from guard.trial import TrialConfig
from tune.confirmation import Confirmation


@dataclass(frozen=True)
class Preset:
    """What `--preset` stands for."""

    config: TrialConfig
    """Its IPC is that of the studies that do not vary it."""
    space: Mapping[str, BaseDistribution]
    num_trials: int
    about: str
    confirm: Confirmation = field(default_factory=Confirmation)


def penalty_space(ipc: tuple[int, ...], h: tuple[float, float]) -> dict[str, BaseDistribution]:
    """IPC, and λ and h on a log scale, wide enough to reach teachers that collapse."""
    return {
        "ipc": CategoricalDistribution(ipc),
        "regularizer.weight": FloatDistribution(1e-3, 100, log=True),
        "regularizer.h": FloatDistribution(*h, log=True),
    }


CPU_SUITE = ("pgd20", "margin20", "apgd-ce", "square200")
"""White-box attacks on two losses and a black box, some 500 passes: what a CPU can confirm with. On
digits its figures are within 0.2 points of those with 100 steps and 500 queries."""
UNMIRRORED: tuple[DsaOp, ...] = ("crop", "scale", "rotate")
"""DSA without what digits do not survive: mirroring, inverted contrast, covered strokes."""


def digits() -> Preset:
    """Every method on one small BatchNorm network, and one student recipe for all of them."""
    experts = ExpertConfig(
        count=5,
        train=replace(expert_training(), epochs=20, batch_size=64, lr=0.02, dsa_ops=UNMIRRORED),
    )
    adversarial = replace(experts, ema=0.9, adversary=RegularizerConfig.named("fgsm-rs"))
    matching: dict[str, Any] = {
        "iterations": 50,
        "student_steps": 10,
        "max_start": 8,
        "rate": 0.05,
        "lr_images": 10.0,
        "augment": UNMIRRORED,
    }
    config = TrialConfig(
        data=DataConfig(name="digits", validation_fraction=0.2),
        model=ModelConfig(name="bn-convnet", width=32, depth=4),
        ipc=5,
        regularizer=RegularizerConfig(weight=0.3, h=0.1, fraction=0.25, weight_warmup_epochs=5),
        squeeze=TrainConfig(
            epochs=20, batch_size=64, optimizer="adamw", lr=3e-3, weight_decay=0.01
        ),
        sre2l=SRe2L(chunk=5),
        cda=CDA(chunk=5, crop_scale=0.5, flip=False),
        dc=DC.from_dict({"iterations": 20, "inner_epochs": 5, "batch_size": 32, "lr_images": 1.0}),
        dsa=DSA(iterations=10, inner_epochs=10, batch_size=32, augment=UNMIRRORED),
        mtt=MTT.from_dict({**matching, "experts": experts}),
        tesla=TESLA.from_dict({**matching, "experts": experts, "soft_labels": False}),
        mat=MAT.from_dict({**matching, "experts": adversarial}),
        student=StudentConfig(
            train=TrainConfig(
                epochs=200,
                batch_size=50,
                optimizer="adamw",
                lr=1e-3,
                weight_decay=0.01,
                augment=("dsa",),
                dsa_ops=UNMIRRORED,
            ),
            temperature=20,
            mix="cutmix",
        ),
        evaluation=EvaluationConfig(eps=0.1, attacks=("pgd20",)),
    )
    methods = CategoricalDistribution(("sre2l", "cda"))
    space = {"method": methods, **penalty_space(ipc=(1, 10), h=(0.01, 3))}
    confirm = Confirmation(configurations=2, attacks=CPU_SUITE)
    return Preset(
        config, space, 12, "scikit-learn's 8x8 digits; about 7 minutes on 2 cores", confirm
    )


def fashion_mnist() -> Preset:
    small = cifar10_small()
    config = small.config.override(
        {
            "data": {"name": "fashion-mnist"},
            "squeeze.augment": [],
            "squeeze.batch_size": 128,
            "sre2l.flip": True,
            "student.train.augment": ["flip"],
            "evaluation.eps": 0.1,
            "regularizer.h": 0.1,
            "regularizer.weight": 0.1,
        }
    )
    about = "Fashion-MNIST on a small BatchNorm ConvNet"
    return Preset(config, small.space, 20, about, small.confirm)


def condensed_on(model: ModelConfig) -> dict[str, Any]:
    """DC, DSA and MTT on the papers' ConvNet, whatever the trial's model."""
    sections = ("dc", "dsa", "mtt", "tesla", "mat")
    return {f"{name}.model": model.to_dict() for name in sections}


def cifar10() -> Preset:
    config = TrialConfig(
        data=DataConfig(name="cifar10"),
        model=ModelConfig(name="resnet18"),
        regularizer=RegularizerConfig(weight=1, h=0.25, fraction=0.25),
        squeeze=TrainConfig(epochs=200, batch_size=128, lr=0.1, augment=("crop", "flip")),
        evaluation=EvaluationConfig(eps=1 / 255),
    ).override(
        {
            "sre2l": "cifar",
            "cda": "cifar",
            "mtt": "cifar10-10",
            "student": "sre2l-cifar",
            **condensed_on(ModelConfig(name="convnet", width=128, depth=3)),
        }
    )
    return Preset(config, penalty_space((1, 10, 50), h=(0.03, 3)), 60, "the papers' CIFAR-10")


def cifar100() -> Preset:
    config = cifar10().config.override(
        {
            "data.name": "cifar100",
            "mtt": "cifar100-10",
            "mtt.model": cifar10().config.mtt.model,
        }
    )
    return Preset(config, penalty_space((1, 10, 50), h=(0.03, 3)), 60, "the papers' CIFAR-100")


def cifar10_small() -> Preset:
    experts = {
        "count": 5,
        "train": replace(expert_training(), epochs=12, batch_size=128, lr=0.02).to_dict(),
    }
    matching = {
        "iterations": 40,
        "student_steps": 15,
        "max_start": 8,
        "rate": 0.02,
        "lr_images": 100,
        "experts": experts,
    }
    adversary = RegularizerConfig.named("fgsm-rs").to_dict()
    config = cifar10().config.override(
        {
            "dc": {"iterations": 12, "inner_epochs": 10, "batch_size": 64, "lr_images": 10},
            "dsa": {"iterations": 12, "inner_epochs": 10, "batch_size": 64},
            "mtt": matching,
            "tesla": {**matching, "soft_labels": False},
            "mat": {**matching, "experts": {**experts, "ema": 0.99, "adversary": adversary}},
            **condensed_on(ModelConfig(name="convnet", width=32, depth=3)),
            "model": {"name": "bn-convnet", "width": 32, "depth": 5},
            "squeeze": {
                "epochs": 10,
                "batch_size": 64,
                "optimizer": "adamw",
                "lr": 3e-3,
                "weight_decay": 0.01,
                "augment": ["crop", "flip"],
                "warmup_epochs": 1,
            },
            "regularizer.weight": 0.3,
            "regularizer.bn": "train",
            "regularizer.weight_warmup_epochs": 3,
            "sre2l": {"iterations": 300, "lr": 0.1, "bn_weight": 0.1, "jitter": 2, "chunk": 10},
            "cda": {
                "iterations": 300,
                "lr": 0.1,
                "bn_weight": 0.1,
                "jitter": 2,
                "chunk": 10,
                "crop_scale": 0.4,
            },
            "student.train.epochs": 200,
            "student.train.batch_size": 50,
            "student.temperature": 20,
            "evaluation.max_samples": 1000,
        }
    )
    space = penalty_space((1, 10), h=(0.03, 3))
    confirm = Confirmation(configurations=2, attacks=CPU_SUITE)
    return Preset(config, space, 12, "CIFAR-10 cut down for a CPU: a 5-layer ConvNet", confirm)


def imagenette() -> Preset:
    """GUARD's settings: those of SRe2L on ImageNet with half of the iterations."""
    config = TrialConfig(
        data=DataConfig(name="imagenette"),
        model=ModelConfig(name="resnet18"),
        regularizer=RegularizerConfig(weight=1, h=1, units="eps", fraction=0.25),
        squeeze=TrainConfig(
            epochs=50,
            batch_size=32,
            lr=0.025,
            weight_decay=1e-4,
            augment=("resized-crop", "flip"),
        ),
        evaluation=EvaluationConfig(eps=1 / 255, batch_size=100),
    ).override(
        {
            "sre2l": "imagenet",
            "sre2l.iterations": 2000,
            "cda": "imagenet",
            "cda.iterations": 2000,
            "student": "sre2l-imagenet",
            "student.train.batch_size": 100,
            **condensed_on(ModelConfig(name="convnet", width=128, depth=5)),
        }
    )
    return Preset(config, penalty_space((1, 10, 50), h=(0.1, 10)), 40, "ImageNette at 224 px")


def imagenette_small() -> Preset:
    small = cifar10_small()
    config = small.config.override(
        {
            "data": {"name": "imagenette", "image_size": 64},
            **condensed_on(ModelConfig(name="convnet", width=32, depth=4)),
            "model": {"name": "bn-convnet", "width": 16, "depth": 7},
            "squeeze.epochs": 20,
            "regularizer.weight_warmup_epochs": 5,
            "evaluation.max_samples": 500,
        }
    )
    about = "ImageNette at 64 px with a small network, for a CPU"
    return Preset(config, small.space, 12, about, small.confirm)


def imagenet() -> Preset:
    config = imagenette().config.override({"data.name": "imagenet"})
    return Preset(config, penalty_space((10, 50), h=(0.1, 10)), 20, "ImageNet-1K at 224 px")


def tiny_imagenet() -> Preset:
    config = imagenette().config.override(
        {
            "data.name": "tiny-imagenet",
            "model.stem": "64",
            "squeeze": {
                "epochs": 50,
                "batch_size": 256,
                "lr": 0.2,
                "weight_decay": 1e-4,
                "warmup_epochs": 5,
                "augment": ["resized-crop", "flip"],
            },
            "sre2l": "tiny-imagenet",
            "cda": "tiny-imagenet",
            "mtt": "tiny-imagenet-10",
            "student": "sre2l-tiny-imagenet",
            **condensed_on(ModelConfig(name="convnet", width=128, depth=4)),
        }
    )
    return Preset(config, penalty_space((10, 50), h=(0.1, 10)), 40, "Tiny ImageNet at 64 px")


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10-small": cifar10_small,
    "cifar100": cifar100,
    "imagenette": imagenette,
    "imagenette-small": imagenette_small,
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet,
}

"""The papers' settings: SRe2L (arXiv 2306.13092), CDA, DC, DSA and MTT (named settings of their
sections), and GUARD's experiments (arXiv 2403.10045)."""

from __future__ import annotations

from guard.config import DataConfig, EvaluationConfig, ModelConfig, RegularizerConfig, TrainConfig
from guard.trial import TrialConfig
from studies.presets.preset import Preset, condensed_on, penalty_space


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
    return Preset(
        config=config,
        space=penalty_space((1, 10, 50), h=(0.03, 3)),
        num_trials=60,
        about="the papers' CIFAR-10",
    )


def cifar100() -> Preset:
    config = cifar10().config.override(
        {
            "data.name": "cifar100",
            "mtt": "cifar100-10",
            "mtt.model": cifar10().config.mtt.model,
        }
    )
    return Preset(
        config=config,
        space=penalty_space((1, 10, 50), h=(0.03, 3)),
        num_trials=60,
        about="the papers' CIFAR-100",
    )


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
    return Preset(
        config=config,
        space=penalty_space((1, 10, 50), h=(0.1, 10)),
        num_trials=40,
        about="ImageNette at 224 px",
    )


def imagenet() -> Preset:
    config = imagenette().config.override({"data.name": "imagenet"})
    return Preset(
        config=config,
        space=penalty_space((10, 50), h=(0.1, 10)),
        num_trials=20,
        about="ImageNet-1K at 224 px",
    )


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
    return Preset(
        config=config,
        space=penalty_space((10, 50), h=(0.1, 10)),
        num_trials=40,
        about="Tiny ImageNet at 64 px",
    )

"""The papers' settings: SRe2L (arXiv 2306.13092), CDA, DC, DSA, MTT and TESLA (named settings of
their sections, and what they publish by IPC), and GUARD's experiments (arXiv 2403.10045).

What is different here, in all of them: a tenth of each class's training images is kept apart for
validation, where the papers train on all and look at test images; each data set is normalised by
its own statistics; and every method's set is judged by the same student, SRe2L's. Each paper's own
student is `--set student=mtt`, `dsa` or `dc`.
"""

from __future__ import annotations

from typing import Any

from guard.config import DataConfig, EvaluationConfig, ModelConfig, RegularizerConfig, SqueezeConfig
from guard.methods.mtt import MTT, TESLA
from guard.trial import TrialConfig
from studies.presets.preset import Preset, condensed_on, penalty_space

IMAGENET_TEST_CROP = 0.875
"""Resize(256) and CenterCrop(224)."""


def trajectories(mtt: str, tesla: str) -> dict[str, Any]:
    """MTT, and MAT, whose own constants are not public, as MTT publishes it at each IPC, and TESLA
    as it does, with the released gradient, which its learning rates are for."""
    released = {**TESLA.as_published(tesla), "published_half": True}
    return {
        "mtt": MTT.as_published(mtt),
        "mat": MTT.as_published(mtt),
        "tesla": {**released, "soft_labels": tesla == "imagenet"},
    }


def cifar10() -> Preset:
    """TESLA publishes IPC 1 alone; at others it has the same settings."""
    config = TrialConfig(
        data=DataConfig(name="cifar10"),
        model=ModelConfig(name="resnet18"),
        regularizer=RegularizerConfig(weight=1, h=0.25, fraction=0.25),
        squeeze=SqueezeConfig(epochs=200, batch_size=128, lr=0.1, augment=("crop", "flip")),
        evaluation=EvaluationConfig(eps=1 / 255),
    ).override(
        {
            "sre2l": "cifar",
            "cda": "cifar",
            "student": "sre2l-cifar",
            **trajectories("cifar10", "cifar10"),
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
    """CIFAR-100's own channel statistics, where SRe2L, MTT and GUARD have those of CIFAR-10. TESLA
    publishes IPC 50 alone; at others it has the same settings."""
    config = cifar10().config.override(
        {
            "data.name": "cifar100",
            **trajectories("cifar100", "cifar100"),
            **condensed_on(ModelConfig(name="convnet", width=128, depth=3)),
        }
    )
    return Preset(
        config=config,
        space=penalty_space((1, 10, 50), h=(0.03, 3)),
        num_trials=60,
        about="the papers' CIFAR-100",
    )


def imagenette() -> Preset:
    """GUARD's settings: those of SRe2L on ImageNet with half of the iterations. MTT's and TESLA's
    are those of other sides, see `imagenette_128`."""
    config = TrialConfig(
        data=DataConfig(name="imagenette", center_crop=IMAGENET_TEST_CROP),
        model=ModelConfig(name="resnet18"),
        regularizer=RegularizerConfig(weight=1, h=1, units="eps", fraction=0.25),
        squeeze=SqueezeConfig(
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
            "rded": "rded-224",
            "student": "sre2l-imagenet",
            "student.train.batch_size": 100,
            **trajectories("imagenet-subset", "imagenet"),
            **condensed_on(ModelConfig(name="convnet", width=128, depth=5)),
        }
    )
    return Preset(
        config=config,
        space=penalty_space((1, 10, 50), h=(0.1, 10)),
        num_trials=40,
        about="ImageNette at 224 px",
    )


def imagenette_128() -> Preset:
    """MTT on its subsets of ImageNet. The images are fastai's second split of ImageNette, where MTT
    has ImageNet's own."""
    data = {"name": "imagenette", "image_size": 128}
    config = imagenette().config.override({"data": data, "method": "mtt"})
    return Preset(
        config=config,
        space=penalty_space((1, 10), h=(0.1, 10)),
        num_trials=20,
        about="ImageNette at 128 px, for MTT",
    )


def imagenet() -> Preset:
    """TESLA's own are at 64 px, on a ConvNet of depth 4; nobody publishes MTT's."""
    config = imagenette().config.override({"data.name": "imagenet"})
    return Preset(
        config=config,
        space=penalty_space((10, 50), h=(0.1, 10)),
        num_trials=20,
        about="ImageNet-1K at 224 px",
    )


def tiny_imagenet() -> Preset:
    """At 64 px, as SRe2L and MTT have it; GUARD enlarges the images to 224. TESLA publishes nothing
    for it, so it has those of ImageNet."""
    config = imagenette().config.override(
        {
            "data": {"name": "tiny-imagenet"},
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
            "rded": "rded",
            **trajectories("tiny-imagenet", "imagenet"),
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

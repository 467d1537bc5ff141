"""Settings that are tuned here for a small CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution

from guard.config import (
    DataConfig,
    DsaOp,
    EvaluationConfig,
    ModelConfig,
    RegularizerConfig,
    SqueezeConfig,
    StudentConfig,
    TrainConfig,
)
from guard.methods.dc import DC, DSA
from guard.methods.dm import C2R, DM, IDM, NCFM, ROME, NetworksConfig
from guard.methods.mtt import DATM, MAT, MTT, TESLA
from guard.methods.mtt.experts import ExpertConfig, expert_training
from guard.methods.sre2l import CDA, SMALL, SRe2L
from guard.trial import TrialConfig
from studies.presets.papers import cifar10
from studies.presets.preset import Preset, condensed_on, penalty_space
from tune.confirmation import Confirmation

CPU_SUITE = ("pgd20", "margin20", "apgd-ce", "square200")
"""White-box attacks on two losses and a black box, some 500 passes: what a CPU can confirm with. On
digits its figures are within 0.2 points of those with 100 steps and 500 queries."""
UNMIRRORED: tuple[DsaOp, ...] = ("crop", "scale", "rotate")
"""DSA without what digits do not survive: mirroring, inverted contrast, covered strokes."""


def digits() -> Preset:
    """Every method on one small BatchNorm network, and one student recipe for all of them.

    For 8x8 images. On 28 px its students stay near chance at IPC 5, where a batch is the whole set
    and 200 epochs are 200 steps: too few, whatever the images are. Digits enlarged to 28 px, under
    a teacher of 99.7 %: 32 %; 76 % in batches of 10; with sre2l.bn_weight = 1 too 85 %, and 96 %
    after 1,000 steps of 50. Random real images with the teacher's labels: 64 % after 200 steps,
    99 % after 1,000. Longer recovery alone (1,000 iterations): 48 %. RDED's smallest crop makes no
    difference under a teacher's labels (0.08 to 1: 98.4 to 99.1 % clean, 45 to 48 % robust, on
    validation images, three seeds); with hard labels whole images are 8 points cleaner.
    """
    config = TrialConfig(
        data=DataConfig(name="digits", validation_fraction=0.2),
        model=ModelConfig(name="bn-convnet", width=32, depth=4),
        ipc=5,
        regularizer=RegularizerConfig(weight=0.3, h=0.1, fraction=0.25, weight_warmup_epochs=5),
        squeeze=SqueezeConfig(
            epochs=20, batch_size=64, optimizer="adamw", lr=3e-3, weight_decay=0.01
        ),
        sre2l=SRe2L(chunk=5),
        cda=CDA(chunk=5, crop_scale=0.5, flip=False),
        dc=DC.from_dict({"iterations": 20, "inner_epochs": 5, "batch_size": 32, "lr_images": 1.0}),
        dsa=DSA(iterations=10, inner_epochs=10, batch_size=32, augment=UNMIRRORED),
        **_trajectories_of_digits(),
        **_distributions_of_digits(),
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
        config=config,
        space=space,
        num_trials=24,
        about="scikit-learn's 8x8 digits; about 5 minutes on 2 cores",
        confirm=confirm,
    )


def _trajectories_of_digits() -> dict[str, Any]:
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
    return {
        "mtt": MTT.from_dict({**matching, "experts": experts}),
        "tesla": TESLA.from_dict({**matching, "experts": experts, "soft_labels": False}),
        "mat": MAT.from_dict({**matching, "experts": adversarial}),
        "datm": DATM.from_dict({**matching, **WINDOW, "experts": experts}),
    }


WINDOW: dict[str, Any] = {
    "first_max_start": 4,
    "growth_iterations": 30,
    "lr_labels": 2.0,
    "image_ema": 0.9,
}
"""Of DATM, in as few iterations as the small presets have."""
FEW_STEPS = RegularizerConfig(kind="adversarial", steps=3, step_size=0.5)
QUEUE = NetworksConfig(initial=3, every=10, most=20, trained_at_once=1, steps=5, batch_size=64)


def _distributions_of_digits() -> dict[str, Any]:
    """Four pixels a side are no digit, so an image is one."""
    matching: dict[str, Any] = {"iterations": 100, "batch_size": 32, "augment": UNMIRRORED}
    trained = {**matching, "networks": QUEUE, "partition": 1}
    attacked = {**trained, "adversary": FEW_STEPS, "lr_images": 0.01}
    return {
        "dm": DM.from_dict(matching),
        "idm": IDM.from_dict({**trained, "lr_images": 0.1}),
        "ncfm": NCFM.from_dict({**trained, "lr_images": 0.02, "frequencies": 512}),
        "rome": ROME.from_dict(attacked),
        "c2r": C2R.from_dict(attacked),
    }


def fashion_mnist() -> Preset:
    """For grey images of 28 px, MNIST too. Students learn from few images in many steps: 600 epochs
    in batches of 10 instead of 200 in batches of 50 take them from 66 to 78 % at IPC 10 (10,000
    training images, a teacher of 89 %), and on digits enlarged to 28 px from 54 to 81 % at IPC 5.
    """
    small = cifar10_small()
    config = small.config.override(
        {
            "data": {"name": "fashion-mnist"},
            "squeeze.augment": [],
            "squeeze.batch_size": 128,
            "sre2l.flip": True,
            "student.train.augment": ["flip"],
            "student.train.batch_size": 10,
            "student.train.epochs": 600,
            "evaluation.eps": 0.1,
            "regularizer.h": 0.1,
            "regularizer.weight": 0.1,
        }
    )
    about = "Fashion-MNIST on a small BatchNorm ConvNet"
    return Preset(
        config=config, space=small.space, num_trials=20, about=about, confirm=small.confirm
    )


def cifar10_small() -> Preset:
    config = cifar10().config.override(
        {
            "dc": {"iterations": 12, "inner_epochs": 10, "batch_size": 64, "lr_images": 10},
            "dsa": {"iterations": 12, "inner_epochs": 10, "batch_size": 64},
            **_trajectories_of_cifar(),
            **_distributions_of_cifar(),
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
            "sre2l": dict(SMALL),
            "cda": {**SMALL, "crop_scale": 0.4},
            "student.train.epochs": 200,
            "student.train.batch_size": 50,
            "student.train.decay_all": False,
            "student.temperature": 20,
            "evaluation.max_samples": 1000,
        }
    )
    space = penalty_space((1, 10), h=(0.03, 3))
    confirm = Confirmation(configurations=2, attacks=CPU_SUITE)
    return Preset(
        config=config,
        space=space,
        num_trials=12,
        about="CIFAR-10 cut down for a CPU: a 5-layer ConvNet",
        confirm=confirm,
    )


def _trajectories_of_cifar() -> dict[str, Any]:
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
    return {
        "mtt": matching,
        "tesla": {**matching, "soft_labels": False},
        "mat": {**matching, "experts": {**experts, "ema": 0.99, "adversary": adversary}},
        "datm": {**matching, **WINDOW},
    }


def _distributions_of_cifar() -> dict[str, Any]:
    means = {"iterations": 100, "batch_size": 64}
    trained = {**means, "networks": QUEUE.to_dict()}
    attacked = {**trained, "adversary": FEW_STEPS.to_dict()}
    return {"dm": means, "idm": trained, "ncfm": trained, "rome": attacked, "c2r": attacked}


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
    return Preset(
        config=config, space=small.space, num_trials=12, about=about, confirm=small.confirm
    )

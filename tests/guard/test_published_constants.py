"""Named settings and defaults have the constants that are published, written down once more."""

from __future__ import annotations

from typing import Any

import pytest

from guard.config import RegularizerConfig, StudentConfig
from guard.config.schema import Config
from guard.methods.dm import C2R, DM, IDM, NCFM, ROME
from guard.methods.mtt import DATM
from guard.methods.rded import RDED
from guard.methods.sre2l import SRe2L

PUBLISHED: dict[str, tuple[Config, dict[str, Any]]] = {
    "RD3's student": (
        StudentConfig.named("rd3"),
        {
            "train.epochs": 400,
            "train.batch_size": 50,
            "train.optimizer": "adamw",
            "train.lr": 1e-3,
            "train.weight_decay": 0,
            "train.schedule": "cosine",
            "train.augment": ["resized-crop", "flip"],
            "mix": "cutmix",
            "loss": "kl",
            "temperature": 20,
        },
    ),
    "RDED's student": (
        StudentConfig.named("rded"),
        {
            "train.epochs": 300,
            "train.batch_size": 50,
            "train.lr": 1e-3,
            "train.weight_decay": 0.01,
            "train.schedule": "half-cosine",
            "train.augment": ["flip"],
            "mix": "cutmix",
            "temperature": 20,
        },
    ),
    "RDED's student at 224 px": (
        StudentConfig.named("rded-imagenet"),
        {"train.augment": ["shuffle", "resized-crop", "flip"], "train.crop_scale": 0.5},
    ),
    "EDC's student": (
        StudentConfig.named("edc"),
        {"train.epochs": 1000, "loss": "mse", "ema": 0.99, "train.schedule": "half-cosine"},
    ),
    "HALD's student": (
        StudentConfig.named("hald"),
        {
            "train.epochs": 300,
            "hard_epochs": 200,
            "hard_smoothing": 0.8,
            "train.batch_size": 16,
            "labels": "budget",
            "budget": 70,
        },
    ),
    "RDED": (
        RDED(),
        {
            "candidates": 300,
            "crops": 5,
            "crop_scale": 0.08,
            "tiles": 1,
            "score": "loss",
            "attack_steps": 0,
            "pick": "easiest",
        },
    ),
    "RDED at 224 px": (RDED.named("rded-224"), {"tiles": 2}),
    "SRe2L++ on CIFAR-10": (
        SRe2L.named("sre2l++"),
        {
            "iterations": 4000,
            "lr": 0.25,
            "bn_weight": 0.01,
            "first_bn_multiplier": 10,
            "crop": "batch",
            "flip": True,
            "patches.pick": "medium",
        },
    ),
    "FADRM on CIFAR-10": (
        SRe2L.named("fadrm"),
        {"iterations": 2000, "phases": 4, "residual": 0.5, "patches.pick": "easiest"},
    ),
    "DM on CIFAR-10 at IPC 10": (
        DM(),
        {
            "iterations": 20_000,
            "batch_size": 256,
            "lr_images": 1,
            "momentum": 0.5,
            "init": "real",
            "distance": "squared",
            "partition": 1,
            "augment": ["color", "crop", "cutout", "flip", "scale", "rotate"],
        },
    ),
    "DM at IPC 50": (DM.named("cifar10-50"), {"lr_images": 10}),
    "IDM's queue": (
        IDM(),
        {
            "partition": 2,
            "networks.initial": 3,
            "networks.every": 30,
            "networks.most": 100,
            "networks.trained_at_once": 2,
            "networks.steps": 10,
            "networks.batch_size": 256,
            "networks.lr": 0.01,
        },
    ),
    "IDM at IPC 1": (IDM.named("cifar10-1"), {"networks.every": 5, "networks.initial": 3}),
    "NCFM on CIFAR-10 at IPC 10": (
        NCFM(),
        {
            "frequencies": 4096,
            "optimizer": "adamw",
            "lr_images": 0.01,
            "iterations": 20_000,
            "partition": 2,
            "networks.initial": 20,
            "networks.most": 20,
        },
    ),
    "ROME at IPC 1": (ROME.named("cifar10-1"), {"batch_size": 5000, "networks.every": 5}),
    "ROME on CIFAR-100 at IPC 10": (ROME.named("cifar100-10"), {"networks.steps": 50}),
    "DATM on CIFAR-10 at IPC 10": (
        DATM(),
        {
            "student_steps": 80,
            "first_max_start": 10,
            "max_start": 20,
            "growth_iterations": 1000,
            "lr_labels": 2,
            "image_ema": 0.9995,
            "start_known": True,
        },
    ),
    "RSLAD": (RegularizerConfig.named("rslad"), {"weight": 5 / 6, "steps": 10}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_setting_has_the_published_constants(name: str) -> None:
    config, published = PUBLISHED[name]
    flat = config.flat()
    assert {path: flat[path] for path in published} == published


ALPHA, RATE = 0.2, 0.2
"""Of ROME's α·distance + (1 − α)·w·accuracy·cross-entropy, and its learning rate."""


@pytest.mark.parametrize(
    ("method", "w"), [(ROME(), 0.5), (ROME.named("cifar10-50"), 0.1), (C2R(), 0.5)]
)
def test_romes_terms_stand_to_one_another_as_published(method: ROME, w: float) -> None:
    assert method.distance == "absolute"
    assert method.label_weight == pytest.approx((1 - ALPHA) * w / ALPHA)


@pytest.mark.parametrize(
    ("method", "eta"), [(ROME(), 0.0), (C2R(), 0.4), (C2R.named("cifar10-50"), 0.6)]
)
def test_a_contrast_has_its_published_share(method: ROME, eta: float) -> None:
    """(1 − η)·ROME + η·contrast, over what its distance is weighed by."""
    of_distance = (1 - eta) * ALPHA
    assert method.contrast_weight == pytest.approx(eta / of_distance)
    assert method.lr_images == pytest.approx(RATE * of_distance)

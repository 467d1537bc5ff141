"""The papers' recipes of students, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONDENSATION_STUDENT: Mapping[str, Any] = {"batch_size": 256, "lr": 0.01, "schedule": "step"}
RDED_STUDENT: Mapping[str, Any] = {
    "epochs": 300,
    "batch_size": 50,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "decay_all": True,
    "schedule": "half-cosine",
}

STUDENT_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "sre2l-imagenet": {
        "train": {
            "epochs": 300,
            "batch_size": 1024,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "augment": ("resized-crop", "flip"),
        },
        "mix": "cutmix",
    },
    "sre2l-tiny-imagenet": {
        "train": {
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.2,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "augment": ("resized-crop", "flip"),
        },
        "scale_by_t2": True,
    },
    "sre2l-cifar": {
        "train": {
            "epochs": 400,
            "batch_size": 128,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "decay_all": True,
            "augment": ("crop", "flip"),
        },
        "temperature": 30,
        "mix": "mixup",
        "mix_alpha": 0.8,
    },
    "rd3": {
        "train": {
            "epochs": 400,
            "batch_size": 50,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "augment": ("resized-crop", "flip"),
        },
        "mix": "cutmix",
    },
    "rded": {"train": {**RDED_STUDENT, "augment": ("flip",)}, "mix": "cutmix"},
    "rded-imagenet": {
        "train": {
            **RDED_STUDENT,
            "augment": ("shuffle", "resized-crop", "flip"),
            "crop_scale": 0.5,
        },
        "mix": "cutmix",
    },
    "edc": {
        "train": {**RDED_STUDENT, "epochs": 1000, "augment": ("resized-crop", "flip")},
        "loss": "mse",
        "ema": 0.99,
        "mix": "cutmix",
    },
    "hald": {
        "train": {
            **RDED_STUDENT,
            "batch_size": 16,
            "decay_all": False,
            "augment": ("resized-crop", "flip"),
        },
        "labels": "budget",
        "budget": 70,
        "hard_epochs": 200,
        "mix": "cutmix",
    },
    "dc": {"train": {**CONDENSATION_STUDENT, "epochs": 300}},
    "dsa": {"train": {**CONDENSATION_STUDENT, "epochs": 1000, "augment": ("dsa",)}},
    "mtt": {
        "train": {**CONDENSATION_STUDENT, "epochs": 1000, "augment": ("dsa",)},
        "learned_lr": True,
    },
}
"""The papers' recipes: SRe2L (arXiv 2306.13092) by data set, DC, DSA and MTT; RD3, one for all
methods that label by a teacher (its Adam is AdamW without decay); RDED (arXiv 2312.03526) at
IPC 10, on CIFAR as on Tiny ImageNet, and at 224 px, where images are two by two crops; EDC
(arXiv 2404.13733), of which epochs, loss and average are published and the rest is RDED's; HALD
(arXiv 2512.15647) at IPC 10, whose budget is ten labels for each of 100 images."""

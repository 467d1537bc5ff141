"""Which image of a set is of which class, and which are those of a smaller set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laboratory import CLASSES, DISTILS, IPC, OPTIMISES, Lab, names, with_field

from guard.data.datasets import load_data
from guard.data.images import load_images
from guard.methods.rded import RDED
from guard.methods.sre2l import SRe2L
from guard.methods.subset import Random
from guard.models.saving import load_model
from guard.trial import methods
from helpers import CPU


def exact(name: str) -> dict[str, Any] | None:
    """Changes that leave each image recognisable as one of its class, where there are some."""
    if issubclass(methods()[name], SRe2L):
        plain = {"crop": "none", "curriculum": "none", "jitter": 0, "flip": False, "bn_weight": 0}
        return {f"{name}.{path}": value for path, value in {**plain, "iterations": 40}.items()}
    if name in OPTIMISES:
        whole = {f"{name}.partition": 1} if name in with_field("partition") else {}
        return {f"{name}.lr_images": 1e-12, f"{name}.init": "real", **whole}
    if issubclass(methods()[name], RDED):
        return {f"{name}.crop_scale": 1.0}
    return {} if issubclass(methods()[name], Random) else None


@pytest.mark.parametrize("name", [name for name in DISTILS if exact(name) is not None])
def test_image_i_of_class_c_has_number_i_times_k_plus_c(name: str, lab: Lab) -> None:
    config = lab.config(name, **(exact(name) or {}))
    made = lab.made(config)
    if issubclass(methods()[name], SRe2L):
        teacher = load_model(lab.run(config).paths["teacher"])
        assert teacher(made.images).argmax(dim=1).tolist() == made.labels.tolist()
        return
    train = load_data(config.data).train
    real = load_images(train, torch.arange(len(train)), CPU)
    distances = (made.images[:, None] - real).abs().amax(dim=(2, 3, 4))
    assert float(distances.amin(dim=1).max()) < 1e-6
    assert train.y[distances.argmin(dim=1)].tolist() == made.labels.tolist()


@pytest.mark.parametrize("name", names(lambda method: issubclass(method, (SRe2L, Random, RDED))))
def test_a_smaller_set_is_a_prefix_of_a_larger_one(name: str, lab: Lab) -> None:
    small, large = (lab.made(lab.config(name, ipc=ipc)) for ipc in (IPC, 4))
    assert torch.equal(large.images[: CLASSES * IPC], small.images)
    assert torch.equal(large.labels[: CLASSES * IPC], small.labels)

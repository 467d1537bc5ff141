"""Recovery that starts from real patches and goes on in phases, and losses of another scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import Lab, keys, stages
from recovering import SPEC, teacher
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from guard.checkpoint import Checkpoint
from guard.config import ModelConfig
from guard.data.tiles import resized
from guard.methods.sre2l import SRe2L
from guard.methods.sre2l.recover import Aims, between, phase_begins, recover_images
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.batchnorm import batchnorms
from guard.models.networks import build_model
from guard.pipeline import local_runner
from helpers import draws

LABELS = torch.arange(4).repeat(2)
PATCHES = torch.rand(8, 3, 8, 8, generator=draws(11))


def recovered(
    patches: Tensor | None = PATCHES, checkpoint: Checkpoint | None = None, **config: Any
) -> Tensor:
    settings = SRe2L.from_dict({"iterations": 4, **({"patches": {}} if config else {}), **config})
    place = [checkpoint] if checkpoint else []
    aims = Aims(patches=patches)
    return recover_images([teacher()], SPEC, LABELS, settings, draws(), *place, aims=aims)[0]


def test_images_start_as_their_patches_and_draw_nothing_for_it() -> None:
    found = recovered(lr=1e-9)
    torch.testing.assert_close(found, PATCHES, rtol=0, atol=1e-4)
    assert not torch.allclose(recovered(lr=0.1), PATCHES, atol=0.01)
    assert not torch.allclose(recovered(patches=None, lr=1e-9), PATCHES, atol=0.1)


def test_between_phases_images_are_mixed_with_their_patches() -> None:
    """With a vanishing rate nothing else happens: 1 − (1 − r)^(phases − 1) of the patch."""
    layer = teacher().normalize
    config = SRe2L.from_dict({"patches": {}, "phases": 2, "residual": 0.25})
    other = torch.rand(8, 3, 8, 8, generator=draws(3))
    mixed = layer.inverse(between(layer(other), layer, config, 1, Aims(patches=PATCHES)))
    torch.testing.assert_close(mixed, 0.75 * other + 0.25 * PATCHES)


def test_a_recovery_in_phases_is_adam_begun_anew_under_one_cosine() -> None:
    """Written out for the first phase and the first step of the second."""
    model, lr, steps = teacher().double(), 0.3, 4
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    patches = PATCHES.double()
    u = (patches - mean) / std
    for step in range(3):
        if step in (0, 2):
            first, second, count = torch.zeros_like(u), torch.zeros_like(u), 0
        if step == 2:
            u = ((u * std + mean) * 0.6 + patches * 0.4 - mean) / std
        u.requires_grad_()
        with BatchNormLoss(model, 10) as bn_loss:
            loss = F.cross_entropy(model(u * std + mean), LABELS) + 0.05 * bn_loss.take()
        (gradient,) = torch.autograd.grad(loss, u)
        count += 1
        first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
        ratio = first / (1 - 0.5**count) / (second / (1 - 0.9**count)).sqrt()
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        u = (u.detach() - rate * ratio).clamp(-mean / std, (1 - mean) / std)
        if step == 2:
            break
    stopped = SRe2L.from_dict(
        {
            "iterations": steps,
            "lr": lr,
            "bn_weight": 0.05,
            "patches": {},
            "phases": 2,
            "residual": 0.4,
        }
    )
    found = after(stopped, 3)
    difference = (found.double() - (u * std + mean)).abs()
    assert float(difference.median()) < 1e-4
    assert float(difference.quantile(0.9)) < 2e-3


def after(config: SRe2L, steps: int) -> Tensor:
    """The images after so many steps, from a checkpoint."""

    class Stop(Exception):
        pass

    class Kept(Checkpoint):
        def offer(self, parts: Any, progress: Any) -> None:
            if progress == steps:
                raise Stop(parts["iterate"].u.detach().clone())

    with pytest.raises(Stop) as caught:
        aims = Aims(patches=PATCHES)
        recover_images([teacher()], SPEC, LABELS, config, draws(), Kept(None), aims)
    layer = teacher().normalize
    u = caught.value.args[0]
    assert isinstance(u, Tensor)
    return layer.inverse(u)


def test_phases_are_equal_parts() -> None:
    assert phase_begins(SRe2L(iterations=10)) == {}
    assert phase_begins(SRe2L(iterations=10, phases=4)) == {2: 1, 5: 2, 7: 3}


@pytest.mark.parametrize("patches", [None, PATCHES])
def test_each_phase_has_its_size_and_the_last_images_their_own(patches: Tensor | None) -> None:
    seen: list[int] = []
    model = teacher()
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    config = SRe2L.from_dict(
        {"iterations": 6, "phases": 3, "sizes": [6, 12, 4], "crop": "batch", "jitter": 1}
    )
    images, _ = recover_images([model], SPEC, LABELS, config, draws(), aims=Aims(patches=patches))
    assert seen == [6, 6, 12, 12, 4, 4]
    assert images.shape == (8, 3, 8, 8)
    assert 0 <= images.min() and images.max() <= 1


def test_patches_are_mixed_in_at_the_size_of_the_phase() -> None:
    layer = teacher().normalize
    config = SRe2L.from_dict({"patches": {}, "phases": 2, "residual": 1.0, "sizes": [8, 5]})
    found = between(layer(1 - PATCHES), layer, config, 1, Aims(patches=PATCHES))
    torch.testing.assert_close(layer.inverse(found), resized(PATCHES, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [[], [6, 8, 10]])
def test_a_recovery_in_phases_that_is_taken_up_again_ends_in_the_same_bytes(
    sizes: list[int], tmp_path: Path
) -> None:
    config = {"iterations": 6, "phases": 3, "residual": 0.5, "sizes": sizes, "flip": True}
    whole = recovered(**config)
    for steps in (2, 3):
        folder = tmp_path / str(steps)
        with pytest.raises(KeyboardInterrupt):
            recovered(checkpoint=Interrupted(folder, steps), **config)
        assert torch.equal(recovered(checkpoint=Checkpoint(folder, 0), **config), whole)


class Interrupted(Checkpoint):
    """Ends the work once it has kept so many steps."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder, 0)
        self.steps = steps

    def offer(self, parts: Any, progress: Any) -> None:
        super().offer(parts, progress)
        if progress == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("multiplier", [1.0, 10.0, 0.0])
def test_the_mean_of_the_bn_loss_is_of_root_mean_squares(multiplier: float) -> None:
    model = teacher().double()
    x = torch.rand(3, 3, 8, 8, generator=draws(5), dtype=torch.float64)
    terms, layers = [], batchnorms(model)
    inputs: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, own: inputs.append(own[0])) for layer in layers
    ]
    model(x)
    for handle in handles:
        handle.remove()
    for z, layer in zip(inputs, layers, strict=True):
        variance, mean = torch.var_mean(z.detach(), dim=(0, 2, 3), correction=0)
        gaps = (mean - layer.running_mean, variance - layer.running_var)
        terms.append(sum(float(gap.square().mean()) ** 0.5 for gap in gaps))
    weights = [multiplier] + [1.0] * (len(layers) - 1)
    expected = sum(w * t for w, t in zip(weights, terms, strict=True)) / sum(weights)
    with BatchNormLoss(model, multiplier, "mean") as loss:
        model(x)
        assert float(loss.take().detach()) == pytest.approx(expected, rel=1e-9)


def test_one_weight_of_the_mean_serves_networks_of_any_width() -> None:
    """Untrained ones, whose layers are as far from the images in each channel."""

    def value(width: int, scale: Any) -> float:
        model = build_model(ModelConfig(width=width, depth=3), SPEC, 0).eval()
        with BatchNormLoss(model, 1.0, scale) as loss, torch.no_grad():
            model(torch.rand(16, 3, 8, 8, generator=draws()))
            return float(loss.take())

    assert value(64, "mean") == pytest.approx(value(4, "mean"), rel=0.35)
    assert value(64, "sum") > 2 * value(4, "sum")


def test_a_recovery_from_patches_reads_those_of_its_chunk(lab: Lab) -> None:
    config = lab.config(
        "sre2l", ipc=3, **{"sre2l.patches": {"candidates": 6}, "sre2l.chunk": 2, "sre2l.lr": 1e-9}
    )
    lab.run(config)
    (mosaic,) = stages(config, "mosaic")
    patches = load_file(lab.store.path(mosaic) / "images.safetensors")["images"]
    assert len(patches) == 3
    for stage, rows in zip(stages(config, "recover"), ([0, 1], [2, 0]), strict=True):
        made = load_file(lab.store.path(stage) / "images.safetensors")["images"]
        torch.testing.assert_close(made, patches[rows], rtol=0, atol=1e-4)


def test_a_recovery_of_everything_new_completes(lab: Lab) -> None:
    config = lab.config(
        "cda",
        **{
            "cda.patches": {"candidates": 5, "pick": "medium"},
            "cda.phases": 3,
            "cda.residual": 0.5,
            "cda.sizes": [6, 10, 8],
            "cda.bn_statistics": "class",
            "cda.bn_scale": "mean",
            "model": {"name": "bn-convnet", "width": 6, "depth": 2},
        },
    )
    result = lab.run(config)
    assert (result.status, result.reason) == ("complete", "")
    assert {"mosaic", "class-statistics", "recover"} <= {own.name for own in result.stages}
    images = lab.made(config).images
    assert 0 <= images.min() and images.max() <= 1


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_what_is_off_moves_no_key(name: str, lab: Lab) -> None:
    config = lab.config(name)
    off = {"patches": None, "phases": 1, "residual": 0, "sizes": [], "bn_scale": "sum"}
    same = config.override({f"{name}.{path}": value for path, value in off.items()})
    assert keys(same) == keys(config) and same.fingerprint() == config.fingerprint()
    changed = {"patches": {}, "phases": 2, "bn_statistics": "class", "bn_scale": "mean"}
    for path, value in changed.items():
        assert keys(config.override({f"{name}.{path}": value}), "recover") != keys(
            config, "recover"
        )


def test_statistics_are_measured_once_for_all_chunks(lab: Lab) -> None:
    config = lab.config("sre2l", **{"sre2l.bn_statistics": "class", "sre2l.chunk": 1})
    assert len(stages(config, "recover")) == 2
    assert len(stages(config, "class-statistics")) == 1
    local_runner(lab.store)(stages(config, "squeeze")[0], stages(config, "class-statistics")[0])

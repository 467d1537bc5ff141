from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import guard.methods.sre2l.recover as sre2l
from guard.artifacts import ArtifactStore, build
from guard.config import ModelConfig
from guard.data.augment import crop_windows, resized_crop
from guard.data.datasets import load_data
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.errors import Diverged
from guard.methods.sre2l import CDA, SRe2L
from guard.methods.sre2l.recover import BatchNormLoss, augmented, recover_images, smallest_crop
from guard.models.networks import Classifier, batchnorms, build_model
from guard.models.saving import load_model
from guard.pipeline import local_runner, plan, run_trial
from guard.trial import TrialConfig

SPEC = ImageSpec(3, 8, 4, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), tuple("abcd"))
LABELS = torch.arange(4).repeat(2)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher(seed: int = 0) -> Classifier:
    """A network whose BatchNorm layers have seen some images."""
    model = build_model(ModelConfig(width=4, depth=2), SPEC, seed)
    for step in range(5):
        model(torch.rand(16, 3, 8, 8, generator=draws(step)))
    model.network[-1].weight.data.mul_(5)
    return model.eval()


def recovered(seed: int = 0, **config: Any) -> tuple[Tensor, dict[str, float]]:
    settings = SRe2L(**{"iterations": 4, **config})
    return recover_images(teacher(), SPEC, LABELS, settings, draws(seed))


def two_layers() -> nn.Sequential:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    for number, layer in enumerate(batchnorms(model)):
        layer.running_mean.copy_(torch.rand(layer.num_features, generator=draws(number)))
        layer.running_var.copy_(torch.rand(layer.num_features, generator=draws(number + 9)) + 0.5)
    return model


def distance_by_hand(x: Tensor, layer: nn.BatchNorm2d) -> float:
    total = {"mean": 0.0, "var": 0.0}
    for channel in range(x.shape[1]):
        values = x[:, channel].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        total["mean"] += (mean - float(layer.running_mean[channel])) ** 2
        total["var"] += (variance - float(layer.running_var[channel])) ** 2
    return math.sqrt(total["mean"]) + math.sqrt(total["var"])


@pytest.mark.parametrize("multiplier", [1.0, 10.0, 0.0])
def test_the_bn_loss_sums_unsquared_distances_of_the_statistics(multiplier: float) -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64)
    first, second = batchnorms(model)
    inner = model[1](model[0](x)).detach()
    expected = multiplier * distance_by_hand(x, first) + distance_by_hand(inner, second)
    with BatchNormLoss(model, multiplier) as loss:
        model(x)
        assert float(loss.take().detach()) == pytest.approx(expected, rel=1e-9)


def test_the_bn_loss_is_taken_once_and_stops_with_its_block() -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64)
    with BatchNormLoss(model, 10) as loss:
        model(x)
        first = float(loss.take().detach())
        model(2 * x)
        assert float(loss.take().detach()) != first
        model(x)
        assert float(loss.take().detach()) == first
    model(x)
    assert loss.terms == []
    assert not any(layer._forward_pre_hooks for layer in batchnorms(model))


def test_the_bn_loss_is_differentiable_in_the_images() -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        with BatchNormLoss(model, 10) as loss:
            model(x)
            return loss.take()

    assert torch.autograd.gradcheck(value, (x,))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"jitter": 2, "flip": True, "crop": "batch"},
        {"crop": "image", "crop_scale": 0.5},
        {"lr": 100.0},
    ],
)
def test_recovered_images_are_pixels_and_repeatable(config: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    images, last = recovered(**config)
    again, last_again = recovered(**config)
    assert torch.equal(torch.get_rng_state(), before)
    assert images.shape == (8, 3, 8, 8) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1
    assert torch.equal(images, again) and last == last_again
    assert not torch.equal(recovered(seed=1, **config)[0], images)
    assert set(last) == {"label_loss", "bn_loss"}


def test_recovery_is_adam_with_a_cosine_on_clamped_normalised_images() -> None:
    """In single precision a few pixels take another side of a ReLU than here."""
    model, steps, lr = teacher().double(), 4, 0.3
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    u = torch.randn(8, 3, 8, 8, generator=draws()).double()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for step in range(steps):
        u.requires_grad_()
        with BatchNormLoss(model, 10) as bn_loss:
            loss = F.cross_entropy(model(u * std + mean), LABELS) + 0.05 * bn_loss.take()
        (gradient,) = torch.autograd.grad(loss, u)
        first = 0.5 * first + 0.5 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        ratio = first / (1 - 0.5 ** (step + 1)) / (second / (1 - 0.9 ** (step + 1))).sqrt()
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        u = (u.detach() - rate * ratio).clamp(-mean / std, (1 - mean) / std)
    images, _ = recovered(iterations=steps, lr=lr, bn_weight=0.05)
    difference = (images.double() - (u * std + mean)).abs()
    assert float(difference.quantile(0.95)) < 1e-3
    assert float(difference.median()) < 1e-4


def losses_of(images: Tensor) -> tuple[float, float]:
    model = teacher()
    with torch.no_grad(), BatchNormLoss(model, 10) as bn_loss:
        return float(F.cross_entropy(model(images), LABELS)), float(bn_loss.take())


def test_recovery_lowers_both_losses() -> None:
    start, end = (losses_of(recovered(iterations=n, lr=0.1)[0]) for n in (1, 60))
    assert end[0] < 0.7 * start[0]
    assert end[1] < 0.7 * start[1]


def test_the_bn_weight_trades_the_losses_against_each_other() -> None:
    light, heavy = (
        losses_of(recovered(iterations=40, lr=0.1, bn_weight=weight)[0]) for weight in (0, 10)
    )
    assert light[0] < heavy[0]
    assert light[1] > 1.5 * heavy[1]


def test_recovery_leaves_the_teacher_as_it_was() -> None:
    model = teacher()
    before = copy.deepcopy(model.state_dict())
    recover_images(model, SPEC, LABELS, SRe2L(iterations=2), draws())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training
    assert not any(layer._forward_pre_hooks for layer in batchnorms(model))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_recovery_that_is_not_finite_diverges(bad: float) -> None:
    model = teacher()
    model.network[-1].bias.data[0] = bad
    with pytest.raises(Diverged, match="the recovery loss became nan"):
        recover_images(model, SPEC, LABELS, SRe2L(iterations=2), draws())


def test_a_view_without_augmentation_is_the_images_and_draws_nothing() -> None:
    u, generator = torch.rand(4, 3, 8, 8), draws()
    assert augmented(u, SRe2L(), 0, generator) is u
    assert torch.equal(generator.get_state(), draws().get_state())


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"jitter": 3}, True),
        ({"jitter": 3, "two_sided_jitter": True}, True),
        ({"crop": "batch"}, True),
        ({"crop": "image"}, False),
        ({"flip": True}, False),
    ],
)
def test_views_are_drawn_per_batch_or_per_image(config: dict[str, Any], same: bool) -> None:
    one = torch.rand(1, 3, 8, 8, generator=draws(1))
    views = augmented(one.expand(16, -1, -1, -1), SRe2L(**config), 0, draws(2))
    assert bool((views - views[:1]).abs().max() < 1e-6) is same
    assert not torch.allclose(views, one)


@pytest.mark.parametrize("two_sided", [False, True])
def test_the_jitter_is_one_sided_or_two_sided(two_sided: bool) -> None:
    u = torch.rand(1, 3, 8, 8, generator=draws(1))
    config = SRe2L(jitter=2, two_sided_jitter=two_sided)
    offsets = range(-2 if two_sided else 0, 3)
    rolled = {(d, r): u.roll((d, r), (2, 3)) for d in offsets for r in offsets}
    views = [augmented(u, config, 0, draws(seed)) for seed in range(200)]
    seen = [{at for at, v in rolled.items() if torch.equal(v, view)} for view in views]
    assert all(len(at) == 1 for at in seen)
    assert set().union(*seen) == set(rolled)


def curriculum_by_hand(kind: str, step: int, length: float, lowest: float) -> float:
    """Smallest area share of CDA: from 1 to `lowest` over `length` iterations, then constant."""
    if step >= length:
        return lowest
    if kind == "step":
        return 1.0
    if kind == "linear":
        return 1.0 - (1.0 - lowest) * step / length
    return lowest + (1.0 - lowest) * math.cos(math.pi * step / (2 * length)) ** 2


@pytest.mark.parametrize("milestone", [0.0, 0.35, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
def test_a_curriculum_of_crops_is_that_of_cda(kind: str, milestone: float) -> None:
    config = CDA(iterations=10, crop_scale=0.2, curriculum=kind, milestone=milestone)
    scales = [smallest_crop(config, step) for step in range(10)]
    expected = [curriculum_by_hand(kind, step, 10 * milestone, 0.2) for step in range(10)]
    assert scales == pytest.approx(expected, rel=1e-12)
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == (1.0 if milestone else 0.2)


def test_without_a_curriculum_a_crop_keeps_the_same_share() -> None:
    config = CDA(iterations=10, crop_scale=0.3, curriculum="none")
    assert {smallest_crop(config, step) for step in range(10)} == {0.3}


@pytest.mark.parametrize(("crop", "count"), [("batch", 1), ("image", 5)])
@pytest.mark.parametrize("step", [0, 6, 9])
def test_crops_follow_the_curriculum(crop: str, count: int, step: int) -> None:
    u = torch.rand(5, 3, 8, 8, generator=draws(1))
    config = CDA(iterations=10, crop=crop, flip=False, crop_scale=0.1)
    windows = crop_windows(count, smallest_crop(config, step), draws(3))
    view = augmented(u, config, step, draws(3))
    torch.testing.assert_close(view, resized_crop(u, windows))
    assert torch.allclose(view, u, atol=1e-6) is (step == 0)


def recover_stages(config: TrialConfig) -> list[Any]:
    return [stage for stage in plan(config) if stage.name == "recover"]


@pytest.mark.parametrize(
    ("ipc", "chunk", "count"), [(1, 1, 1), (10, 1, 10), (10, 10, 1), (10, 4, 3), (1, 10, 1)]
)
def test_a_set_is_recovered_in_chunks(
    ipc: int, chunk: int, count: int, tiny_config: TrialConfig
) -> None:
    stages = recover_stages(tiny_config.override({"ipc": ipc, "sre2l.chunk": chunk}))
    assert len({stage.key for stage in stages}) == len(stages) == count
    assert [stage.config["chunk"] for stage in stages] == list(range(count))


def test_many_classes_are_recovered_in_groups(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage,) = recover_stages(trial.config)
    calls: list[list[int]] = []

    def label_images(
        model: Classifier, spec: ImageSpec, y: Tensor, config: SRe2L, generator: Any
    ) -> tuple[Tensor, dict[str, float]]:
        calls.append(y.tolist())
        return y.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8), {"label_loss": float(len(calls))}

    monkeypatch.setattr(sre2l, "MAX_CLASSES_AT_ONCE", 4)
    monkeypatch.setattr(sre2l, "recover_images", label_images)
    summary = sre2l.recover(stage, trial.store, tmp_path)
    images = load_file(tmp_path / "images.safetensors")["images"]
    assert calls == [[0, 1, 2, 3] * 2, [4, 5, 6, 7] * 2, [8, 9] * 2]
    assert images.shape == (2, 10, 1, 8, 8)
    assert images[:, :, 0, 0, 0].tolist() == [list(range(10))] * 2
    assert summary == {"metrics": {"label_loss": 2.0}}


def test_a_set_of_a_smaller_ipc_is_a_prefix(trial: SimpleNamespace) -> None:
    larger = run_trial(trial.config.override({"ipc": 3}), local_runner(trial.store))
    small, large = (
        DistilledSet.load(result.paths["distilled"]) for result in (trial.result, larger)
    )
    assert (small.ipc, large.ipc) == (2, 3)
    assert torch.equal(large.images[:20], small.images)
    assert torch.equal(large.labels[:20], small.labels)
    assert not torch.equal(large.images[20:], small.images[:10])
    built = {record.name: record.built for record in larger.stages[:4]}
    assert built == {"squeeze": False, "evaluate": False, "recover": True}
    assert [r.built for r in larger.stages if r.name == "recover"] == [False, True]


def test_a_set_holds_the_teachers_labels_and_its_origin(trial: SimpleNamespace) -> None:
    made = DistilledSet.load(trial.result.paths["distilled"])
    model = load_model(trial.result.paths["teacher"])
    with torch.no_grad():
        probabilities = model(made.images).softmax(dim=1)
    assert made.soft_labels is not None
    torch.testing.assert_close(made.soft_labels, probabilities)
    assert made.labels.tolist() == list(range(10)) * 2
    assert (made.card["method"], made.card["ipc"]) == ("sre2l", 2)
    teacher = squeeze_stage(trial.config)
    assert made.card["inputs"]["teacher"] == teacher.address
    origin = made.card["made_by"]["teacher"]
    assert (origin["name"], origin["config"]) == ("squeeze", teacher.config)
    assert set(made.card["inputs"]) == {"teacher", "part-0000"} == set(made.card["made_by"])
    distilled = next(stage for stage in plan(trial.config) if stage.name == "distilled")
    record = json.loads((trial.result.paths["distilled"] / "stage.json").read_text())
    agreement = (probabilities.argmax(dim=1) == made.labels).double().mean()
    assert record["summary"]["metrics"]["teacher_agreement"] == pytest.approx(float(agreement))
    assert trial.store.path(distilled.address) == trial.result.paths["distilled"]
    assert (trial.result.paths["distilled"] / "images.png").is_file()


@pytest.mark.parametrize(
    "off",
    [
        {"regularizer": "none"},
        {"regularizer.weight": 0},
        {"regularizer.kind": "none"},
        {"regularizer": {"kind": "loss-difference", "weight": 0, "h": 9, "units": "eps"}},
    ],
)
def test_no_penalty_is_one_stage_however_it_is_said(
    off: dict[str, Any], tiny_config: TrialConfig
) -> None:
    control = squeeze_stage(tiny_config.unregularized())
    assert squeeze_stage(tiny_config.override(off)).key == control.key
    assert squeeze_stage(tiny_config).key != control.key


def test_the_radius_is_part_of_a_teacher_only_in_its_units(tiny_config: TrialConfig) -> None:
    changed = {"evaluation.eps": 0.2}
    assert squeeze_stage(tiny_config).key == squeeze_stage(tiny_config.override(changed)).key
    in_eps = tiny_config.override({"regularizer.units": "eps"})
    assert squeeze_stage(in_eps).key != squeeze_stage(in_eps.override(changed)).key
    assert squeeze_stage(in_eps.override(changed)).config["eps"] == 0.2


def train_teacher(config: TrialConfig, root: Path) -> dict[str, Tensor]:
    store = ArtifactStore(root)
    artifact = store.get_or_build(squeeze_stage(config), build)
    return load_file(artifact.path / "model.safetensors")


def test_a_penalty_changes_the_teacher_and_its_draws_do_not(
    tiny_config: TrialConfig, tmp_path: Path, trial: SimpleNamespace
) -> None:
    """With h tiny the penalty vanishes, so what is left is what it draws and touches."""
    short = tiny_config.override({"squeeze.epochs": 1, "squeeze.lr": 0.02})
    control = train_teacher(short.unregularized(), tmp_path)
    vanishing = train_teacher(
        short.override({"regularizer": {"h": 1e-12, "weight": 1e-12, "fraction": 0.1}}), tmp_path
    )
    penalised = train_teacher(short.override({"regularizer.weight": 3}), tmp_path)
    for name, value in control.items():
        torch.testing.assert_close(vanishing[name], value)
    changed = [name for name in control if not torch.allclose(control[name], penalised[name])]
    assert any(name.endswith("weight") for name in changed)


def test_a_teacher_is_better_than_chance_and_saved_as_trained(trial: SimpleNamespace) -> None:
    model = load_model(trial.result.paths["teacher"])
    validation = load_data(trial.config.data).validation
    x, y = next(validation.batches(1000, torch.device("cpu")))
    reached = float((model(x).argmax(dim=1) == y).double().mean())
    assert reached > 0.4
    assert int(batchnorms(model)[0].num_batches_tracked) > 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"squeeze.optimizer": "sgd", "squeeze.lr": 1e6},
            r"^squeeze: the training loss became (nan|inf) in epoch 1$",
        ),
        (
            {"squeeze.optimizer": "sgd", "regularizer.weight": 1e6},
            r"^squeeze: (the training loss became|validation accuracy .* no better than chance)",
        ),
    ],
)
def test_a_teacher_that_diverges_ends_the_trial(
    change: dict[str, Any], reason: str, tiny_config: TrialConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"squeeze.epochs": 1, **change})
    runner = local_runner(ArtifactStore(tmp_path))
    for built in (True, False):
        result = run_trial(config, runner)
        assert result.status == "diverged"
        assert re.search(reason, result.reason)
        assert [(r.name, r.built) for r in result.stages] == [("squeeze", built)]
        assert result.metrics == {} and result.paths == {}


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_a_method_that_recovers_reads_squeeze_and_its_own_section(
    name: str, tiny_config: TrialConfig
) -> None:
    assert METHODS[name].sections == ("squeeze", name)
    assert METHODS[name].soft_labels
    assert not METHODS[name].needs_real_images(tiny_config)


def test_cda_recovers_with_its_own_section_from_the_same_teacher(tiny_config: TrialConfig) -> None:
    cda = tiny_config.override({"method": "cda", "cda.iterations": 7})
    assert plan(cda)[0].key == plan(tiny_config)[0].key
    assert recover_stages(cda)[0].config["recover"] == cda.cda.to_dict()
    assert recover_stages(cda)[0].config["recover"]["iterations"] == 7

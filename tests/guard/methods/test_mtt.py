from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artifacts import ArtifactStore, build
from guard.config import DSA_OPS, ModelConfig, RegularizerConfig
from guard.data.augment import in_deviations
from guard.data.datasets import load_data
from guard.data.dsa import DsaDraw
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.errors import Diverged
from guard.methods import mtt
from guard.methods.dc.matching import initial_images
from guard.methods.mtt import MTT
from guard.methods.mtt.matching import Expert, LearnedRate, Snapshots, TrajectoryMatching, by_class
from guard.methods.mtt.trajectory import (
    TrajectoryGradient,
    adjoint,
    call,
    flat_parameters,
    tesla,
    unroll,
)
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, build_model
from guard.models.saving import load_model
from guard.seeding import derive
from guard.training.losses import TrainingLoss
from guard.trial import TrialConfig

SPEC = ImageSpec(3, 8, 4, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), tuple("abcd"))
CPU = torch.device("cpu")
EPOCHS, IPC = 4, 3
SNAPSHOTS = "snapshots.safetensors"
LABELS = torch.arange(4).repeat_interleave(3)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def visits(count: int, seed: int = 0) -> list[Tensor]:
    """Where a model with five parameters is at first and after each step."""
    return list(torch.randn(count + 1, 5, generator=draws(seed), dtype=torch.float64))


def kept_of(ema: float, path: list[Tensor], steps_per_epoch: int) -> Snapshots:
    model = nn.Linear(5, 1, bias=False).double()

    def go(theta: Tensor) -> nn.Module:
        nn.utils.vector_to_parameters(theta, model.parameters())
        return model

    snapshots = Snapshots(go(path[0]), ema)
    for step, theta in enumerate(path[1:], 1):
        snapshots.after_step(go(theta))
        if step % steps_per_epoch == 0:
            snapshots.after_epoch(model)
    return snapshots


@pytest.mark.parametrize("a", [0.3, 0.9, 0.999])
def test_the_moving_average_is_its_closed_form(a: float) -> None:
    path = visits(12)
    kept = kept_of(a, path, 4).kept
    assert len(kept) == 4
    for snapshot, n in zip(kept, (0, 4, 8, 12), strict=True):
        expected = a**n * path[0]
        for i in range(1, n + 1):
            expected = expected + (1 - a) * a ** (n - i) * path[i]
        torch.testing.assert_close(snapshot, expected, rtol=1e-10, atol=1e-12)


def test_without_a_moving_average_the_parameters_themselves_are_kept() -> None:
    path = visits(12)
    for snapshot, theta in zip(kept_of(0, path, 4).kept, path[::4], strict=True):
        assert torch.equal(snapshot, theta)


@pytest.mark.parametrize("a", [0.0, 0.8])
def test_distances_are_means_over_the_epochs(a: float) -> None:
    path = visits(6)
    snapshots = kept_of(a, path, 2)
    raw = [math.dist(path[n], path[n + 2]) for n in (0, 2, 4)]
    kept = [math.dist(*snapshots.kept[n : n + 2]) for n in range(3)]
    expected = {"epoch_distance": sum(kept) / 3, "raw_epoch_distance": sum(raw) / 3}
    assert snapshots.metrics() == pytest.approx(expected, rel=1e-9)
    assert (expected["epoch_distance"] == pytest.approx(sum(raw) / 3)) is (a == 0)


def trial(method: str = "mtt", **overrides: Any) -> TrialConfig:
    config = TrialConfig(method=method, ipc=IPC, regularizer=RegularizerConfig.named("none"))
    section = {
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "experts": {
            "count": 2,
            "train": {"epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "momentum": 0},
        },
        "iterations": 2,
        "student_steps": 6,
        "expert_epochs": 2,
        "max_start": 2,
        "rate": 0.05,
        "lr_images": 1.0,
    }
    return config.override({method: section, **overrides})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """store, two experts (stages and artifacts) on digits, the model they start from."""
    store, config = ArtifactStore(tmp_path_factory.mktemp("mtt")), trial()
    stages = METHODS["mtt"].teachers(config)
    artifacts = [store.get_or_build(stage, build) for stage in stages]
    experts = [Expert(artifact.path) for artifact in artifacts]
    model = load_model(artifacts[0].path).train()
    splits = load_data(config.data)
    return SimpleNamespace(
        config=config,
        store=store,
        stages=stages,
        artifacts=artifacts,
        experts=experts,
        model=model,
        splits=splits,
    )


def test_experts_keep_their_parameters_at_first_and_after_every_epoch(
    digits: SimpleNamespace,
) -> None:
    for number, artifact in enumerate(digits.artifacts):
        theta = load_file(artifact.path / SNAPSHOTS)["theta"]
        config, spec = digits.config.mtt.model, digits.splits.spec
        initial = build_model(config, spec, derive(derive(0, "expert", number), "teacher"))
        assert theta.shape == (EPOCHS + 1, len(flat_parameters(initial)))
        assert torch.equal(theta[0], flat_parameters(initial))
        assert torch.equal(theta[-1], flat_parameters(load_model(artifact.path)))
        assert len({float(row.sum()) for row in theta}) == EPOCHS + 1
        assert len(artifact.summary["history"]) == EPOCHS
        distances = (theta[1:] - theta[:-1]).norm(dim=1)
        metrics = artifact.summary["metrics"]
        assert metrics["epoch_distance"] == pytest.approx(float(distances.mean()), rel=1e-5)
        assert metrics["raw_epoch_distance"] == pytest.approx(metrics["epoch_distance"])
        for epoch in range(EPOCHS + 1):
            assert torch.equal(Expert(artifact.path).snapshot(epoch, CPU), theta[epoch])


def test_experts_differ_and_repeat(digits: SimpleNamespace, tmp_path: Path) -> None:
    first, second = (artifact.path / SNAPSHOTS for artifact in digits.artifacts)
    assert first.read_bytes() != second.read_bytes()
    again = ArtifactStore(tmp_path).get_or_build(digits.stages[1], build)
    assert (again.path / SNAPSHOTS).read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"regularizer": "gradient-norm"},
        {"mtt.experts.adversary": "fgsm-rs", "evaluation.eps": 0.1},
        {"mtt.experts.adversary": "fgsm-rs", "evaluation.eps": 0.1, "regularizer": "gradient-norm"},
        {"mtt.experts.ema": 0.9},
    ],
)
def test_experts_are_trained_and_kept_as_the_config_says(
    change: dict[str, Any],
    digits: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same seed, so what differs is the loss, or the average alone."""
    losses: list[TrainingLoss] = []
    original = TrainingLoss.__call__

    def noted(self: TrainingLoss, *args: Any) -> Any:
        losses.append(self)
        return original(self, *args)

    monkeypatch.setattr(TrainingLoss, "__call__", noted)
    config = trial(**{"mtt.experts.train.epochs": 3, **change})
    stage = METHODS["mtt"].teachers(config)[0]
    artifact = ArtifactStore(tmp_path).get_or_build(stage, build)
    theta = load_file(artifact.path / SNAPSHOTS)["theta"]
    plain = load_file(digits.artifacts[0].path / SNAPSHOTS)["theta"]
    assert torch.equal(theta[0], plain[0])
    assert torch.equal(theta[-1], flat_parameters(load_model(artifact.path)))
    assert not torch.allclose(theta[1], plain[1], rtol=1e-3)
    (loss,) = set(losses)
    assert loss.regularizer.kind == config.regularizer.kind
    assert loss.adversary == config.mtt.experts.adversary
    assert loss.eps == (0.1 if loss.adversary.active else 0)
    if "mtt.experts.ema" in change:
        assert float((theta[1] - plain[0]).norm()) < float((plain[1] - plain[0]).norm())


@pytest.mark.parametrize("lr", [1e-4, 1e-6])
def test_a_learned_rate_moves_to_first_order_as_sgd_with_momentum(lr: float) -> None:
    rate = LearnedRate(0.05, lr)
    value = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr, momentum=0.5)
    for gradient in torch.randn(20, generator=draws()).tolist():
        before = float(value.detach())
        rate.step(gradient)
        value.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert float(value.detach()) != before
    moved = float(value.detach()) - 0.05
    assert rate.value - 0.05 == pytest.approx(moved, rel=100 * lr)


@pytest.mark.parametrize("gradient", [1e3, -1e3, 1e30, -1e30, math.inf])
def test_a_learned_rate_stays_positive_and_moves_by_a_tenth_at_most(gradient: float) -> None:
    rate = LearnedRate(0.05, 1.0)
    for _ in range(50):
        before = rate.value
        rate.step(gradient)
        assert 0 < rate.value < math.inf
        assert rate.value / before == pytest.approx(math.exp(-math.copysign(0.1, gradient)))


def test_a_learned_rate_can_stay() -> None:
    rate = LearnedRate(0.05, 0.0)
    rate.step(3.0)
    assert rate.value == 0.05


def experts_at(folder: Path, *theta: Tensor) -> list[Expert]:
    """Experts with snapshots (epochs + 1, P)."""
    experts = []
    for number, rows in enumerate(theta):
        (folder / str(number)).mkdir()
        save_file({"theta": rows}, folder / str(number) / SNAPSHOTS)
        experts.append(Expert(folder / str(number)))
    return experts


def convnet() -> Classifier:
    return build_model(ModelConfig(name="convnet", width=4, depth=2), SPEC).train()


def matching(ipc: int = 3, experts: list[Expert] | None = None, **config: Any) -> Any:
    settings = MTT(**{"student_steps": 5, "rate": 0.1, **config})
    return TrajectoryMatching(settings, convnet(), experts or [], SPEC, ipc, 0, CPU)


def synthetic(count: int = 12, seed: int = 3) -> Tensor:
    """u, images in [0, 1] behind the first layer, class after class."""
    x = torch.rand(count, 3, 8, 8, generator=draws(seed))
    layer: Tensor = Normalize(SPEC.mean, SPEC.std)(x)
    return layer


def theta_at(seed: int = 0, count: int = 1) -> Tensor:
    """Random parameters of the convnet, (count, P)."""
    start = flat_parameters(convnet())
    return start + 0.1 * torch.randn(count, len(start), generator=draws(seed))


@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_the_loss_of_a_step_is_a_pure_function(augment: tuple[str, ...]) -> None:
    generator, before = draws(), torch.get_rng_state()
    loss = matching(augment=augment, batch_size=4).step_loss(LABELS, generator)
    state = generator.get_state()
    (theta, other), u = theta_at(count=2), synthetic()
    first = [float(loss(theta, u, number)) for number in range(5)]
    assert [float(loss(theta, u, number)) for number in reversed(range(5))] == first[::-1]
    assert float(loss(other, u, 0)) != first[0] != float(loss(theta, u + 0.1 * u**2, 0))
    assert len(set(first)) == 5
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)


def batches_of(run: Any, seed: int = 0) -> list[list[int]]:
    """Which images each student step uses, from where its gradient is not 0."""
    loss, u, theta = run.step_loss(LABELS, draws(seed)), synthetic(), theta_at()[0]
    found = []
    for number in range(run.config.student_steps):
        leaf = u.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(theta, leaf, number), leaf)
        found.append(gradient.flatten(1).any(dim=1).nonzero().flatten().tolist())
    return found


@pytest.mark.parametrize(
    ("size", "sizes"), [(None, [12] * 6), (4, [4] * 6), (5, [5, 5, 2] * 2), (50, [12] * 6)]
)
def test_batches_are_chunks_of_fresh_permutations(size: int | None, sizes: list[int]) -> None:
    run = matching(batch_size=size, student_steps=6, augment=())
    batches = batches_of(run)
    assert [len(batch) for batch in batches] == sizes
    length = -(-12 // (size or 12))
    passes = [batches[i : i + length] for i in range(0, 6, length)]
    for one in passes:
        assert sorted(index for batch in one for index in batch) == list(range(12))
    if length > 1:
        assert passes[0] != passes[1]
        assert batches != batches_of(run, seed=1)
    assert batches == batches_of(run)


def test_labels_are_the_classes_in_turn() -> None:
    assert matching().targets(synthetic(), theta_at()[0]).tolist() == LABELS.tolist()


def test_a_step_is_the_cross_entropy_of_its_images_and_their_labels() -> None:
    run, u, theta = matching(batch_size=5, augment=()), synthetic(), theta_at()[0]
    loss = run.step_loss(LABELS, draws())
    student = convnet()
    nn.utils.vector_to_parameters(theta, student.parameters())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    for number, batch in enumerate(batches_of(run)):
        expected = F.cross_entropy(student(u[batch] * std + mean), LABELS[batch])
        assert float(loss(theta, u, number)) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_step_is_augmented_image_by_image_in_deviations(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, DsaDraw, Tensor]] = []

    def noted(x: Tensor, draw: DsaDraw, spec: ImageSpec) -> Tensor:
        result = in_deviations(x, draw, spec)
        seen.append((x, draw, result))
        return result

    monkeypatch.setattr(mtt, "in_deviations", noted)
    run = matching(batch_size=5, student_steps=30)
    loss, u = run.step_loss(LABELS, draws()), synthetic()
    values = [float(loss(theta_at()[0], u, number)) for number in range(30)]
    assert {draw.op for _, draw, _ in seen} == set(DSA_OPS)
    assert all(draw.count == len(x) for x, draw, _ in seen)
    assert all(len(draw.uniform.unique(dim=0)) == len(x) for x, draw, _ in seen)
    x, _, result = seen[0]
    assert not torch.equal(x, result)
    expected = F.cross_entropy(call(run.model, theta_at()[0], result), matching_labels(run, x, u))
    assert values[0] == pytest.approx(float(expected), rel=1e-5)


def matching_labels(run: Any, x: Tensor, u: Tensor) -> Tensor:
    """Labels of images that are among those of u."""
    return LABELS[(run.pixels(u)[None] - x[:, None]).abs().amax(dim=(2, 3, 4)).argmin(dim=1)]


def test_soft_labels_are_the_target_experts_probabilities_of_the_images_now() -> None:
    run, (theta, other) = matching(soft_labels=True), theta_at(count=2)
    u = synthetic().requires_grad_()
    expert = convnet().eval()
    nn.utils.vector_to_parameters(theta, expert.parameters())
    found = run.targets(u, theta)
    torch.testing.assert_close(found, expert(run.pixels(u)).softmax(dim=1).detach())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    assert not found.requires_grad
    assert not torch.allclose(run.targets(u, other), found, rtol=0.01)
    assert not torch.allclose(run.targets(synthetic(seed=4), theta), found, rtol=0.01)


def test_soft_labels_reach_the_loss() -> None:
    run, u, (theta, other) = matching(soft_labels=True, augment=()), synthetic(), theta_at(count=2)
    soft = run.targets(u, theta)
    logits = call(run.model, other, run.pixels(u))
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert float(run.step_loss(soft, draws())(other, u, 0)) == pytest.approx(float(expected))


def test_mean_labels_are_of_all_experts_at_the_last_matched_epoch(tmp_path: Path) -> None:
    theta = theta_at(count=12).view(2, 6, -1)
    experts = experts_at(tmp_path, *theta)
    run = matching(experts=experts, soft_labels=True, max_start=3, expert_epochs=2)
    u = synthetic()
    labels = [run.targets(u, rows[4]) for rows in theta]
    torch.testing.assert_close(run.mean_labels(u), (labels[0] + labels[1]) / 2)
    assert not torch.allclose(labels[0], labels[1], rtol=0.01)


def problem(run: Any) -> list[Any]:
    """Arguments of a trajectory gradient, through the real loss of a step."""
    theta, target = theta_at(count=2)
    loss = run.step_loss(run.targets(synthetic(), target), draws())
    return [loss, theta, target, synthetic(), torch.tensor(0.1), run.config.student_steps]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("op", DSA_OPS)
def test_the_adjoint_is_the_unrolled_gradient_under_augmentation(op: str, soft: bool) -> None:
    run = matching(augment=(op,), batch_size=5, student_steps=8, soft_labels=soft)
    found, wanted = (gradient(*problem(run)) for gradient in (adjoint, unroll))
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    assert float(found.rate) == pytest.approx(float(wanted.rate), rel=1e-4)
    assert float((found.images - wanted.images).norm() / wanted.images.norm()) < 1e-4
    assert float(wanted.loss) != pytest.approx(1, abs=1e-4), "the student moved"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"gradient": "unroll"}, unroll),
        ({"gradient": "adjoint"}, adjoint),
        ({"gradient": "tesla"}, tesla),
    ],
)
def test_the_gradient_is_the_one_that_is_named(
    config: dict[str, Any], expected: Callable[..., Any]
) -> None:
    assert matching(**config).gradient is expected


def test_the_published_half_is_exactly_half() -> None:
    whole, half = (matching(gradient="tesla", published_half=flag) for flag in (False, True))
    one, other = whole.gradient(*problem(whole)), half.gradient(*problem(half))
    assert torch.equal(other.images, one.images / 2) and one.images.any()
    assert torch.equal(other.rate, one.rate) and torch.equal(other.loss, one.loss)


def trajectory(folder: Path, epochs: int = 6) -> list[Expert]:
    return experts_at(folder, *theta_at(count=2 * epochs + 2).view(2, epochs + 1, -1))


def test_a_run_starts_anywhere_that_it_may_and_aims_some_epochs_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = trajectory(tmp_path)
    run = matching(experts=experts, iterations=30, max_start=3, expert_epochs=2, student_steps=1)
    seen: list[tuple[int, int]] = []
    original = Expert.snapshot

    def noted(self: Expert, epoch: int, device: torch.device) -> Tensor:
        seen.append((experts.index(self), epoch))
        return original(self, epoch, device)

    monkeypatch.setattr(Expert, "snapshot", noted)
    run.run(synthetic())
    starts, targets = seen[::2], seen[1::2]
    assert set(starts) == {(expert, epoch) for expert in (0, 1) for epoch in (0, 1, 2)}
    assert [(expert, epoch + 2) for expert, epoch in starts] == targets


def test_a_run_moves_images_and_rate_by_sgd_with_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every gradient is a known one, and small enough for the images to stay pixels."""
    images = list(torch.randn(3, 12, 3, 8, 8, generator=draws()))
    rates, seen = [1.0, -2.0, 4.0], []

    def gradient(
        loss: Any, theta: Tensor, target: Tensor, u: Tensor, rate: Tensor, steps: int
    ) -> TrajectoryGradient:
        number = len(seen)
        seen.append((u.detach().clone(), float(rate)))
        of_rate = torch.tensor(rates[number])
        return TrajectoryGradient(torch.tensor(float(number)), images[number], of_rate)

    monkeypatch.setattr(TrajectoryMatching, "gradient", property(lambda self: gradient))
    options = {"iterations": 3, "lr_images": 0.01, "lr_rate": 1e-6, "rate": 0.1}
    run = matching(experts=trajectory(tmp_path), max_start=2, **options)
    begin = synthetic() * 0.5
    u, rate, metrics = run.run(begin)
    expected, velocity = [begin], torch.zeros_like(begin)
    for by_images in images:
        velocity = 0.5 * velocity + by_images
        expected.append(expected[-1] - 0.01 * velocity)
    for (found, _), wanted in zip([*seen, (u, rate)], expected, strict=True):
        torch.testing.assert_close(found, wanted)
    shifts = [1.0, 1.0 + (0.5 - 2), 1.0 + (0.5 - 2) + (0.25 - 1 + 4)]
    reached = [(value - 0.1) / 1e-6 for value in [seen[1][1], seen[2][1], rate]]
    assert rate - 0.1 == pytest.approx(-1e-6 * shifts[-1], rel=1e-3)
    assert reached == pytest.approx([-shift for shift in shifts], abs=0.05)
    assert metrics == {"matching_loss": 2.0}
    assert not u.requires_grad


def test_images_stay_pixels_whatever_the_step(tmp_path: Path) -> None:
    experts = trajectory(tmp_path)
    run = matching(experts=experts, iterations=3, lr_images=1e4, max_start=2, student_steps=2)
    begin = synthetic()
    u, _, _ = run.run(begin)
    x = run.pixels(u)
    assert float(x.min()) >= -1e-6 and float(x.max()) <= 1 + 1e-6
    assert float(((x < 1e-6) | (x > 1 - 1e-6)).float().mean()) > 0.2
    assert torch.equal(begin, synthetic()), "the start is not written to"


def test_a_run_repeats_and_leaves_the_model_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    experts = trajectory(tmp_path)
    options = {"iterations": 3, "max_start": 2, "lr_images": 1.0, "lr_rate": 1e-3}
    run = matching(experts=experts, **options)
    state = copy.deepcopy(run.model.state_dict())
    (first, *facts), (again, *same) = run.run(synthetic()), run.run(synthetic())
    assert torch.equal(first, again) and facts == same
    assert not torch.allclose(first, replace(run, seed=1).run(synthetic())[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.mark.parametrize("rate", [1e30, 1e12])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, rate: float) -> None:
    run = matching(experts=trajectory(tmp_path), iterations=3, max_start=2, rate=rate)
    with pytest.raises(Diverged, match="matching loss became"):
        run.run(synthetic())


def test_rows_of_a_class_become_columns_of_a_set() -> None:
    assert by_class(torch.arange(6), 2).tolist() == [[0, 2, 4], [1, 3, 5]]


def matching_loss(run: TrajectoryMatching, u: Tensor, rate: float) -> float:
    """Mean over experts and starts, with augmentations that no iteration drew."""
    values = []
    for seed, expert in enumerate(run.experts):
        for start in range(run.config.max_start):
            theta, target = (expert.snapshot(epoch, CPU) for epoch in (start, start + 2))
            loss = run.step_loss(run.targets(u, target), draws(1000 + seed))
            steps = run.config.student_steps
            found = run.gradient(loss, theta, target, u, torch.tensor(rate), steps)
            values.append(float(found.loss))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({}, 0.6),
        ({"gradient": "unroll", "batch_size": 10}, 0.6),
        ({"gradient": "tesla", "soft_labels": True}, 0.95),
    ],
)
def test_matching_brings_students_closer_to_the_experts(
    config: dict[str, Any], share: float, digits: SimpleNamespace
) -> None:
    options = {"iterations": 15, "student_steps": 4, "lr_images": 300.0, "lr_rate": 1e-3}
    section = replace(digits.config.mtt, rate=0.2, **options, **config)
    spec = digits.splits.spec
    run = TrajectoryMatching(section, digits.model, digits.experts, spec, IPC, 0, CPU)
    begin = initial_images("noise", digits.splits, IPC, digits.model.normalize, 0, CPU)
    u, rate, metrics = run.run(begin.flatten(0, 1))
    before = matching_loss(run, begin.flatten(0, 1), section.rate)
    by_images, by_both = matching_loss(run, u, section.rate), matching_loss(run, u, rate)
    assert by_both < by_images < share * before
    assert 0 < rate != section.rate
    assert math.isfinite(metrics["matching_loss"])


@pytest.mark.parametrize("method", ["mtt", "tesla"])
def test_a_stage_writes_pixels_the_rate_and_soft_labels(
    method: str, digits: SimpleNamespace
) -> None:
    config = trial(method, **{f"{method}.init": "real", f"{method}.lr_rate": 1e-3})
    stages = METHODS[method].teachers(config)
    assert stages == digits.stages, "mtt and tesla share their experts"
    (stage,) = METHODS[method].parts(config, stages)
    part = digits.store.get_or_build(stage, build)
    metrics = part.summary["metrics"]
    assert set(metrics) == {"matching_loss", "learned_lr"}
    whole = digits.store.get_or_build(distilled_stage(config, [stage], None), build)
    found = DistilledSet.load(whole.path)
    assert found.images.shape == (10 * IPC, 1, 8, 8)
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert found.card["learned_lr"] == metrics["learned_lr"] != 0.05
    layer = digits.model.normalize
    begin = initial_images("real", digits.splits, IPC, layer, config.seed, CPU)
    real = layer.inverse(begin.flatten(0, 1)).view_as(begin).transpose(0, 1).flatten(0, 1)
    assert not torch.equal(found.images, real)
    closest = (found.images[:, None] - real[None]).flatten(2).norm(dim=2).argmin(dim=1)
    assert closest.tolist() == list(range(10 * IPC))
    if method == "mtt":
        assert found.soft_labels is None
        return
    run = TrajectoryMatching(
        config.tesla, digits.model, digits.experts, digits.splits.spec, IPC, 0, CPU
    )
    assert found.soft_labels is not None
    torch.testing.assert_close(
        found.soft_labels, run.mean_labels(layer(found.images)), rtol=1e-4, atol=1e-6
    )

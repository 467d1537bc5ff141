"""Runs of gradient matching: images and networks in turn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_matching import LAYER, gradient_of, matching, network, of_class, pixels, splits, start
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import guard.methods.dc.matching as dc
from guard.artifacts import ArtifactStore
from guard.config import DSA_OPS, RegularizerConfig
from guard.data.datasets import load_data
from guard.errors import Diverged
from guard.methods.dc.gradients import ClassGradients
from guard.methods.dc.matching import Matching
from guard.methods.start import initial_images
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier
from guard.seeding import derive
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from guard.trial import TrialConfig
from helpers import CPU, draws


@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_images_stay_pixels_after_every_step(
    augment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = matching(iterations=2, outer_loops=3, lr_images=1e3, augment=augment)
    step, seen = Matching.step, []

    def noted(self: Matching, model: Classifier, u: Tensor, *rest: Any) -> Any:
        seen.append(u.detach().clone())
        return step(self, model, u, *rest)

    monkeypatch.setattr(Matching, "step", noted)
    u, _ = run.run()
    assert len(seen) == 6
    for values in [*map(pixels, seen), pixels(u)]:
        assert float(values.min()) >= -1e-6 and float(values.max()) <= 1 + 1e-6
    assert float((pixels(u) == 0).float().mean()) > 0.1, "the steps are too long to stay inside"
    assert not u.requires_grad


def test_images_move_by_sgd_with_momentum_across_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = matching(iterations=2, outer_loops=2, lr_images=0.01, momentum=0.5)
    gradients = [torch.randn(3, 2, 3, 8, 8, generator=draws(seed)) for seed in range(4)]
    left = list(gradients)

    def step(self: Matching, model: Classifier, u: Tensor, *rest: Any) -> dict[str, float]:
        u.grad = left.pop(0).clone()
        return {}

    monkeypatch.setattr(Matching, "step", step)
    u, metrics = run.run()
    expected, velocity = start(run), torch.zeros_like(gradients[0])
    for gradient in gradients:
        velocity = 0.5 * velocity + gradient
        expected = LAYER.project((expected - 0.01 * velocity).flatten(0, 1)).view_as(expected)
    torch.testing.assert_close(u, expected)
    assert metrics == {}


@pytest.mark.parametrize(("iterations", "outer"), [(3, 1), (2, 3), (1, 4)])
def test_every_network_is_fresh_and_trained_between_its_steps(
    iterations: int, outer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = matching(iterations=iterations, outer_loops=outer, inner_epochs=2, lr_images=0.1)
    events: list[str] = []
    initial: list[Tensor] = []
    weights: list[Tensor] = []
    originals = {
        "build": dc.build_model,
        "step": Matching.step,
        "train": Matching.train_network,
    }

    def flat(model: nn.Module) -> Tensor:
        return nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    def built(*args: Any) -> Classifier:
        events.append("build")
        initial.append(flat(model := originals["build"](*args)))
        return model

    def stepped(self: Matching, model: Classifier, *rest: Any) -> Any:
        events.append("step")
        weights.append(flat(model))
        metrics = originals["step"](self, model, *rest)
        assert torch.equal(flat(model), weights[-1])
        return metrics

    def trained(self: Matching, model: Classifier, u: Tensor, epochs: int, *rest: Any) -> None:
        events.append("train")
        assert epochs == 2 and not u.requires_grad
        originals["train"](self, model, u, epochs, *rest)

    monkeypatch.setattr(dc, "build_model", built)
    monkeypatch.setattr(Matching, "step", stepped)
    monkeypatch.setattr(Matching, "train_network", trained)
    run.run()
    assert events == (["build", "step"] + ["train", "step"] * (outer - 1)) * iterations
    assert all(map(torch.equal, weights[::outer], initial))
    assert len({float(values.sum()) for values in weights}) == iterations * outer
    assert len({float(values.sum()) for values in initial}) == iterations


def test_the_inner_training_is_plain_gradient_descent_on_the_set() -> None:
    run = matching(lr_network=0.05)
    model, twin, u = network(run), network(run), start(run)
    run.train_network(model, u, 3, draws())
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for _ in range(3):
        loss = F.cross_entropy(twin(pixels(u).flatten(0, 1)), labels)
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(model.network[0].weight, network(run).network[0].weight)


def seen_in_training(run: Matching, u: Tensor, epochs: int) -> list[Tensor]:
    model, seen = network(run), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    run.train_network(model, u, epochs, draws())
    return seen


def test_an_inner_epoch_sees_every_image_once() -> None:
    run = matching(inner_batch_size=4)
    u = start(run)
    seen = seen_in_training(run, u, 2)
    assert [len(x) for x in seen] == [4, 2, 4, 2]
    everything = {round(float(image.sum()), 3) for image in pixels(u).flatten(0, 1)}
    passes = [torch.cat(seen[:2]), torch.cat(seen[2:])]
    for images in passes:
        assert {round(float(image.sum()), 3) for image in images} == everything
    assert not torch.equal(*passes), "the order is drawn for each epoch"


def test_the_inner_training_augments_each_image_for_itself() -> None:
    run = matching(ipc=8, augment=("rotate",))
    u = start(run)[:, :1].expand(3, 8, 3, 8, 8)
    (images,) = seen_in_training(run, u, 1)
    assert len({round(float(image.sum()), 4) for image in images}) == 24


@pytest.mark.parametrize("regularizer", ["none", "trades", "curvature"])
def test_a_run_does_not_depend_on_how_many_classes_are_at_once(regularizer: str) -> None:
    """Real images, siamese operations, an attack's starts and a penalty's share are drawn."""
    found = []
    for at_once in (1, 2, 20):
        settings = {"iterations": 2, "outer_loops": 2, "batch_size": 5, "augment": DSA_OPS}
        run = matching(classes_at_once=at_once, lr_images=0.1, **settings)
        penalty = RegularizerConfig.named(regularizer).override({"fraction": 0.4, "weight": 1})
        run.loss = TrainingLoss(penalty, 0.03)
        run.gradients = ClassGradients(run.loss, at_once)
        found.append(run.run()[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)
    assert float((found[0] - start(matching())).abs().max()) > 0.01


def test_how_far_the_regularizer_moves_the_gradient_is_reported() -> None:
    run = matching(regularizer="paper-eq15", iterations=1)
    _, metrics = run.run()
    model = network(run, derive(0, "network", 0))
    change = total = 0.0
    for label in range(3):
        images = of_class(run.splits, label)
        y = torch.full((len(images),), label)
        penalty = Regularizer(run.loss.regularizer)(model, images, y, 0, draws())
        moved = gradient_of(model, penalty, allow_unused=True, materialize_grads=True)
        plain = gradient_of(model, F.cross_entropy(model(images), y))
        change += sum(float(g.square().sum()) for g in moved)
        total += sum(float(g.square().sum()) for g in plain)
    assert metrics["penalty_ratio"] == pytest.approx(math.sqrt(change / total), rel=1e-3)
    assert metrics["penalty_ratio"] > 1e-3
    assert set(matching().run()[1]) == {"matching_distance"}


@pytest.mark.parametrize("kind", ["layerwise", "squared"])
def test_a_distance_that_is_not_finite_ends_the_run(kind: str) -> None:
    run = matching(distance=kind)
    u = start(run)
    u[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(Diverged, match="distance became nan"):
        run.step(network(run), u.requires_grad_(), 0, draws())


@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_a_run_repeats_and_another_seed_gives_another_set(augment: tuple[str, ...]) -> None:
    before = torch.get_rng_state()
    (first, facts), (again, same), (other, _) = (
        matching(seed=seed, iterations=2, outer_loops=2, augment=augment).run()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and facts == same
    assert not torch.allclose(first, other)


def test_matching_brings_gradients_on_new_networks_closer() -> None:
    run = matching(splits(30), iterations=8, outer_loops=3, lr_images=1.0)
    u, _ = run.run()

    def mean_distance(u: Tensor) -> float:
        steps = [run.step(network(run, seed), u, 0, draws()) for seed in range(100, 103)]
        return sum(step["matching_distance"] for step in steps) / len(steps)

    assert mean_distance(u.requires_grad_()) < 0.8 * mean_distance(start(run).requires_grad_())


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_a_stage_writes_pixels_by_number_and_class(method: str, tmp_path: Path) -> None:
    trial = TrialConfig(method=method, ipc=2, regularizer=RegularizerConfig.named("guard-dc"))
    settings = {"iterations": 1, "batch_size": 5, "inner_epochs": 1, "lr_images": 1e-6}
    model = {"name": "convnet", "width": 4, "depth": 2}
    trial = trial.override({"model": model, method: settings})
    store = ArtifactStore(tmp_path)
    (stage,) = trial.own.parts(trial.shared, [])
    artifact = store.get_or_build(stage)
    images = load_file(artifact.path / "images.safetensors")["images"]
    assert images.shape == (2, 10, 1, 8, 8)
    assert images.min() >= 0 and images.max() <= 1
    data = load_data(trial.data)
    layer = Normalize(data.spec.mean, data.spec.std)
    u = initial_images(getattr(trial, method).init, data, 2, layer, trial.seed, CPU)
    begin = layer.inverse(u.flatten(0, 1)).view_as(u).transpose(0, 1)
    assert not torch.equal(images, begin)
    torch.testing.assert_close(images, begin, rtol=0, atol=1e-3)
    assert set(artifact.summary["metrics"]) == {"matching_distance", "penalty_ratio"}

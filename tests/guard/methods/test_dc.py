from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import guard.methods.dc.matching as dc
from guard.artifacts import ArtifactStore, build
from guard.config import DSA_OPS, ModelConfig, RegularizerConfig
from guard.data.images import Splits, TensorImages
from guard.data.spec import ImageSpec
from guard.errors import DataError, Diverged
from guard.methods.dc import DC
from guard.methods.dc.gradients import ClassGradients, distance
from guard.methods.dc.matching import GradientMatching, initial_images, loops
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, batchnorms, build_model
from guard.seeding import derive
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from guard.trial import TrialConfig

SPEC = ImageSpec(3, 8, 3, (0.5, 0.5, 0.5), (0.2, 0.25, 0.3), tuple("abc"))
LAYER = Normalize(SPEC.mean, SPEC.std)
CPU = torch.device("cpu")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splits(per_class: int = 12, seed: int = 0) -> Splits:
    """Noise around a prototype of each class, the classes in turn."""
    generator, y = draws(seed), torch.arange(3).repeat(per_class)
    prototypes = torch.rand(3, 3, 8, 8, generator=generator)
    pixels = 0.5 * prototypes[y] + 0.5 * torch.rand(len(y), 3, 8, 8, generator=generator)
    images = TensorImages((pixels * 255).round().byte(), y)
    return Splits(SPEC, images, images, images, "")


def matching(
    data: Splits | None = None,
    ipc: int = 2,
    norm: str = "instance",
    regularizer: str = "none",
    seed: int = 0,
    **config: Any,
) -> GradientMatching:
    loss = TrainingLoss(RegularizerConfig.named(regularizer), 0.03)
    settings = DC(**{"iterations": 1, "outer_loops": 1, "inner_epochs": 1, **config})
    model = ModelConfig(name="convnet", width=4, depth=2, norm=norm)
    return GradientMatching(settings, model, loss, data or splits(), LAYER, ipc, seed, CPU)


def network(run: GradientMatching, seed: int = 0) -> Classifier:
    return build_model(run.model_config, SPEC, seed)


def start(run: GradientMatching, init: str = "noise", seed: int = 0) -> Tensor:
    return initial_images(init, run.splits, run.ipc, LAYER, seed, CPU)


def pixels(u: Tensor) -> Tensor:
    """Images of u (K, ipc, C, H, W), written out."""
    mean, std = torch.tensor(SPEC.mean), torch.tensor(SPEC.std)
    return u * std.view(3, 1, 1) + mean.view(3, 1, 1)


def of_class(data: Splits, label: int) -> Tensor:
    """All training images of a class, (N, C, H, W)."""
    assert isinstance(data.train, TensorImages)
    return data.train.x[data.train.y == label].float() / 255


def gradient_of(model: nn.Module, loss: Tensor, **options: bool) -> list[Tensor]:
    return [g[None] for g in torch.autograd.grad(loss, list(model.parameters()), **options)]


def summed_distance(run: GradientMatching, model: nn.Module, u: Tensor) -> Tensor:
    """What a step descends, by a plain loop, with all real images of a class in its batch."""
    total = torch.zeros(())
    for label in range(3):
        real, synthetic = of_class(run.splits, label), pixels(u)[label]
        y = torch.full((len(real),), label)
        penalty = Regularizer(run.loss.regularizer)(model, real, y, 0, draws())
        target = gradient_of(model, F.cross_entropy(model(real), y) + penalty)
        loss = F.cross_entropy(model(synthetic), y[: len(synthetic)])
        ours = gradient_of(model, loss, create_graph=True)
        total = total + distance(run.config.distance, ours, target).sum()
    return total


def gradient_by_hand(run: GradientMatching, model: nn.Module, u: Tensor) -> Tensor:
    leaf = u.detach().clone().requires_grad_()
    return torch.autograd.grad(summed_distance(run, model, leaf), leaf)[0]


def error(value: Tensor | None, wanted: Tensor) -> float:
    """Relative, of the whole tensor."""
    assert value is not None and value.shape == wanted.shape
    return float((value - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("ipc", "outer", "inner"),
    [
        (1, 1, 1),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (40, 40, 15),
        (50, 50, 10),
        (2, 2, 50),
        (25, 25, 20),
        (100, 100, 5),
        (500, 500, 1),
        (2000, 2000, 1),
    ],
)
def test_loops_are_as_published(ipc: int, outer: int, inner: int) -> None:
    assert loops(DC(), ipc) == (outer, inner)
    assert loops(DC(outer_loops=3, inner_epochs=0), ipc) == (3, 0)
    assert loops(DC(outer_loops=3), ipc) == (3, inner)
    assert loops(DC(inner_epochs=7), ipc) == (outer, 7)


def test_noise_is_normal_behind_the_first_layer_and_cut_to_the_pixel_range() -> None:
    u = initial_images("noise", splits(), 300, LAYER, 0, CPU)
    assert u.shape == (3, 300, 3, 8, 8)
    values = u.transpose(0, 2).flatten(1)
    for channel, std in zip(values, SPEC.std, strict=True):
        edge = 0.5 / std
        assert float(channel.max()) == -float(channel.min()) == pytest.approx(edge)
        inside = channel[channel.abs() < edge - 1e-6].sort().values
        normal = torch.distributions.Normal(0, 1)
        low, high = (normal.cdf(torch.tensor(value)) for value in (-edge, edge))
        wanted = torch.linspace(0, 1, len(inside))
        reached = (normal.cdf(inside) - low) / (high - low)
        assert float((reached - wanted).abs().max()) < 1.9 / math.sqrt(len(inside))
        assert len(inside) / len(channel) == pytest.approx(float(high - low), abs=0.005)


def test_real_images_are_distinct_training_images_of_their_class() -> None:
    data = splits(6)
    images = pixels(initial_images("real", data, 5, LAYER, 0, CPU))
    for label, own in enumerate(images):
        differences = (own[:, None] - of_class(data, label)[None]).abs().amax(dim=(2, 3, 4))
        assert float(differences.min(dim=1).values.max()) < 1e-6
        assert len(set(differences.argmin(dim=1).tolist())) == 5


@pytest.mark.parametrize("init", ["noise", "real"])
def test_initial_images_depend_on_the_seed_alone(init: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (start(matching(), init, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_real_images_need_as_many_as_the_set_has() -> None:
    with pytest.raises(DataError, match="has 6 training images, got ipc = 7"):
        initial_images("real", splits(6), 7, LAYER, 0, CPU)


@pytest.mark.parametrize("regularizer", ["none", "paper-eq15"])
@pytest.mark.parametrize("at_once", [1, 2, 20])
@pytest.mark.parametrize("kind", ["layerwise", "cosine", "squared"])
def test_a_step_fills_the_gradient_of_the_summed_distances(
    kind: str, at_once: int, regularizer: str
) -> None:
    run = matching(distance=kind, classes_at_once=at_once, regularizer=regularizer)
    model, u = network(run), start(run).requires_grad_()
    metrics = run.step(model, u, 0, draws())
    assert error(u.grad, gradient_by_hand(run, model, u)) < 1e-3
    wanted = float(summed_distance(run, model, u).detach()) / 3
    assert metrics == {"matching_distance": pytest.approx(wanted, rel=1e-4)}


def test_a_regularizer_moves_the_images_gradient() -> None:
    plain, penalised = matching(), matching(regularizer="paper-eq15")
    model, u = network(plain), start(plain)
    by_hand = gradient_by_hand(penalised, model, u)
    assert error(gradient_by_hand(plain, model, u), by_hand) > 0.1


@pytest.mark.parametrize("at_once", [1, 2, 20])
@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_a_class_gets_its_gradient_from_its_own_images(
    augment: tuple[str, ...], at_once: int
) -> None:
    run = matching(splits(12), augment=augment, classes_at_once=at_once, batch_size=5)
    others = splits(12, seed=1)
    assert isinstance(others.train, TensorImages) and isinstance(run.splits.train, TensorImages)
    mixed, y = run.splits.train.x.clone(), others.train.y
    mixed[y == 1] = others.train.x[y == 1]
    changed = replace(run.splits, train=TensorImages(mixed, y))
    model, u = network(run), start(run)
    elsewhere = u.clone()
    elsewhere[1] = start(run, seed=1)[1]

    def found(run: GradientMatching, u: Tensor) -> Tensor:
        u = u.clone().requires_grad_()
        run.step(model, u, 0, draws())
        assert u.grad is not None
        return u.grad

    plain = found(run, u)
    assert plain.flatten(2).norm(dim=2).min() > 0
    for other in (found(replace(run, splits=changed), u), found(run, elsewhere)):
        assert not torch.allclose(other[1], plain[1], rtol=1e-2)
        torch.testing.assert_close(other[[0, 2]], plain[[0, 2]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_regularizer_warms_up_network_by_network(number: int) -> None:
    warming = RegularizerConfig.named("paper-eq15").override({"weight_warmup_epochs": 2})
    run = matching(distance="squared")
    run.loss = TrainingLoss(warming)
    run.gradients = ClassGradients(run.loss, 1)
    model, u = network(run), start(run).requires_grad_()
    run.step(model, u, number, draws())
    reached = warming.override({"weight_warmup_epochs": 0, "weight": 50 if number == 0 else 100})
    run.loss = TrainingLoss(reached)
    assert error(u.grad, gradient_by_hand(run, model, u)) < 1e-3


def test_a_step_forgets_the_gradient_of_the_one_before() -> None:
    run = matching()
    model, u = network(run), start(run).requires_grad_()
    run.step(model, u, 0, draws())
    assert u.grad is not None
    first = u.grad.clone()
    run.step(model, u, 0, draws())
    assert torch.equal(u.grad, first)


@pytest.mark.parametrize(("wanted", "size"), [(4, 4), (256, 9)])
def test_a_real_batch_is_drawn_without_replacement(wanted: int, size: int) -> None:
    run = matching(splits(9), batch_size=wanted)
    batches = [run.batches(start(run), torch.tensor([2, 0]), draws(seed))[0] for seed in (0, 0, 1)]
    assert batches[0].shape == (2, size, 3, 8, 8)
    for label, rows in zip([2, 0], batches[0], strict=True):
        distances = (rows[:, None] - of_class(run.splits, label)[None]).abs().amax(dim=(2, 3, 4))
        assert sorted((distances == 0).sum(dim=1).tolist()) == [1] * size
        assert len(set(distances.argmin(dim=1).tolist())) == size
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


def test_every_network_meets_other_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = matching(iterations=3, outer_loops=2, batch_size=4), []
    batches = GradientMatching.batches

    def noted(self: GradientMatching, *args: Any) -> tuple[Tensor, Tensor]:
        seen.append(batches(self, *args))
        return seen[-1]

    monkeypatch.setattr(GradientMatching, "batches", noted)
    run.run()
    assert len(seen) == 3 * 2 * 3
    assert len({float(real.sum()) for real, _ in seen}) == len(seen)


def test_the_smallest_class_bounds_the_batch() -> None:
    data = splits(6)
    assert isinstance(data.train, TensorImages)
    kept = torch.arange(18)[(data.train.y != 1) | (torch.arange(18) < 9)]
    run = matching(replace(data, train=data.train.subset(kept)))
    assert run.batches(start(run), torch.arange(3), draws())[0].shape[:2] == (3, 3)


@pytest.mark.parametrize("op", DSA_OPS)
def test_siamese_operations_hit_the_images_of_a_class_alike_and_classes_differently(
    op: str,
) -> None:
    """All real and synthetic images are the same one before they are augmented."""
    image = splits(1, seed=7).train.subset(torch.tensor([0]))
    assert isinstance(image, TensorImages)
    alike = TensorImages(image.x.expand(12, -1, -1, -1), torch.arange(3).repeat(4))
    run = matching(replace(splits(), train=alike), augment=(op,))
    u = start(run, "real")
    furthest = 0.0
    for seed in range(5):
        real, synthetic = run.batches(u, torch.arange(3), draws(seed))
        assert real.shape == (3, 4, 3, 8, 8) and synthetic.shape == (3, 2, 3, 8, 8)
        first = real[:, :1]
        torch.testing.assert_close(real, first.expand_as(real), rtol=0, atol=1e-5)
        torch.testing.assert_close(synthetic, first.expand_as(synthetic), rtol=0, atol=1e-5)
        furthest = max(furthest, float((real[:1] - real[1:]).abs().max()))
    assert furthest > 0.01, "classes are augmented differently"


def test_without_operations_batches_are_pixels() -> None:
    run = matching()
    u = start(run)
    real, synthetic = run.batches(u, torch.tensor([1]), draws())
    torch.testing.assert_close(synthetic, pixels(u)[[1]])
    assert real.min() >= 0 and real.max() <= 1


@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_images_stay_pixels_after_every_step(
    augment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = matching(iterations=2, outer_loops=3, lr_images=1e3, augment=augment)
    step, seen = GradientMatching.step, []

    def noted(self: GradientMatching, model: Classifier, u: Tensor, *rest: Any) -> Any:
        seen.append(u.detach().clone())
        return step(self, model, u, *rest)

    monkeypatch.setattr(GradientMatching, "step", noted)
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

    def step(self: GradientMatching, model: Classifier, u: Tensor, *rest: Any) -> dict[str, float]:
        u.grad = left.pop(0).clone()
        return {}

    monkeypatch.setattr(GradientMatching, "step", step)
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
        "step": GradientMatching.step,
        "train": GradientMatching.train_network,
    }

    def flat(model: nn.Module) -> Tensor:
        return nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    def built(*args: Any) -> Classifier:
        events.append("build")
        initial.append(flat(model := originals["build"](*args)))
        return model

    def stepped(self: GradientMatching, model: Classifier, *rest: Any) -> Any:
        events.append("step")
        weights.append(flat(model))
        metrics = originals["step"](self, model, *rest)
        assert torch.equal(flat(model), weights[-1])
        return metrics

    def trained(
        self: GradientMatching, model: Classifier, u: Tensor, epochs: int, *rest: Any
    ) -> None:
        events.append("train")
        assert epochs == 2 and not u.requires_grad
        originals["train"](self, model, u, epochs, *rest)

    monkeypatch.setattr(dc, "build_model", built)
    monkeypatch.setattr(GradientMatching, "step", stepped)
    monkeypatch.setattr(GradientMatching, "train_network", trained)
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


def seen_in_training(run: GradientMatching, u: Tensor, epochs: int) -> list[Tensor]:
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


@pytest.mark.parametrize("per_class", [16, 20])
def test_batchnorm_sees_a_few_real_images_of_each_class(per_class: int) -> None:
    run = matching(splits(per_class), norm="batch")
    model, seen = network(run), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run.prepare(model, draws())
    (images,) = seen
    assert len(images) == 48 and len(images.flatten(1).unique(dim=0)) == 48
    for label in range(3):
        own = images[16 * label : 16 * label + 16]
        distances = (own[:, None] - of_class(run.splits, label)[None]).abs().amax(dim=(2, 3, 4))
        assert float(distances.min(dim=1).values.max()) == 0
    inputs = model.network[0](LAYER(images)).detach().transpose(0, 1).flatten(1)
    bn = batchnorms(model)[0]
    torch.testing.assert_close(bn.running_mean, inputs.mean(dim=1))
    torch.testing.assert_close(bn.running_var, inputs.var(dim=1, correction=0))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("at_once", [1, 20])
def test_batchnorm_is_frozen_while_it_is_matched(at_once: int) -> None:
    run = matching(splits(16), norm="batch", classes_at_once=at_once)
    model, twin, u = network(run), network(run), start(run).requires_grad_()
    run.step(model, u, 0, draws())
    run.prepare(twin, draws())
    for found, wanted in zip(batchnorms(model), batchnorms(twin), strict=True):
        torch.testing.assert_close(found.running_mean, wanted.running_mean)
        torch.testing.assert_close(found.running_var, wanted.running_var)
    assert error(u.grad, gradient_by_hand(run, twin.eval(), u)) < 1e-3


def test_without_batchnorm_a_network_sees_no_statistics() -> None:
    run = matching()
    model = network(run).train()
    model.register_forward_hook(lambda *_: pytest.fail("nothing needs statistics"))
    run.prepare(model, draws())
    assert not model.training


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
    (stage,) = METHODS[method].parts(trial, [])
    artifact = store.get_or_build(stage, build)
    images = load_file(artifact.path / "images.safetensors")["images"]
    assert images.shape == (2, 10, 1, 8, 8)
    assert images.min() >= 0 and images.max() <= 1
    data = dc.stage_data(stage)
    layer = Normalize(data.spec.mean, data.spec.std)
    u = initial_images(getattr(trial, method).init, data, 2, layer, trial.seed, CPU)
    begin = layer.inverse(u.flatten(0, 1)).view_as(u).transpose(0, 1)
    assert not torch.equal(images, begin)
    torch.testing.assert_close(images, begin, rtol=0, atol=1e-3)
    assert set(artifact.summary["metrics"]) == {"matching_distance", "penalty_ratio"}

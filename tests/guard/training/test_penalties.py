from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.config.schema import field_names, type_hints
from guard.models.input_layer import Normalize
from guard.models.networks import BatchNorm, Classifier, batchnorm_mode, batchnorms
from guard.training.losses import ADVERSARIAL_LOSSES
from guard.training.penalties import PENALTIES, Regularizer, direction, ramp, unit

SHAPE, CLASSES = (2, 3, 3), 4
DIM = math.prod(SHAPE)
MEAN, STD = (0.3, 0.6), (0.2, 0.5)
KINDS = ("curvature", "loss-difference", "gradient-norm")


def number(value: Tensor) -> float:
    return float(value.detach())


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_net(activation: type[nn.Module] = nn.Softplus, seed: int = 0) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(DIM, 10), activation(), nn.Linear(10, CLASSES)]
    return randomised(nn.Sequential(*layers), seed)


def bn_net(seed: int = 0) -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(SHAPE[0], 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 4)
    )
    model = randomised(network, seed)
    bn = batchnorms(model)[0]
    bn.running_mean.copy_(torch.rand(3, generator=draws(1)))
    bn.running_var.copy_(torch.rand(3, generator=draws(2)) + 0.5)
    return model


def randomised(network: nn.Module, seed: int) -> Any:
    """Weights from a generator, large enough for visible curvature, in double precision."""
    generator = draws(seed)
    for parameter in network.parameters():
        values = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=generator)
        parameter.data = values * (1 if parameter.ndim > 1 else 0.3)
    return network.double()


def samples(count: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = draws(seed)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def penalty(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.0,
    epoch: int = 0,
    seed: int = 0,
    **config: Any,
) -> Tensor:
    regularizer = Regularizer(RegularizerConfig(**{"weight": 1, **config}), eps)
    return regularizer(model, x, y, epoch, draws(seed))


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return -model(x[None]).log_softmax(dim=1)[0, y]


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss_of(model, x, y), x)[0]


def step_along(gradient: Tensor, kind: str) -> Tensor:
    if kind == "sign":
        return gradient.sign() / math.sqrt(int(gradient.count_nonzero()))
    if kind == "released":
        return (gradient + 1e-7) / (gradient.square().sum().sqrt() + 1e-7)
    return gradient / gradient.square().sum().sqrt()


def by_hand(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    kind: str,
    h: float,
    power: int,
    direction: str = "gradient",
    moved: list[Tensor] | None = None,
) -> float:
    """The definition, one sample after another. `moved`: x + hz, where they are already known."""
    values = []
    for i in range(len(x)):
        gradient = gradient_of(model, x[i], y[i])
        there = x[i] + h * step_along(gradient, direction) if moved is None else moved[i]
        if kind == "curvature":
            difference = gradient_of(model, there, y[i]) - gradient
        elif kind == "loss-difference":
            difference = (loss_of(model, there, y[i]) - loss_of(model, x[i], y[i])).detach()
        else:
            difference = gradient
        values.append(math.sqrt(float(difference.square().sum())) ** power)
    return sum(values) / len(values)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("activation", [nn.Softplus, nn.Tanh])
def test_curvature_of_a_small_step_is_the_hessian_along_the_gradient(
    activation: type[nn.Module], power: int
) -> None:
    model, (x, y), h = smooth_net(activation), samples(), 1e-4
    expected = 0.0
    for image, label in zip(x, y, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda v, label=label: loss_of(model, v.view(SHAPE), label), image.flatten()
        )
        gradient = gradient_of(model, image, label).flatten()
        along = hessian @ gradient / gradient.norm()
        expected += (h * float(along.norm())) ** power / len(x)
    value = number(penalty(model, x, y, h=h, power=power))
    assert value == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("h", [0.05, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_is_what_its_definition_says(
    kind: str, h: float, power: int, direction: str
) -> None:
    model, (x, y) = smooth_net(), samples()
    value = number(penalty(model, x, y, kind=kind, h=h, power=power, direction=direction))
    assert value == pytest.approx(by_hand(model, x, y, kind, h, power, direction), rel=1e-9)


@pytest.mark.parametrize("scale", ["per-sample", "batch-mean"])
def test_a_loss_that_falls_counts_as_one_that_rises(scale: str) -> None:
    """Along the gradient a loss rises at first; on a bent net it has fallen again further out."""
    model = smooth_net(nn.Tanh, seed=1)
    x, y = samples(40)
    h = 30.0
    moved = torch.stack(
        [x[i] + h * step_along(gradient_of(model, x[i], y[i]), "gradient") for i in range(40)]
    )
    losses = [F.cross_entropy(model(v), y, reduction="none").detach() for v in (moved, x)]
    falls = losses[0] < losses[1]
    assert falls.any() and not falls.all()
    x, y, difference = x[falls], y[falls], (losses[1] - losses[0])[falls]
    value = number(penalty(model, x, y, kind="loss-difference", h=h, power=1, scale=scale))
    assert value == pytest.approx(float(difference.mean()), rel=1e-9)


def test_a_loss_difference_is_to_first_order_the_step_times_the_gradient_norm() -> None:
    model, (x, y), h = smooth_net(), samples(), 1e-6
    difference = number(penalty(model, x, y, kind="loss-difference", h=h, power=1))
    norm = number(penalty(model, x, y, kind="gradient-norm", power=1))
    assert difference == pytest.approx(h * norm, rel=1e-4)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_in_the_parameters_is_the_finite_difference_at_fixed_z(
    kind: str, power: int
) -> None:
    model, (x, y), h, step = smooth_net(), samples(), 0.3, 1e-5
    parameters = list(model.parameters())
    value = penalty(model, x, y, kind=kind, h=h, power=power)
    analytic = torch.nn.utils.parameters_to_vector(
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    )
    moved = [
        image + h * step_along(gradient_of(model, image, label), "gradient")
        for image, label in zip(x, y, strict=True)
    ]
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    for seed in range(4):
        along = torch.randn(len(start), generator=draws(seed), dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * step * along, parameters)
            ends.append(by_hand(model, x, y, kind, h, power, moved=moved))
        torch.nn.utils.vector_to_parameters(start, parameters)
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert abs(numeric) > 1e-3
        assert float(analytic @ along) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_matrix_gets_a_gradient(kind: str) -> None:
    model, (x, y) = smooth_net(), samples()
    value = penalty(model, x, y, kind=kind)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    for gradient in torch.autograd.grad(value, weights):
        assert gradient.abs().max() > 1e-4


def test_descending_the_curvature_flattens_the_loss() -> None:
    model, (x, y) = smooth_net(), samples()
    before = by_hand(model, x, y, "curvature", 0.5, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        penalty(model, x, y, h=0.5).backward()
        optimizer.step()
    assert by_hand(model, x, y, "curvature", 0.5, 2) < 0.7 * before


@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_counts_as_the_mean_of_its_samples(kind: str, direction: str) -> None:
    model, (x, y) = smooth_net(), samples(6)
    options = {"kind": kind, "h": 0.4, "direction": direction}
    alone = [number(penalty(model, x[i : i + 1], y[i : i + 1], **options)) for i in range(6)]
    assert number(penalty(model, x, y, **options)) == pytest.approx(sum(alone) / 6, rel=1e-12)
    doubled = penalty(model, torch.cat([x, x]), torch.cat([y, y]), **options)
    assert number(doubled) == pytest.approx(sum(alone) / 6, rel=1e-12)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_mean_takes_the_gradients_of_the_batchs_mean_loss(kind: str, power: int) -> None:
    model, (x, y), h = smooth_net(), samples(), 0.7
    mean_gradient = torch.func.grad(lambda v: F.cross_entropy(model(v), y))
    gradient = mean_gradient(x)
    z = torch.stack([step_along(g, "released") for g in gradient])
    if kind == "curvature":
        vectors = mean_gradient(x + h * z) - gradient
    elif kind == "gradient-norm":
        vectors = gradient
    else:
        vectors = (F.cross_entropy(model(x + h * z), y) - F.cross_entropy(model(x), y))[None]
    expected = vectors.flatten(1) if vectors.ndim > 1 else vectors[:, None]
    expected = expected.square().sum(dim=1).sqrt().pow(power).mean()
    value = penalty(
        model, x, y, kind=kind, h=h, power=power, direction="released", scale="batch-mean"
    )
    assert number(value) == pytest.approx(number(expected), rel=1e-9)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", ["curvature", "gradient-norm"])
def test_batch_mean_divides_gradients_by_the_batch_size(kind: str, power: int) -> None:
    model, (x, y) = smooth_net(), samples(5)
    options = {"kind": kind, "h": 0.7, "power": power}
    ratio = penalty(model, x, y, **options) / penalty(model, x, y, scale="batch-mean", **options)
    assert number(ratio) == pytest.approx(5**power, rel=1e-9)


def classifier() -> Classifier:
    return Classifier(Normalize(MEAN, STD), smooth_net()).double()


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_units_are_pixels_of_the_normalised_space(kind: str) -> None:
    model, (x, y), h = classifier(), samples(), 0.7
    normalised = (x - model.normalize.mean) / model.normalize.std
    expected = by_hand(model.network, normalised, y, kind, h, 2)
    value = number(penalty(model, x, y, kind=kind, h=h, units="normalized"))
    assert value == pytest.approx(expected, rel=1e-9)
    in_pixels = number(penalty(model, x, y, kind=kind, h=h))
    assert in_pixels == pytest.approx(by_hand(model, x, y, kind, h, 2), rel=1e-9)
    assert abs(in_pixels - value) > 0.1 * value


@pytest.mark.parametrize("kind", ["curvature", "loss-difference"])
def test_eps_units_are_multiples_of_the_longest_step_inside_the_ball(kind: str) -> None:
    model, (x, y), eps, h = classifier(), samples(), 0.1, 1.5
    in_eps = penalty(model, x, y, kind=kind, h=h, units="eps", eps=eps)
    in_pixels = penalty(model, x, y, kind=kind, h=h * eps * math.sqrt(DIM))
    assert number(in_eps) == pytest.approx(number(in_pixels), rel=1e-12)
    corner = torch.full(SHAPE, eps, dtype=torch.float64)
    config = RegularizerConfig(h=1, units="eps")
    assert Regularizer(config, eps).step_length(x, 0) == pytest.approx(float(corner.norm()))


def saturated_net() -> nn.Sequential:
    """Class 0 is so sure that the float64 loss and its gradient are exactly 0."""
    model = smooth_net()
    model[3].bias.data = torch.tensor([1e4, 0, 0, 0], dtype=torch.float64)
    return model


@pytest.mark.parametrize("scale", ["per-sample", "batch-mean"])
@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vanishing_gradient_gives_zero_with_finite_derivatives(
    kind: str, power: int, direction: str, scale: str
) -> None:
    model, (x, _) = saturated_net(), samples()
    y = torch.zeros(len(x), dtype=torch.long)
    assert all(gradient_of(model, x[i], y[i]).abs().max() == 0 for i in range(len(x)))
    value = penalty(model, x, y, kind=kind, power=power, direction=direction, scale=scale)
    gradients = torch.autograd.grad(
        value, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    assert number(value) == 0
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("direction", ["gradient", "sign"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vanishing_gradient_leaves_the_other_samples_alone(
    kind: str, power: int, direction: str
) -> None:
    model, (x, _) = saturated_net(), samples(2)
    options = {"kind": kind, "power": power, "direction": direction}
    both = penalty(model, x, torch.tensor([0, 1]), **options)
    alone = penalty(model, x[1:], torch.tensor([1]), **options)
    parameters = [model[1].weight, model[3].weight]
    pairs = zip(
        torch.autograd.grad(both, parameters), torch.autograd.grad(alone, parameters), strict=True
    )
    assert number(both) == pytest.approx(number(alone) / 2, rel=1e-12)
    for of_both, of_alone in pairs:
        torch.testing.assert_close(of_both, of_alone / 2)


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e-30, 1e30])
def test_a_unit_vector_has_norm_one_however_small_the_gradient(size: float) -> None:
    gradient = torch.randn(3, *SHAPE, generator=draws())
    z = unit(gradient * size).flatten(1)
    torch.testing.assert_close(z.double().norm(dim=1), torch.ones(3).double(), rtol=1e-5, atol=0)
    cosine = F.cosine_similarity(z, gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3), rtol=1e-4, atol=0)


def test_a_zero_vector_stays_zero() -> None:
    gradient = torch.randn(2, *SHAPE, generator=draws())
    gradient[0] = 0
    z = unit(gradient)
    assert z[0].abs().max() == 0
    assert float(z[1].norm()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["gradient", "sign", "released"])
def test_directions(name: str) -> None:
    gradient = torch.randn(4, *SHAPE, generator=draws(), dtype=torch.float64) * 1e-6
    gradient[0, 0, 0, 0] = 0
    z = direction(gradient, RegularizerConfig(direction=name))
    expected = torch.stack([step_along(g, name) for g in gradient])
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=0)
    norms = z.flatten(1).norm(dim=1)
    assert bool((norms - 1).abs().max() < 1e-12) is (name != "released")


@pytest.mark.parametrize(
    "config",
    [{"weight": 0}, {"kind": "none"}, {"kind": "none", "weight": 5}, {"weight": 0, "h": 3}],
)
def test_no_weight_or_no_kind_is_no_penalty(config: dict[str, Any]) -> None:
    model, (x, y) = smooth_net(), samples()
    model.register_forward_hook(lambda *_: pytest.fail("an inactive penalty runs the model"))
    value = penalty(model, x, y, **config)
    assert value.shape == () and float(value) == 0
    assert value.dtype == x.dtype


def test_the_weight_multiplies() -> None:
    model, (x, y) = smooth_net(), samples()
    one, seven = (number(penalty(model, x, y, weight=weight)) for weight in (1, 7))
    assert seven == pytest.approx(7 * one, rel=1e-12)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_warms_up(kind: str, epoch: int, share: float) -> None:
    model, (x, y) = smooth_net(), samples()
    options = {"kind": kind, "weight": 3}
    value = penalty(model, x, y, epoch=epoch, weight_warmup_epochs=4, **options)
    full = penalty(model, x, y, **options)
    assert number(value) == pytest.approx(share * number(full), rel=1e-12)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.2), (2, 0.6), (4, 1.0), (30, 1.0)])
@pytest.mark.parametrize("kind", ["curvature", "loss-difference"])
def test_the_step_warms_up(kind: str, epoch: int, share: float) -> None:
    model, (x, y) = smooth_net(), samples()
    value = penalty(model, x, y, kind=kind, h=2, epoch=epoch, h_warmup_epochs=5)
    expected = penalty(model, x, y, kind=kind, h=2 * share)
    assert number(value) == pytest.approx(number(expected), rel=1e-12)


def test_a_ramp_reaches_one_in_the_last_warmup_epoch() -> None:
    assert [ramp(epoch, 4) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(epoch, 0) for epoch in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.1, 1), (0.25, 3), (0.5, 5), (0.99, 10), (1, 10)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fraction_runs_the_model_on_its_ceiling(kind: str, fraction: float, count: int) -> None:
    model, (x, y), sizes = smooth_net(), samples(10), set()
    model.register_forward_hook(lambda module, inputs, output: sizes.add(len(inputs[0])))
    penalty(model, x, y, kind=kind, fraction=fraction)
    assert sizes == {count}


def test_a_fraction_is_drawn_from_the_generator() -> None:
    model, (x, y) = smooth_net(), samples(10)
    values = [number(penalty(model, x, y, fraction=0.3, seed=seed)) for seed in (1, 1, 2, 3)]
    assert values[0] == values[1]
    assert len(set(values)) == 3
    generator = draws()
    regularizer = Regularizer(RegularizerConfig(weight=1, fraction=0.3))
    drawn = {number(regularizer(model, x, y, 0, generator)) for _ in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_fraction_draws_every_sample_equally_often(kind: str) -> None:
    model, (x, y), generator = smooth_net(), samples(4), draws()
    regularizer = Regularizer(RegularizerConfig(kind=kind, weight=1, fraction=0.25))
    alone = [number(penalty(model, x[i : i + 1], y[i : i + 1], kind=kind)) for i in range(4)]
    seen = [number(regularizer(model, x, y, 0, generator)) for _ in range(400)]
    counts = [sum(math.isclose(value, one, rel_tol=1e-9) for value in seen) for one in alone]
    assert sum(counts) == 400
    assert min(counts) > 70 and max(counts) < 130


def test_a_fraction_is_unbiased() -> None:
    model, (x, y), generator = smooth_net(), samples(6), draws()
    regularizer = Regularizer(RegularizerConfig(weight=1, fraction=0.5))
    full = number(penalty(model, x, y))
    seen = torch.tensor([number(regularizer(model, x, y, 0, generator)) for _ in range(400)])
    error = float(seen.std()) / math.sqrt(len(seen))
    assert abs(float(seen.mean()) - full) < 3 * error
    assert error < 0.1 * full


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_penalty_leaves_the_models_state_alone(kind: str, bn: str, training: bool) -> None:
    model, (x, y) = bn_net().train(training), samples()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model)
    buffers = dict(model.named_buffers())
    value = penalty(model, x, y, kind=kind, bn=bn, fraction=0.7)
    modes = [module.training for module in model.modules()]
    assert modes == [module.training for module in before.modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name
    assert all(dict(model.named_buffers())[name] is tensor for name, tensor in buffers.items())
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None
    assert all(layer.momentum == 0.1 for layer in batchnorms(model))
    value.backward()
    assert model[4].weight.grad.abs().max() > 0


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
def test_a_penalty_leaves_the_mode_of_every_layer_alone(bn: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    model[1].eval()
    penalty(model, x, y, bn=bn)
    assert model.training and model[0].training
    assert not model[1].training


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
def test_a_model_that_fails_is_restored_too(bn: str) -> None:
    model, (x, _) = bn_net().train(), samples()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(IndexError):
        penalty(model, x, torch.full((len(x),), 99), bn=bn)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("bn", "pulls"), [("eval", True), ("frozen-batch", True), ("train", False)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_only_in_training_mode_a_penalty_leaves_what_batchnorm_undoes_alone(
    kind: str, bn: str, pulls: bool
) -> None:
    """A training step's loss has no slope along the scale and the shift of what a BatchNorm gets,
    so whatever pulls there is not resisted."""
    model, (x, y) = bn_net().train(), samples()
    model[1].eps = 1e-14
    penalty(model, x, y, kind=kind, h=0.4, bn=bn).backward()
    weight, bias = model[0].weight, model[0].bias
    scaling = number((weight.grad * weight).sum((1, 2, 3)).abs().max())
    shifting = number(bias.grad.abs().max())
    size = number(weight.grad.norm() * weight.norm())
    assert (scaling > 1e-3 * size) == (shifting > 1e-3 * size) == pulls
    if not pulls:
        assert max(scaling, shifting) < 1e-10 * size


@pytest.mark.parametrize("training", [True, False])
def test_frozen_batch_runs_the_model_as_training_mode_would(training: bool) -> None:
    model, (x, _) = bn_net().train(training), samples()
    expected = copy.deepcopy(model).train()(x)
    with batchnorm_mode(model, "frozen-batch", x):
        torch.testing.assert_close(model(x), expected)
        first = model(x[:1])
    torch.testing.assert_close(first, expected[:1])


def with_statistics_of(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """A copy whose first BatchNorm's running statistics are those of x."""
    twin = copy.deepcopy(model).eval()
    inputs = twin[0](x).detach().transpose(0, 1).flatten(1)
    twin[1].running_mean.copy_(inputs.mean(dim=1))
    twin[1].running_var.copy_((inputs - inputs.mean(dim=1, keepdim=True)).square().mean(dim=1))
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_batch_takes_the_batchs_statistics_as_constants(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, kind=kind, h=0.4, bn="frozen-batch"))
    assert value == pytest.approx(by_hand(with_statistics_of(model, x), x, y, kind, 0.4, 2))


def test_frozen_batch_takes_the_whole_batch_under_a_fraction() -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, h=0.4, bn="frozen-batch", fraction=0.1))
    twin = with_statistics_of(model, x)
    alone = [by_hand(twin, x[i : i + 1], y[i : i + 1], "curvature", 0.4, 2) for i in range(len(x))]
    assert min(abs(value - one) for one in alone) < 1e-9 * value


@pytest.mark.parametrize("kind", KINDS)
def test_eval_takes_the_running_statistics(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, kind=kind, h=0.4, bn="eval"))
    assert value == pytest.approx(by_hand(copy.deepcopy(model).eval(), x, y, kind, 0.4, 2))


def test_train_lets_the_batchs_statistics_follow_the_input() -> None:
    model, (x, y) = bn_net(), samples()
    twin = copy.deepcopy(model).train()
    gradient = torch.func.grad(lambda v: F.cross_entropy(twin(v), y, reduction="sum"))
    twin[1].momentum = 0.0
    twin[1].track_running_stats = False
    g = gradient(x)
    z = torch.stack([step_along(row, "gradient") for row in g])
    expected = (gradient(x + 0.4 * z) - g).flatten(1).square().sum(dim=1).mean()
    value = number(penalty(model, x, y, h=0.4, bn="train"))
    assert value == pytest.approx(number(expected), rel=1e-9)
    frozen = number(penalty(model, x, y, h=0.4, bn="frozen-batch"))
    assert abs(frozen - value) > 1e-3 * value


def test_modes_agree_in_a_model_without_batch_norm() -> None:
    model, (x, y) = smooth_net(), samples()
    assert not any(isinstance(module, BatchNorm) for module in model.modules())
    values = [number(penalty(model, x, y, bn=bn)) for bn in ("eval", "frozen-batch", "train")]
    assert values[0] == values[1] == values[2] > 0


PENALISING = {
    name: values
    for name, values in RegularizerConfig.NAMED.items()
    if not RegularizerConfig(**values).attacks
}
CONFIGS = {
    **PENALISING,
    "eps-units": {"units": "eps", "h": 1.0},
    "power-1": {"power": 1},
    "part": {"fraction": 0.3, "weight_warmup_epochs": 2, "h_warmup_epochs": 3},
    "frozen-batch": {"bn": "frozen-batch", "fraction": 0.5},
    "train": {"bn": "train"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_gives_a_repeatable_finite_penalty(name: str) -> None:
    model = Classifier(Normalize(MEAN, STD), bn_net()).float()
    (x, y), before = samples(8), torch.get_rng_state()
    regularizer = Regularizer(RegularizerConfig(**CONFIGS[name]), eps=0.05)
    values = [regularizer(model, x.float(), y, 1, draws(seed)) for seed in (4, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert values[0].shape == () and values[0].isfinite() and values[0] >= 0
    assert torch.equal(values[0], values[1])
    assert bool(values[0] > 0) is regularizer.config.active
    if regularizer.config.active:
        values[0].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_kind_has_a_penalty_or_an_attack() -> None:
    assert set(PENALTIES) == set(KINDS)
    kinds = {"none", *PENALTIES, *ADVERSARIAL_LOSSES}
    assert kinds == set(type_hints(RegularizerConfig)["kind"].__args__)
    for kind in kinds:
        assert RegularizerConfig(kind=kind).attacks is (kind in ADVERSARIAL_LOSSES)


BASE = {"h": 0.3, "weight": 2.0}
OTHER_VALUES = {
    "weight": 5.0,
    "h": 1.1,
    "units": "normalized",
    "power": 1,
    "direction": "sign",
    "scale": "batch-mean",
    "bn": "frozen-batch",
    "fraction": 0.4,
    "weight_warmup_epochs": 4,
    "h_warmup_epochs": 4,
    "steps": 3,
    "step_size": 0.7,
    "eps": 0.3,
}


def test_every_field_is_tried() -> None:
    assert set(OTHER_VALUES) == set(field_names(RegularizerConfig)) - {"kind"}


@pytest.mark.parametrize("field", OTHER_VALUES)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_kind_reads_the_fields_that_it_says_it_uses(kind: str, field: str) -> None:
    model, (x, y) = Classifier(Normalize(MEAN, STD), bn_net()).double(), samples()
    before, after = (
        number(penalty(model, x, y, **{**BASE, "kind": kind, **change}))
        for change in ({}, {field: OTHER_VALUES[field]})
    )
    used = field in RegularizerConfig(kind=kind).fields_used()
    assert (not math.isclose(before, after, rel_tol=1e-9)) is used


@pytest.mark.parametrize("kind", ["curvature", "gradient-norm"])
@pytest.mark.parametrize("power", [1, 2])
def test_gradients_of_the_batch_mean_are_of_the_whole_batch_whatever_the_fraction(
    kind: str, power: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64).repeat(8, 1, 1, 1)
    y = torch.ones(8, dtype=torch.long)
    values = [
        Regularizer(
            RegularizerConfig(kind=kind, power=power, scale="batch-mean", fraction=fraction)
        )(model, x, y, 0, torch.Generator().manual_seed(0))
        for fraction in (0.25, 1.0)
    ]
    torch.testing.assert_close(values[0], values[1])

"""compute.mode: what fast mode rounds, and what it must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from specs import spec
from torch import Tensor
from torch.nn import functional as F

from guard.config import ComputeConfig, EvaluationConfig, ModelConfig, RegularizerConfig
from guard.data.images import TensorImages
from guard.device import setup
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models import precision
from guard.models.folding import convolved
from guard.models.networks import Classifier, build_model, folded
from guard.models.precision import as_fast_as, in_float32, is_lowered
from guard.robustness.evaluate import evaluate
from guard.training.penalties import Regularizer
from helpers import CPU, draws, number

FAST, EXACT = ComputeConfig(mode="fast"), ComputeConfig()
RGB = spec(channels=3, size=16)


@pytest.fixture(autouse=True)
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CPU computes in bfloat16, some slowly."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    yield
    setup(EXACT)


def net(compute: ComputeConfig, name: str = "bn-convnet") -> Classifier:
    model = build_model(ModelConfig(name=name, width=8, depth=3, norm="batch"), RGB, 1)
    return as_fast_as(model, compute)


def batch(count: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 3, 16, 16, generator=draws())
    return x, torch.arange(count) % 4


def gradients(model: Classifier, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_exact_mode_changes_nothing() -> None:
    model, (x, _) = net(EXACT), batch()
    assert not is_lowered(model)
    assert torch.equal(model(x), build_model(ModelConfig(width=8, depth=3), RGB, 1)(x))
    assert "mode" not in str(EXACT.to_dict()) and FAST.to_dict()["mode"] == "fast"


def test_fast_mode_rounds_to_bfloat16_and_gives_float32() -> None:
    (x, y), fast, exact = batch(), net(FAST), net(EXACT)
    logits, expected = fast(x), exact(x)
    assert logits.dtype == torch.float32 and logits.requires_grad
    assert torch.equal(logits.bfloat16().float(), logits)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)
    assert not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    rough = gradients(fast, F.cross_entropy(logits, y))
    fine = gradients(exact, F.cross_entropy(expected, y))
    assert all(gradient.dtype == torch.float32 for gradient in rough)
    cosine = F.cosine_similarity(
        *(torch.cat([g.flatten() for g in gs]) for gs in (rough, fine)), dim=0
    )
    assert 0.98 < float(cosine) < 1 - 1e-6


def test_the_switches_of_a_gpu_follow_the_mode() -> None:
    for compute, fast in ((FAST, True), (EXACT, False)):
        setup(compute)
        assert torch.backends.cudnn.benchmark is torch.backends.cudnn.allow_tf32 is fast
        assert torch.backends.cuda.matmul.allow_tf32 is fast
        assert torch.backends.cudnn.deterministic is not fast
    setup(ComputeConfig(tf32=True))
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic


def test_a_device_without_bfloat16_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert not is_lowered(net(FAST))


def test_a_block_in_float32_ends_with_its_error_too() -> None:
    setup(FAST)
    model, (x, _) = net(FAST), batch()
    with pytest.raises(ZeroDivisionError), in_float32(model):
        assert not torch.backends.cudnn.allow_tf32
        torch.testing.assert_close(model(x), net(EXACT)(x))
        _ = 1 / 0
    assert is_lowered(model) and torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_penalty_is_computed_in_float32(bn: str, fraction: float) -> None:
    """Though the plain loss is not."""
    config = {"weight": 1000, "h": 2.0, "bn": bn, "fraction": fraction}
    penalty, found = Regularizer(RegularizerConfig.from_dict(config)), []
    for compute in (FAST, EXACT):
        model, (x, y) = net(compute).train(), batch()
        plain = None if bn == "eval" else penalty.plain_pass(model, x)  # moves the statistics
        value = penalty(model, x, y, 0, draws(), plain)
        found.append((value, *gradients(model, value)))
        assert is_lowered(model) == (compute is FAST)
    for ours, theirs in zip(*found, strict=True):
        atol = 1e-5 * number(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=atol)


def test_statistics_that_images_are_recovered_by_are_in_float32() -> None:
    model, (x, _) = net(FAST).eval(), batch()
    u = x.clone().requires_grad_()
    with BatchNormLoss(model, 1) as loss:
        model.of_normalized(u)
        value = loss.take()
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value, u)
    assert gradient.isfinite().all() and float(gradient.abs().max()) > 0
    with BatchNormLoss(model, 1) as loss, in_float32(model):
        model.of_normalized(u)
    torch.testing.assert_close(value, loss.take(), rtol=0.02, atol=0)


def test_verdicts_are_in_float32() -> None:
    """The images that an attack makes may differ, the clean verdicts not."""
    x, _ = batch(60)
    exact, fast = folded(net(EXACT)), as_fast_as(folded(net(EXACT)), FAST)
    images = TensorImages((255 * x).byte(), exact(x).argmax(dim=1))
    config = EvaluationConfig(eps=0.02, attacks=("fgsm",), diagnose=False)
    found = evaluate(fast, images, config, 4, CPU)
    expected = evaluate(exact, images, config, 4, CPU)
    assert torch.equal(found.clean, expected.clean)
    assert is_lowered(fast)


def test_a_penalty_of_a_model_in_fast_mode_goes_through_folded_layers() -> None:
    assert len(convolved(net(FAST))) == 3

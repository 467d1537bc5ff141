"""compute.compile: what torch compiles computes the same, and what it cannot is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from specs import spec
from torch import Tensor, nn
from torch.nn import functional as F

from guard import device as devices
from guard.artifacts import ArtifactStore
from guard.config import ComputeConfig, ModelConfig, RegularizerConfig
from guard.data.datasets import load_data
from guard.device import has_compiler
from guard.models import compiling
from guard.models.compiling import compiled, eager
from guard.models.networks import Classifier, build_model, folded
from guard.models.precision import in_float32
from guard.models.saving import load_model
from guard.pipeline import local_runner, run_trial
from guard.stages import Squeeze
from guard.training.teacher import TeacherTraining
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, plan
from helpers import CPU, draws, files

GREY = spec(channels=1, size=8)
COMPILES = ComputeConfig(compile=True)


def net(compute: ComputeConfig = COMPILES, name: str = "bn-convnet") -> Classifier:
    return compiled(build_model(ModelConfig(name=name, width=4, depth=2), GREY, 1), compute)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Networks that are to be compiled, which are not."""
    found: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: found.append(self))
    monkeypatch.setattr(compiling, "has_compiler", lambda device: True)
    return found


def test_nothing_is_compiled_that_need_not_or_cannot_be(
    traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not net(ComputeConfig()).compiled and not traced
    model = net()
    assert model.compiled and traced == [model.network]
    monkeypatch.setattr(compiling, "has_compiler", lambda device: False)
    assert not net().compiled and len(traced) == 1
    assert "compile" not in str(ComputeConfig().to_dict()) and COMPILES.to_dict()["compile"]


@pytest.mark.parametrize(
    ("regularizer", "adversary", "is_compiled"),
    [("none", "none", True), ("curvature", "none", False), ("none", "pgd-at", False)],
)
def test_a_teacher_is_compiled_where_one_derivative_is_taken(
    regularizer: str, adversary: str, is_compiled: bool, traced: list[nn.Module], tmp_path: Path
) -> None:
    config = TrialConfig().override({"regularizer": regularizer, "compute.compile": True})
    stage = Squeeze.of(config.shared)
    adversarial = RegularizerConfig.named(adversary)
    training = TeacherTraining.of(stage, ArtifactStore(tmp_path), 0, adversarial)
    assert traced == [training.model.network] * is_compiled


@pytest.mark.parametrize(
    ("device", "found", "has"),
    [
        ("cpu", {"g++"}, True),
        ("cpu", {"clang++"}, True),
        ("cpu", {"gcc"}, False),
        ("cuda", {"gcc", "triton"}, True),
        ("cuda", {"triton"}, False),
        ("cuda", {"gcc"}, False),
        ("mps", {"g++", "gcc", "triton"}, False),
    ],
)
def test_a_device_needs_its_compiler(
    device: str, found: set[str], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(devices, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert has_compiler(device) == has
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert has_compiler("cpu") is False, "without Python's headers"


def test_a_compiler_that_is_named_and_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not has_compiler("cpu")


needs_compiler = pytest.mark.skipif(not has_compiler("cpu"), reason="there is no C++ compiler")
SMALL: dict[str, Any] = {
    "model": {"width": 8, "depth": 3},
    "ipc": 2,
    "regularizer": "none",
    "squeeze": {"epochs": 4, "optimizer": "adamw", "lr": 0.01, "augment": ["crop"]},
    "sre2l": {"iterations": 3, "chunk": 2},
    "student.train": {"epochs": 4, "batch_size": 8, "augment": ["crop"]},
    "student.mix": "cutmix",
    "evaluation": {"attacks": ["pgd3"], "max_samples": 60, "eps": 0.05, "diagnose": False},
}
COMPILED = {**SMALL, "compute.compile": True}


def passes(model: Classifier, x: Tensor, y: Tensor, *, training: bool) -> list[Tensor]:
    """Logits, and what they are differentiated by: weights in training mode, else pixels."""
    model.train(training)
    x = x.to(next(model.parameters()).dtype).requires_grad_(not training)
    logits = model(x)
    inputs = list(model.parameters()) if training else [x]
    return [logits.detach(), *torch.autograd.grad(F.cross_entropy(logits, y), inputs)]


def deviation(found: list[Tensor], exact: list[Tensor]) -> float:
    """Of the logits, or of the whole gradient, whichever is larger: the length of the error as a
    share of the length of what is exact."""
    found, exact = ([own[0], torch.cat([g.flatten() for g in own[1:]])] for own in (found, exact))
    pairs = zip(found, exact, strict=True)
    return max(float((own - true).norm() / true.norm()) for own, true in pairs)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_a_trained_network_computes_the_same(training: bool, tmp_path: Path) -> None:
    """As near to float64 as uncompiled, and within 1e-5 of that, for batches of any size."""
    config = TrialConfig().override(SMALL)
    (made,) = local_runner(ArtifactStore(tmp_path))(plan(config)[0])
    network = load_model(made.path, CPU)
    plain = network if training else folded(network)
    quick, exact = compiled(copy.deepcopy(plain), COMPILES), copy.deepcopy(plain).double()
    x, y = next(load_data(config.data).train.batches(64, CPU, draws()))
    for count in (64, 17, 2, 40):
        given = (x[:count], y[:count])
        true, usual, ours = (
            passes(model, *given, training=training) for model in (exact, plain, quick)
        )
        assert deviation(ours, usual) < 1e-5
        assert deviation(ours, true) < 2 * deviation(usual, true) + 1e-6
    assert quick.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(quick.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    quick.load_state_dict(plain.state_dict())
    for context in (eager, in_float32):
        with context(quick), torch.no_grad():
            assert torch.equal(quick.eval()(x), plain.eval()(x))


@needs_compiler
@pytest.mark.slow
def test_a_compiled_trial_is_a_function_of_its_config(tmp_path: Path) -> None:
    """Whatever the process has compiled before, and near to what is not compiled."""
    config, plain = TrialConfig().override(COMPILED), TrialConfig().override(SMALL)
    first, again = (ArtifactStore(tmp_path / name) for name in ("first", "again"))
    found = run_trial(config, local_runner(first))
    net(name="convnet")(torch.rand(3, 1, 8, 8))
    run_trial(config, local_runner(again))
    assert files(first.root) == files(again.root)
    usual = run_trial(plain, local_runner(first))
    assert not {s.address for s in plan(plain)} & {s.address for s in plan(config)}
    student = TrialStages.of(config).student
    assert first.get(student) is not None and usual.metrics.keys() == found.metrics.keys()
    for name, value in found.metrics.items():
        if name.endswith("accuracy"):
            assert value == pytest.approx(usual.metrics[name], abs=0.15)

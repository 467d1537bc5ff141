"""Our attacks against the published AutoAttack, which the wheel of torchattacks 3.3 carries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from guard.config import DataConfig, EvaluationConfig, ModelConfig
from guard.config.evaluation import AUTOATTACK, Norm
from guard.data.datasets import load_data
from guard.models.networks import Classifier, build_model
from guard.models.saving import save_model
from guard.robustness.evaluate import attack_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BALLS = [("Linf", 0.06), ("Linf", 0.1), ("Linf", 0.15), ("L2", 0.3), ("L2", 0.5)]
COUNT = 256
REFERENCE = """
import sys
from pathlib import Path
import torch
import torch.autograd.gradcheck
from safetensors.torch import load_file, save_file

def zero_gradients(x):  # torch had it when the reference was written
    if x.grad is not None:
        x.grad.zero_()

sys.modules["torch.autograd.gradcheck"].zero_gradients = zero_gradients
from autoattack import AutoAttack
from guard.models.saving import load_model
folder, norm, eps = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
model = load_model(folder / "model", torch.device("cpu")).eval()
given = load_file(folder / "images.safetensors")
x, y = given["x"], given["y"]
adversary = AutoAttack(model, norm=norm, eps=eps, version="standard", device="cpu", verbose=False)
moved = adversary.run_standard_evaluation(x, y, bs=len(x))
inside = (moved - x).flatten(1).norm(float("inf") if norm == "Linf" else 2, dim=1) <= eps + 1e-5
right = (model(moved).argmax(dim=1) == y) | ~inside
save_file({"robust": right & (model(x).argmax(dim=1) == y)}, folder / f"{norm}-{eps}.safetensors")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A network trained on digits, and 256 images that it has not seen."""
    splits = load_data(DataConfig(name="digits"))
    config = ModelConfig(name="bn-convnet", width=8, depth=3)
    model = build_model(config, splits.spec, 0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(15):
        for x, y in splits.train.batches(64, torch.device("cpu"), draws):
            noisy = x + 0.1 * torch.randn(x.shape, generator=draws)
            loss = F.cross_entropy(model(noisy), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("victim")
    (folder / "model").mkdir()
    save_model(model.eval(), config, splits.spec, folder / "model")
    x, y = next(iter(splits.test.batches(COUNT, torch.device("cpu"))))
    save_file({"x": x.contiguous(), "y": y}, folder / "images.safetensors")
    return folder, model


@pytest.mark.parametrize(("norm", "eps"), BALLS)
def test_our_autoattack_agrees_with_the_published_one(
    norm: Norm,
    eps: float,
    trained: tuple[Path, Classifier],
    record_property: Callable[[str, object], None],
) -> None:
    folder, model = trained
    command = [sys.executable, "-c", REFERENCE, str(folder), norm, str(eps)]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)
    reference = load_file(folder / f"{norm}-{eps}.safetensors")["robust"]
    splits = load_data(DataConfig(name="digits"))
    config = EvaluationConfig(norm=norm, eps=eps, attacks=("autoattack",))
    images = splits.test.subset(torch.arange(COUNT))
    verdicts = None
    for name in AUTOATTACK:
        part = (eps, name)
        verdicts, _ = attack_once(model, images, part, verdicts, config, 10, torch.device("cpu"))
    assert verdicts is not None
    ours = verdicts.robust(eps)
    accuracies = (float(ours.float().mean()), float(reference.float().mean()))
    record_property("ours, published", accuracies)
    assert float((ours == reference).float().mean()) >= 0.98, accuracies
    assert abs(accuracies[0] - accuracies[1]) <= 0.01, accuracies

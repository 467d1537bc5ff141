"""Our attacks against the published implementation of AutoAttack, and torchattacks 3.3 against 3.5.

The wheel of torchattacks 3.3 carries both; it is unpacked beside the environment, never into it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from guard.config import DataConfig, EvaluationConfig, ModelConfig
from guard.config.evaluation import AUTOATTACK
from guard.data.datasets import load_data
from guard.models.networks import Classifier, build_model
from guard.models.saving import save_model
from guard.robustness.attacks import ThreatModel, attack_images
from guard.robustness.evaluate import attack_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RADII = (0.06, 0.1, 0.15)
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
folder, eps = Path(sys.argv[1]), float(sys.argv[2])
model = load_model(folder / "model", torch.device("cpu")).eval()
given = load_file(folder / "images.safetensors")
x, y = given["x"], given["y"]
adversary = AutoAttack(model, norm="Linf", eps=eps, version="standard", device="cpu", verbose=False)
moved = adversary.run_standard_evaluation(x, y, bs=len(x))
inside = (moved - x).flatten(1).abs().amax(dim=1) <= eps + 1e-5
right = (model(moved).argmax(dim=1) == y) | ~inside
save_file({"robust": right & (model(x).argmax(dim=1) == y)}, folder / f"{eps}.safetensors")
"""
OTHER_VERSION = """
import sys
from pathlib import Path
import torch, torchattacks
from safetensors.torch import load_file, save_file
from guard.robustness.attacks import ThreatModel, attack_images
from guard.models.saving import load_model
assert torchattacks.__version__.startswith("3.3"), torchattacks.__version__
folder = Path(sys.argv[1])
model = load_model(folder / "model", torch.device("cpu")).eval()
given = load_file(folder / "images.safetensors")
threat = ThreatModel(eps=float(sys.argv[2]), num_classes=10)
found = {
    name: attack_images(name, model, given["x"], given["y"], threat, 0)
    for name in sys.argv[3].split(",")
}
save_file(found, folder / "other.safetensors")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where torchattacks 3.3 and the reference implementation can be imported from."""
    target = tmp_path_factory.mktemp("torchattacks-3.3")
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    done = subprocess.run([*install, "torchattacks==3.3.0"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"torchattacks 3.3.0 cannot be had here: {done.stderr.strip()[-200:]}")
    return target


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier, Tensor, Tensor]:
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
    return folder, model, x, y


Script = Callable[..., None]


@pytest.fixture
def run_script(wheel: Path) -> Script:
    def run(code: str, *arguments: object) -> None:
        path = os.pathsep.join([str(wheel), str(Path(__file__).parents[3])])
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.parametrize("eps", RADII)
def test_our_autoattack_agrees_with_the_published_one(
    eps: float,
    trained: tuple[Path, Classifier, Tensor, Tensor],
    run_script: Script,
    record_property: Callable[[str, object], None],
) -> None:
    folder, model, *_ = trained
    run_script(REFERENCE, folder, eps)
    reference = load_file(folder / f"{eps}.safetensors")["robust"]
    splits = load_data(DataConfig(name="digits"))
    config = EvaluationConfig(eps=eps, attacks=("autoattack",))
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


def test_torchattacks_33_does_what_35_does(
    trained: tuple[Path, Classifier, Tensor, Tensor], run_script: Script
) -> None:
    folder, model, x, y = trained
    names = ("fgsm", "pgd20", "mim", "vmi", "jitter", "deepfool", "apgd-ce", "apgd-t", "fab-t")
    run_script(OTHER_VERSION, folder, 0.08, ",".join(names))
    other = load_file(folder / "other.safetensors")
    threat = ThreatModel(eps=0.08, num_classes=10)
    for name in names:
        own = attack_images(name, model, x, y, threat, 0)
        with torch.no_grad():
            pairs = [model(moved).argmax(dim=1) for moved in (own, other[name])]
        assert float((pairs[0] == pairs[1]).float().mean()) >= 0.99, name

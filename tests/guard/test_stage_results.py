"""What each stage writes, held by a test: other results need another version.

A stored artifact is reused as long as its stage's version stands, so code that changes what a stage
writes must raise the version (and this test says where it was forgotten). On a processor and a
torch that have been written down, the bytes must be the same; others round differently, so there
sums are compared. With a version raised, or to write down another machine:

    uv run python tests/guard/test_stage_results.py
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.data.given import content_of
from guard.methods.given import GivenImages
from guard.models.networks import build_model
from guard.seeding import generator
from guard.stage import Stage
from guard.stages import Loaded
from guard.trial import TrialConfig
from guard.trial_stages import STAGES, TrialStages, landscapes, plan

GOLDEN = Path(__file__).with_name("stage_results.json")
MATCHING = {
    "iterations": 2,
    "student_steps": 2,
    "expert_epochs": 1,
    "max_start": 1,
    "batch_size": 16,
    "soft_labels": True,
}
TINY: dict[str, Any] = {
    "model": {"width": 8, "depth": 2},
    "ipc": 2,
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "augment": ["crop"]},
    "regularizer.fraction": 0.25,
    "sre2l": {"iterations": 3, "chunk": 1, "jitter": 1, "crop": "image", "flip": True},
    "dsa": {"iterations": 2, "inner_epochs": 1, "batch_size": 8},
    "mtt": MATCHING,
    "mtt.experts.count": 1,
    "mtt.experts.train": {"epochs": 3, "lr": 0.1, "batch_size": 16, "momentum": 0.9},
    "student.train": {"epochs": 2, "batch_size": 8, "augment": ["crop"]},
    "student.mix": "cutmix",
    "evaluation": {"attacks": ["pgd2", "deepfool"], "max_samples": 20, "eps": 0.05},
}
TRIALS: dict[str, dict[str, Any]] = {
    "sre2l": {},
    "dsa, whitened": {
        "method": "dsa",
        "model": {"name": "convnet", "width": 8, "depth": 2, "input": "zca"},
    },
    "mtt": {
        "method": "mtt",
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "evaluation.diagnose": False,
    },
    "herding": {
        "method": "herding",
        "regularizer": "none",
        "student.labels": "hard",
        "evaluation.diagnose": False,
    },
    "rded": {
        "method": "rded",
        "rded": {"candidates": 6, "crops": 2, "budget": 3, "deviation_epochs": 2, "mean_epochs": 2},
        "regularizer": "none",
        "evaluation.diagnose": False,
    },
    "c2r": {
        "method": "c2r",
        "c2r": {"iterations": 2, "batch_size": 8},
        "c2r.adversary.steps": 2,
        "c2r.networks": {"initial": 2, "steps": 2, "batch_size": 16},
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "regularizer": "gradient-norm",
        "evaluation.diagnose": False,
    },
    "fadrm": {
        "sre2l": {"iterations": 4, "phases": 2, "residual": 0.5, "sizes": [6, 8], "jitter": 1},
        "sre2l.patches": {"candidates": 4, "crops": 2},
        "sre2l.bn_statistics": "class",
        "sre2l.bn_scale": "mean",
        "regularizer": "none",
        "evaluation.diagnose": False,
    },
    "c2r, hardest negatives": {
        "method": "c2r",
        "c2r": {"iterations": 3, "batch_size": 8},
        "c2r.negatives": {"queue": 9, "hardest": 5, "dimensions": 4},
        "c2r.adversary.steps": 1,
        "c2r.networks": {"initial": 1, "steps": 1, "batch_size": 16},
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "regularizer": "none",
        "evaluation.diagnose": False,
        "evaluation.attacks": ["pgd2"],
    },
    "fadrm+": {
        "sre2l": {"iterations": 4, "phases": 2, "residual": 0.5, "bn_scale": "mean"},
        "sre2l.patches": {"candidates": 4, "crops": 2},
        "sre2l.bn_statistics": "class",
        "sre2l.committee.seeds": 2,
        "student.train.augment": ["shuffle", "flip"],
        "regularizer": "none",
        "evaluation.diagnose": False,
        "evaluation.attacks": ["pgd2"],
    },
    "kcenter": {
        "method": "kcenter",
        "regularizer": "none",
        "student.labels": "hard",
        "evaluation.diagnose": False,
    },
    "random, committee": {
        "method": "random",
        "student.labels": "budget",
        "student.budget": 3,
        "labels": {"teachers": ["own", "pgd-at"], "epoch": 2, "bn": "batch"},
        "evaluation.diagnose": False,
        "evaluation.attacks": ["pgd2"],
    },
}


@functools.cache
def from_others() -> list[Stage]:
    """Of a set and of weights that nobody trained."""
    folder, config = Path(tempfile.mkdtemp()), TrialConfig().override(TINY)
    x = np.arange(20 * 64, dtype=np.int64).reshape(20, 8, 8) % 251
    np.savez(folder / "set.npz", images=x.astype(np.uint8), labels=np.arange(20) % 10)
    model = build_model(config.model, load_data(config.data).spec)
    weights = {
        name: (torch.arange(value.numel()) % 33 / 64).view(value.shape).to(value.dtype)
        for name, value in model.network.state_dict().items()
    }
    save_file(weights, folder / "net.safetensors")
    given = GivenImages(
        ipc=2,
        tiles=1,
        path=str(folder / "set.npz"),
        sha256=content_of(folder / "set.npz"),
        data=config.data,
        compute=config.compute,
    )
    loaded = Loaded(
        path=str(folder / "net.safetensors"),
        sha256=content_of(folder / "net.safetensors"),
        model=config.model,
        data=config.data,
        compute=config.compute,
    )
    return [given, loaded]


def stages() -> Iterator[tuple[str, Stage]]:
    """By trial, in the order in which they can be built; each once. One landscape, and a diagnosis
    with and without a surrogate, since these take the longest."""
    seen: set[str] = set()
    for name, settings in TRIALS.items():
        config = TrialConfig().override(TINY).override(settings)
        measured: list[Stage] = []
        if name == "sre2l":
            early = TrialStages.of(config).rungs[0][-1].model
            measured = [early, landscapes(config)["student"]]
        for stage in (*plan(config), *measured):
            if stage.address not in seen:
                seen.add(stage.address)
                yield name, stage
    yield from (("from others", stage) for stage in from_others())


def sums(tensor: torch.Tensor) -> list[float]:
    """The norm of a tensor, and its product with noise: a moved or changed element changes one."""
    values = tensor.double().flatten().nan_to_num(posinf=1e3, neginf=-1e3)
    noise = torch.randn(len(values), generator=generator(0, "sums"), dtype=torch.float64)
    return [float(values.norm()), float(values @ noise)]


def machine() -> str:
    """What the last bits depend on: the release of torch and the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}"


def digest(folder: Path) -> str:
    """Of all tensors of a stage."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def results(root: Path) -> dict[str, Any]:
    """Of every stage: its version, its metrics, sums of the tensors that it wrote, and a hash of
    their bytes by machine."""
    store, found = ArtifactStore(root), {}
    for trial, stage in stages():
        made = store.get_or_build(stage)
        tensors = {
            f"{file.name}/{name}": sums(tensor)
            for file in sorted(made.path.glob("*.safetensors"))
            for name, tensor in sorted(load_file(file).items())
        }
        title = f"{trial}: {stage.name} {stage.key[:8]}"
        assert "diverged" not in made.summary, (trial, stage.name, made.summary)
        metrics = dict(made.summary["metrics"])
        found[title] = {
            "version": stage.version,
            "metrics": metrics,
            "tensors": tensors,
            "sha256": {machine(): digest(made.path)},
        }
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("stages"))


def golden() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(GOLDEN.read_text())
    return read


def test_every_kind_of_stage_is_held() -> None:
    assert {stage.name for _, stage in stages()} == set(STAGES)


@pytest.mark.parametrize("title", golden() if GOLDEN.is_file() else [])
def test_a_stage_writes_what_its_version_wrote(found: dict[str, Any], title: str) -> None:
    was, now = golden()[title], found[title]
    assert now["version"] == was["version"]
    known = {name: made for name, made in was["sha256"].items() if name in now["sha256"]}
    assert known == {} or known == now["sha256"]
    assert now["metrics"] == pytest.approx(was["metrics"], rel=0.02, abs=0.02)
    assert now["tensors"].keys() == was["tensors"].keys()
    for name, values in was["tensors"].items():
        assert now["tensors"][name] == pytest.approx(values, rel=0.005, abs=0.005), name


def test_no_stage_is_new_here(found: dict[str, Any]) -> None:
    assert found.keys() == golden().keys()


def remembered(found: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """With the hashes of other machines, where the version is still the same."""
    for title, now in found.items():
        was = before.get(title, {})
        if was.get("version") == now["version"]:
            now["sha256"] = {**was.get("sha256", {}), **now["sha256"]}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = remembered(results(Path(folder)), golden() if GOLDEN.is_file() else {})
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")

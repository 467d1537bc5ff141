"""The stages of SRe2L and CDA: teachers, chunks, sets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import guard.methods.sre2l.recover as sre2l
from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.methods.sre2l import SRe2L
from guard.models.batchnorm import batchnorms
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.pipeline import local_runner, run_trial
from guard.stages import Squeeze
from guard.trial import TrialConfig, methods, sections
from guard.trial_stages import plan


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
        model: Classifier, spec: ImageSpec, y: Tensor, config: SRe2L, *others: Any
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
    teacher = Squeeze.of(trial.config.shared)
    assert made.card["inputs"]["teacher"] == teacher.address
    origin = made.card["made_by"]["teacher"]
    assert (origin["name"], origin["config"]) == ("squeeze", teacher.config)
    assert set(made.card["inputs"]) == {"teacher", "part-0000"} == set(made.card["made_by"])
    distilled = next(stage for stage in plan(trial.config) if stage.name == "distilled")
    record = json.loads((trial.result.paths["distilled"] / "stage.json").read_text())
    agreement = (probabilities.argmax(dim=1) == made.labels).double().mean()
    assert record["summary"]["metrics"]["teacher_agreement"] == pytest.approx(float(agreement))
    assert trial.store.path(distilled) == trial.result.paths["distilled"]
    assert (trial.result.paths["distilled"] / "images.png").is_file()


def squeeze(config: TrialConfig) -> Squeeze:
    return Squeeze.of(config.shared)


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
    control = squeeze(tiny_config.unregularized())
    assert squeeze(tiny_config.override(off)).key == control.key
    assert squeeze(tiny_config).key != control.key


def test_the_radius_is_part_of_a_teacher_only_in_its_units(tiny_config: TrialConfig) -> None:
    changed = {"evaluation.eps": 0.2}
    assert squeeze(tiny_config).key == squeeze(tiny_config.override(changed)).key
    in_eps = tiny_config.override({"regularizer.units": "eps"})
    assert squeeze(in_eps).key != squeeze(in_eps.override(changed)).key
    assert squeeze(in_eps.override(changed)).config["eps"] == 0.2


def train_teacher(config: TrialConfig, root: Path) -> dict[str, Tensor]:
    store = ArtifactStore(root)
    artifact = store.get_or_build(squeeze(config))
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
    method = methods()[name]
    assert set(sections(method)) == {"squeeze", name}
    assert method.teacher_labels
    assert not tiny_config.override({"method": name}).own.needs_real_images


def test_cda_recovers_with_its_own_section_from_the_same_teacher(tiny_config: TrialConfig) -> None:
    cda = tiny_config.override({"method": "cda", "cda.iterations": 7})
    assert plan(cda)[0].key == plan(tiny_config)[0].key
    assert recover_stages(cda)[0].config["recover"] == cda.cda.to_dict()
    assert recover_stages(cda)[0].config["recover"]["iterations"] == 7

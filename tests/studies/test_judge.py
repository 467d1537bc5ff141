from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.distilled import DistilledSet
from guard.errors import ConfigError, StudyError
from guard.pipeline import local_runner, run_trial
from guard.trial import TrialConfig
from studies.judge import main
from tune.results.rows import read_csv

TINY = {
    "method": "random",
    "regularizer": "none",
    "model": {"name": "bn-convnet", "width": 8, "depth": 3},
    "ipc": 3,
    "student.train": {"epochs": 6, "batch_size": 10, "lr": 0.01, "augment": ["crop"]},
    "squeeze": {"epochs": 2, "optimizer": "adamw", "lr": 0.01},
    "evaluation": {"attacks": ["pgd2"], "max_samples": 60, "eps": 0.05, "splits": ["test"]},
    "evaluation.diagnose": False,
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A trial on random real digits, which have 17 levels, and its set in four forms."""
    root = tmp_path_factory.mktemp("judged")
    base = TrialConfig().override(TINY)
    config = base.override({"data.sha256": load_data(base.data).sha256})
    result = run_trial(config, local_runner(ArtifactStore(root / "runs" / "artifacts")))
    made = DistilledSet.load(result.paths["distilled"])
    made.export(root / "tree")
    levels = (made.images * 255).round().byte().numpy()
    np.savez(root / "set.npz", images=np.moveaxis(levels, 1, -1), labels=made.labels.numpy())
    mixed = torch.randperm(10).repeat_interleave(3) + 10 * torch.arange(3).repeat(10)
    torch.save((made.images[mixed], made.labels[mixed]), root / "set.pt")
    (root / "config.json").write_text(config.to_json())
    forms = ["tree", "set.npz", "set.pt", str(result.paths["distilled"])]
    return SimpleNamespace(root=root, config=config, result=result, made=made, forms=forms)


def rows(ours: SimpleNamespace, *arguments: str) -> dict[str, dict[str, str]]:
    code = main([*arguments, "--output", str(ours.root / "runs"), "--beside", ""])
    assert code == 0
    return {row["set"]: row for row in read_csv(ours.root / "runs" / "judge" / "judge.csv")}


def judged(ours: SimpleNamespace, sets: Sequence[str], *more: str) -> dict[str, dict[str, str]]:
    paths = [str(ours.root / name) for name in sets]
    like = ["--like", str(ours.root / "config.json"), "--seeds", "1"]
    return rows(ours, *paths, *like, *more)


def test_a_set_gives_the_figures_of_its_trial_in_every_form(ours: SimpleNamespace) -> None:
    found = judged(ours, ours.forms)
    metrics = ours.result.metrics
    assert len(found) == 4
    for row in found.values():
        assert float(row["clean"]) == metrics["test/clean_accuracy"]
        assert float(row["robust"]) == metrics["test/robust_accuracy"]
        assert (row["ipc"], row["labels"], row["runs"]) == ("3", "hard", "1")


def test_a_teachers_labels_are_those_of_the_trial(ours: SimpleNamespace) -> None:
    config = ours.config.override({"student.labels": "soft"})
    (ours.root / "soft.json").write_text(config.to_json())
    result = run_trial(config, local_runner(ArtifactStore(ours.root / "runs" / "artifacts")))
    like = ["--like", str(ours.root / "soft.json"), "--seeds", "1"]
    (row,) = rows(ours, str(ours.root / "set.pt"), *like).values()
    assert row["labels"] == "soft"
    assert float(row["clean"]) == result.metrics["test/clean_accuracy"]
    assert float(row["robust"]) == result.metrics["test/robust_accuracy"]


@pytest.mark.parametrize("kind", ["fixed", "budget"])
def test_labels_in_the_folder_need_no_teacher(kind: str, ours: SimpleNamespace) -> None:
    changes = {"student.labels": kind, "student.budget": 7}
    config = ours.config.override(changes)
    result = run_trial(config, local_runner(ArtifactStore(ours.root / "teachers")))
    made = DistilledSet.load(result.paths["distilled"])
    folder = ours.root / kind
    made.export(folder)
    plain = {f"student.{name}": value for name, value in [("labels", "auto"), ("budget", 100)]}
    (ours.root / "own.json").write_text(config.override(plain).to_json())
    alone = ["--like", str(ours.root / "own.json"), "--seeds", "1", "--output"]
    assert main([str(folder), *alone, str(ours.root / "alone"), "--beside", ""]) == 0
    (row,) = read_csv(ours.root / "alone" / "judge" / "judge.csv")
    assert row["labels"] == kind
    assert float(row["clean"]) == result.metrics["test/clean_accuracy"]
    assert float(row["robust"]) == result.metrics["test/robust_accuracy"]
    assert not list((ours.root / "alone" / "artifacts").glob("squeeze/*"))


def test_a_network_is_attacked_as_it_is(ours: SimpleNamespace) -> None:
    weights = ours.result.paths["student"] / "model.safetensors"
    like = ["--like", str(ours.root / "config.json")]
    (row,) = rows(ours, "--model", f"{weights}:bn-convnet", *like).values()
    assert float(row["clean"]) == ours.result.metrics["test/clean_accuracy"]
    assert float(row["robust"]) == ours.result.metrics["test/robust_accuracy"]
    assert row["runs"] == "1"


def test_ours_stand_beside_with_paired_differences(
    ours: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a set that has the control's name."""
    like = ["--like", str(ours.root / "config.json"), "--seeds", "2"]
    settings = ["--output", str(ours.root / "runs"), "--name", "beside"]
    given = ours.root / "random"
    shutil.copytree(ours.root / "tree", given, dirs_exist_ok=True)
    monkeypatch.chdir(ours.root)
    code = main(["random", *like, *settings, "--beside", "random,whole"])
    assert code == 0
    table = (ours.root / "runs" / "beside" / "judge.md").read_text()
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    assert lines[0] == "| set | IPC | labels | runs | clean | robust | Δ clean | Δ robust |"
    assert [line.split("|")[1].strip() for line in lines[2:5]] == [
        "random",
        "random",
        "whole",
    ]
    gains = [line.split("|")[-3].strip() for line in lines[2:5]]
    assert [bool(own) for own in gains] == [True, False, True], "ours is the control"
    assert "A set that is given is one set" in lines[-1]


def test_what_cannot_be_judged_is_told(ours: SimpleNamespace) -> None:
    with pytest.raises(StudyError, match=r"SET: name a set of images, or a network with --model"):
        main([])
    with pytest.raises(StudyError, match=r"--model: must be WEIGHTS:NETWORK, got 'net\.pt'"):
        main(["--model", "net.pt"])
    with pytest.raises(ConfigError, match=r"^student\.labels: own: random learns no labels here"):
        judged(ours, ["set.pt"], "--set", "student.labels=own")
    with pytest.raises(StudyError, match=r"--beside: no method is named 'best'"):
        main([str(ours.root / "set.pt"), "--beside", "best"])
    assert json.loads((ours.root / "config.json").read_text())["method"] == "random"

"""A trial from end to end, on digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from planned import EVERY, ORDER

import guard
from guard.artifacts import ArtifactStore
from guard.pipeline import local_runner, run_trial
from guard.robustness.evaluate import evaluate
from guard.robustness.verdicts import metrics
from guard.trial_stages import STAGES, plan
from helpers import run_python


def tensor_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.safetensors")}


def test_a_trial_completes_with_every_metric(trial: SimpleNamespace) -> None:
    result = trial.result
    assert (result.status, result.reason) == ("complete", "")
    evaluated = ("clean_accuracy", "robust_accuracy", "drop_rate", "num_samples")
    passes = ("forward_passes", "backward_passes")
    expected = {
        *(
            f"{part}/{name}"
            for part in ("teacher", "validation", "test")
            for name in (*evaluated, *passes)
        ),
        *(
            f"{part}/train_{name}"
            for part in ("teacher", "student")
            for name in ("loss", "accuracy")
        ),
        "teacher/robust_accuracy/pgd20",
        "validation/robust_accuracy/pgd2",
        "test/robust_accuracy/pgd2",
        "distilled/label_loss",
        "distilled/bn_loss",
    }
    found = {name for name in result.metrics if not name.startswith("reliability/")}
    assert found == expected
    assert "reliability/flags" in result.metrics
    for name, value in result.metrics.items():
        if "accuracy" in name:
            assert 0 <= value <= 1
    for part in ("teacher", "validation", "test"):
        assert result.metrics[f"{part}/num_samples"] == 50
        assert result.metrics[f"{part}/robust_accuracy"] <= result.metrics[f"{part}/clean_accuracy"]
    assert result.metrics["teacher/clean_accuracy"] > 0.4


def test_a_trial_reports_each_part_when_it_is_done(trial: SimpleNamespace) -> None:
    parts = [part for part, _ in trial.reports]
    assert parts == [
        *("teacher", "teacher", "distilled", "student", "reliability", "validation", "test")
    ]
    merged: dict[str, float] = {}
    for part, values in trial.reports:
        assert values and all(name.startswith(f"{part}/") for name in values)
        merged.update(values)
    assert merged == trial.result.metrics


def test_a_trial_leaves_the_global_random_state_alone(trial: SimpleNamespace) -> None:
    assert torch.equal(*trial.random_states)


def test_a_trial_runs_exactly_the_planned_stages(trial: SimpleNamespace) -> None:
    planned = plan(trial.config)
    assert [record.name for record in trial.result.stages] == ORDER
    assert [r.key for r in trial.result.stages] == [stage.key for stage in planned]
    assert all(record.built and record.seconds > 0 for record in trial.result.stages)
    assert {stage.name for stage in planned} == EVERY <= set(STAGES)
    for stage in planned:
        assert trial.store.get(stage) is not None


def test_a_result_says_where_things_are(trial: SimpleNamespace) -> None:
    stages = plan(trial.config)
    named = {stage.name: stage for stage in stages}
    validation, test = (
        stage
        for stage in stages
        if stage.name == "evaluate" and stage.inputs["model"] == named["student"]
    )
    assert trial.result.paths == {
        "teacher": trial.store.path(named["squeeze"]),
        "distilled": trial.store.path(named["distilled"]),
        "student": trial.store.path(named["student"]),
        "validation verdicts": trial.store.path(validation),
        "test verdicts": trial.store.path(test),
    }
    student = guard.load_model(trial.result.paths["student"])
    assert student(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_reported_accuracy_is_that_of_the_saved_student(trial: SimpleNamespace) -> None:
    splits = guard.load_data(trial.config.data)
    student = guard.load_model(trial.result.paths["student"])
    own = trial.config.evaluation
    for split in ("validation", "test"):
        verdicts = evaluate(student, splits.named(split), own, 10, torch.device("cpu"))
        for name, value in metrics(verdicts, own).items():
            assert trial.result.metrics[f"{split}/{name}"] == value


def test_a_second_run_computes_nothing(trial: SimpleNamespace) -> None:
    again = run_trial(trial.config, local_runner(trial.store))
    assert [record.name for record in again.stages] == ORDER
    assert not any(record.built for record in again.stages)
    assert again.metrics == trial.result.metrics
    assert again.paths == trial.result.paths
    assert again.waiting_seconds == again.seconds


def test_waiting_is_the_time_in_which_nothing_was_computed(trial: SimpleNamespace) -> None:
    result = trial.result
    computing = sum(record.seconds for record in result.stages)
    assert 0 <= result.waiting_seconds < result.seconds
    assert result.seconds - result.waiting_seconds <= computing + 1e-9
    assert result.seconds - result.waiting_seconds > 0.5 * computing


def test_a_fresh_store_gets_the_same_bytes(trial: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    fresh = ArtifactStore(tmp_path)
    result = run_trial(trial.config, local_runner(fresh))
    assert result.metrics == trial.result.metrics
    made = tensor_files(tmp_path)
    first = {name: (trial.store.root / name).read_bytes() for name in made}
    assert len(made) == len(ORDER) - 1  # a diagnosis is numbers only
    assert made == first


def test_other_seeds_give_other_results(trial: SimpleNamespace) -> None:
    result = run_trial(trial.config.override({"student.seed": 1}), local_runner(trial.store))
    built = [record.name for record in result.stages if record.built]
    assert built == ["relabel", "student", "evaluate", "evaluate", "diagnose"]
    assert result.metrics["student/train_loss"] != trial.result.metrics["student/train_loss"]


def test_results_and_records_are_frozen(trial: SimpleNamespace) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.result.status = "complete"
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.result.stages[0].built = False


def test_planning_imports_no_torch() -> None:
    code = """
import sys, guard, guard.pipeline, guard.trial_stages, guard.config, guard.methods, guard.errors
guard.trial_stages.plan(guard.TrialConfig())
assert "torch" not in sys.modules
assert "numpy" not in sys.modules
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in guard.__all__:
        assert getattr(guard, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = guard.nothing

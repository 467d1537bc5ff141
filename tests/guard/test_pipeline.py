from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import guard
from guard.artifacts import Artifact, ArtifactStore
from guard.config.schema import digest
from guard.pipeline import STAGES, local_runner, plan, run_trial
from guard.robustness.evaluate import evaluate, metrics
from guard.stage import Stage
from guard.trial import TrialConfig

ORDER = [
    "squeeze",
    "evaluate",
    "recover",
    "distilled",
    "relabel",
    "student",
    "evaluate",
    "evaluate",
    "diagnose",
]

EVERY = set(ORDER)
CHECKS = {"evaluate", "diagnose"}
EVALUATED = ["evaluate", "evaluate", "diagnose"]
VERDICTS = {"validation verdicts", "test verdicts"}
SINCE_DISTILLED = ("distilled", "relabel", "student", *CHECKS)


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
    addresses = {stage.name: stage.address for stage in stages}
    validation, test = (
        stage.address
        for stage in stages
        if stage.name == "evaluate" and stage.inputs["model"] == addresses["student"]
    )
    assert trial.result.paths == {
        "teacher": trial.store.path(addresses["squeeze"]),
        "distilled": trial.store.path(addresses["distilled"]),
        "student": trial.store.path(addresses["student"]),
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


def stages_by_name(config: TrialConfig) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for stage in plan(config):
        found.setdefault(stage.name, set()).add(stage.key)
    return found


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        ({"ipc": 4}, {"recover", *SINCE_DISTILLED}),
        ({"seed": 1}, EVERY),
        ({"model.width": 9}, EVERY),
        ({"regularizer.weight": 9}, EVERY),
        ({"squeeze.lr": 9}, EVERY),
        ({"data.split_seed": 9}, EVERY),
        ({"compute.num_threads": 2}, EVERY),
        ({"sre2l.lr": 9}, {"recover", *SINCE_DISTILLED}),
        ({"student.seed": 1}, {"relabel", "student", *CHECKS}),
        ({"student.temperature": 1}, {"student", *CHECKS}),
        ({"evaluation.eps": 0.2}, CHECKS),
        ({"evaluation.seed": 9}, CHECKS),
        ({"evaluation.norm": "L2"}, CHECKS),
        ({"evaluation.attacks": ["mim"]}, {"evaluate"}),
        ({"evaluation.more_eps": [0.2]}, {"evaluate"}),
    ],
)
def test_a_change_rebuilds_what_depends_on_it(
    change: dict[str, Any], rebuilt: set[str], tiny_config: TrialConfig
) -> None:
    before, after = (stages_by_name(c) for c in (tiny_config, tiny_config.override(change)))
    assert {name for name in before if before[name] != after[name]} == rebuilt


def test_another_ipc_shares_the_teacher(tiny_config: TrialConfig) -> None:
    small, large = (plan(tiny_config.override({"ipc": ipc})) for ipc in (2, 6))
    assert [stage.key for stage in small[:3]] == [stage.key for stage in large[:3]]
    assert [stage.name for stage in large].count("recover") == 3


def test_a_stage_reads_only_what_was_planned_before_it(tiny_config: TrialConfig) -> None:
    known: set[str] = set()
    for stage in plan(tiny_config.override({"ipc": 5})):
        assert set(stage.inputs.values()) <= known
        known.add(stage.address)
    assert len(known) == 11


def test_validation_and_test_are_attacked_alike(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "mim"]})
    student = Steps.of(tried).student
    chains = [evaluation_chain(tried, student, split) for split in ("validation", "test")]
    for stages in zip(*chains, strict=True):
        values = [{**stage.config, "split": ""} for stage in stages]
        assert values[0] == values[1]
        assert stages[0].key != stages[1].key
        assert [stage.config["split"] for stage in stages] == ["validation", "test"]


def test_the_plan_has_every_link_of_a_chain(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override(
        {"evaluation.attacks": ["pgd2", "mim"], "evaluation.more_eps": [0.2]}
    )
    student = Steps.of(tried).student
    chains = [evaluation_chain(tried, student, split) for split in ("validation", "test")]
    links = [stage for together in zip(*chains, strict=True) for stage in together]
    planned = [stage for stage in plan(tried) if stage.inputs.get("model") == student.address]
    assert [stage for stage in planned if stage.name == "evaluate"] == links and len(links) == 8
    assert planned[2].name == "diagnose"  # beside the first links


@pytest.mark.parametrize(
    "change",
    [
        {"attacks": ["standard"]},
        {"attacks": ["pgd20", "cw"], "cascade": False},
        {"more_eps": [0.01, 0.2]},
        {"splits": ["test"]},
        {"diagnose": False},
    ],
    ids=lambda change: "-".join(change),
)
def test_the_teacher_is_checked_by_the_cheap_suite_whatever_the_suite(
    change: dict[str, Any], tiny_config: TrialConfig
) -> None:
    tried = tiny_config.override({f"evaluation.{name}": value for name, value in change.items()})
    (check,) = teacher_checks(tried, Steps.of(tried))
    (plain,) = teacher_checks(tiny_config, Steps.of(tiny_config))
    assert check.key == plain.key
    said = (check.config["attack"], check.config["eps"], check.config["split"])
    assert said == ("pgd20", tiny_config.evaluation.eps, "validation")
    assert check.inputs == {"model": Steps.of(tried).teachers[0].address}


def test_only_the_first_of_several_teachers_is_checked(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"method": "mtt", "mtt.experts.count": 3})
    steps = Steps.of(tried)
    (check,) = teacher_checks(tried, steps)
    assert len(steps.teachers) == 3
    assert check.inputs["model"] == steps.teachers[0].address


def test_no_teacher_has_no_check(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"method": "dc"})
    assert teacher_checks(tried, Steps.of(tried)) == []


def pretend(diverging: str = "") -> tuple[list[list[str]], Any]:
    """A runner that computes nothing, and the groups of stages that it was asked for."""
    asked: list[list[str]] = []

    def run_stage(*stages: Stage) -> list[Artifact]:
        asked.append([stage.name for stage in stages])
        made = []
        for number, stage in enumerate(stages):
            metrics = {"clean_accuracy": 0.5, "loss": float(number)}
            summary = {"diverged": "too steep"} if stage.name == diverging else {"metrics": metrics}
            made.append(Artifact(Path(stage.address), summary, 2.0, built=True))
        return made

    return asked, run_stage


def test_independent_stages_are_asked_for_together(tiny_config: TrialConfig) -> None:
    asked, run_stage = pretend()
    result = run_trial(tiny_config.override({"ipc": 5}), run_stage)
    assert asked == [
        ["squeeze"],
        ["evaluate", "recover", "recover", "recover"],
        ["distilled"],
        ["relabel"],
        ["student"],
        ["evaluate", "evaluate", "diagnose"],
    ]
    assert result.metrics["distilled/loss"] == 2.0
    assert result.metrics["test/loss"] == 1.0
    assert result.waiting_seconds == pytest.approx(result.seconds - 12.0)


def test_the_links_of_both_splits_are_asked_for_one_after_another(tiny_config: TrialConfig) -> None:
    asked, run_stage = pretend()
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "mim", "square"]})
    result = run_trial(tried, run_stage)
    assert asked[-3:] == [EVALUATED, EVALUATED[:2], EVALUATED[:2]]
    chains = [
        evaluation_chain(tried, Steps.of(tried).student, split) for split in ("validation", "test")
    ]
    for split, chain in zip(("validation", "test"), chains, strict=True):
        assert result.paths[f"{split} verdicts"] == Path(chain[-1].address)


@pytest.mark.parametrize("attacks", [["pgd2"], ["pgd2", "mim"]])
def test_the_student_may_be_evaluated_on_test_only(
    attacks: list[str], tiny_config: TrialConfig
) -> None:
    asked, run_stage = pretend()
    change = {"evaluation.splits": ["test"], "evaluation.attacks": attacks}
    tried = tiny_config.override(change)
    result = run_trial(tried, run_stage)
    assert asked[-len(attacks) :] == [["evaluate", "diagnose"], ["evaluate"]][: len(attacks)]
    parts = {name.split("/")[0] for name in result.metrics}
    assert "test" in parts and "validation" not in parts
    assert "test verdicts" in result.paths and "validation verdicts" not in result.paths
    student = Steps.of(tried).student.address
    splits = [s.config["split"] for s in plan(tried) if s.inputs.get("model") == student]
    assert splits == ["test"] * (len(attacks) + 1)


def test_the_diagnosis_can_be_left_out(tiny_config: TrialConfig) -> None:
    asked, run_stage = pretend()
    result = run_trial(tiny_config.override({"evaluation.diagnose": False}), run_stage)
    assert asked[-1] == ["evaluate", "evaluate"]
    assert not any(name.startswith("reliability/") for name in result.metrics)


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        (
            {"method": "mtt", "mtt.experts.count": 3},
            [
                ["expert"] * 3,
                ["evaluate", "trajectory-matching"],
                ["distilled"],
                ["student"],
                EVALUATED,
            ],
        ),
        (
            {"method": "dc"},
            [["gradient-matching"], ["distilled"], ["student"], EVALUATED],
        ),
        ({"method": "whole"}, [["squeeze"], EVALUATED]),
        (
            {"method": "herding", "regularizer": "none"},
            [["squeeze"], ["evaluate", "subset"], ["distilled"], ["student"], EVALUATED],
        ),
        (
            {"student.labels": "hard"},
            [["squeeze"], ["evaluate", "recover"], ["distilled"], ["student"], EVALUATED],
        ),
    ],
)
def test_each_method_asks_for_its_own_stages(
    change: dict[str, Any], groups: list[list[str]], tiny_config: TrialConfig
) -> None:
    asked, run_stage = pretend()
    result = run_trial(tiny_config.override(change), run_stage)
    assert asked == groups
    names = {name for group in groups for name in group}
    taught = groups[0][0] in ("squeeze", "expert") and "distilled" in names
    made = {"distilled"} if "distilled" in names else set()
    models = {"student"} | made | ({"teacher"} if taught else set())
    assert set(result.paths) == models | VERDICTS
    parts = {name.split("/")[0] for name in result.metrics}
    assert parts == {*models, "reliability", "validation", "test"}


@pytest.mark.parametrize(
    ("diverging", "paths", "metrics"),
    [
        ("squeeze", set(), set()),
        ("recover", {"teacher"}, {"teacher"}),
        ("student", {"teacher", "distilled"}, {"teacher", "distilled"}),
        ("evaluate", {"teacher"}, {"teacher"}),
    ],
)
def test_a_stage_that_diverges_ends_the_trial(
    diverging: str, paths: set[str], metrics: set[str], tiny_config: TrialConfig
) -> None:
    asked, run_stage = pretend(diverging)
    result = run_trial(tiny_config, run_stage)
    assert (result.status, result.reason) == ("diverged", f"{diverging}: too steep")
    assert asked[-1].count(diverging) == 1
    assert set(result.paths) == paths
    assert {name.split("/")[0] for name in result.metrics} == metrics
    assert result.stages[-1].name == diverging


def test_a_failure_is_not_swallowed(tiny_config: TrialConfig) -> None:
    def run_stage(*stages: Stage) -> list[Artifact]:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        run_trial(tiny_config, run_stage)


def test_results_and_records_are_frozen(trial: SimpleNamespace) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.result.status = "complete"
    with pytest.raises(dataclasses.FrozenInstanceError):
        trial.result.stages[0].built = False


def test_keys_are_the_digest_of_what_a_stage_depends_on(tiny_config: TrialConfig) -> None:
    for stage in plan(tiny_config):
        parts = [stage.name, stage.version, stage.config, stage.inputs]
        assert stage.key == digest(parts)[:32]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_planning_imports_no_torch() -> None:
    code = """
import sys, guard, guard.pipeline, guard.config, guard.methods, guard.errors
guard.pipeline.plan(guard.TrialConfig())
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

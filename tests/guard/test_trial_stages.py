"""Which stages a trial plans, and in which order they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planned import EVERY

from guard.artifacts import Artifact
from guard.config.schema import digest
from guard.pipeline import run_trial
from guard.robustness.stages import Evaluate, chain
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, plan

CHECKS = {"evaluate", "diagnose"}
EVALUATED = ["evaluate", "evaluate", "diagnose"]
VERDICTS = {"validation verdicts", "test verdicts"}
SINCE_DISTILLED = ("distilled", "relabel", "student", *CHECKS)


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
        assert {needed.address for needed in stage.inputs.values()} <= known
        known.add(stage.address)
    assert len(known) == 11


def chains_of(config: TrialConfig) -> list[list[Evaluate]]:
    """The student's evaluation on validation and on test."""
    student = TrialStages.of(config).student
    splits = ("validation", "test")
    return [chain(student, config.data, config.evaluation, split) for split in splits]


def test_validation_and_test_are_attacked_alike(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "mim"]})
    for stages in zip(*chains_of(tried), strict=True):
        values = [{**stage.config, "split": ""} for stage in stages]
        assert values[0] == values[1]
        assert stages[0].key != stages[1].key
        assert [stage.config["split"] for stage in stages] == ["validation", "test"]


def test_the_plan_has_every_link_of_a_chain(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override(
        {"evaluation.attacks": ["pgd2", "mim"], "evaluation.more_eps": [0.2]}
    )
    student = TrialStages.of(tried).student
    links = [stage for together in zip(*chains_of(tried), strict=True) for stage in together]
    planned = [stage for stage in plan(tried) if stage.inputs.get("model") == student]
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
    (check,) = TrialStages.of(tried).teacher_check
    (plain,) = TrialStages.of(tiny_config).teacher_check
    assert check.key == plain.key
    said = (check.config["attack"], check.config["eps"], check.config["split"])
    assert said == ("pgd20", tiny_config.evaluation.eps, "validation")
    assert check.inputs == {"model": TrialStages.of(tried).teachers[0]}


def test_only_the_first_of_several_teachers_is_checked(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"method": "mtt", "mtt.experts.count": 3})
    stages = TrialStages.of(tried)
    (check,) = stages.teacher_check
    assert len(stages.teachers) == 3
    assert check.inputs["model"] == stages.teachers[0]


def test_no_teacher_has_no_check(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"method": "dc"})
    assert list(TrialStages.of(tried).teacher_check) == []


def pretend(diverging: str = "") -> tuple[list[list[str]], Any]:
    """A runner that computes nothing, and the groups of stages that it was asked for."""
    asked: list[list[str]] = []

    def run_stage(*stages: Stage) -> list[Artifact]:
        asked.append([stage.name for stage in stages])
        made = []
        for number, stage in enumerate(stages):
            metrics = {"clean_accuracy": 0.5, "loss": float(number)}
            summary = {"diverged": "too steep"} if stage.name == diverging else {"metrics": metrics}
            made.append(
                Artifact(path=Path(stage.address), summary=summary, seconds=2.0, built=True)
            )
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
    assert result.waiting_seconds == 0, "more was computed than has passed"


def test_the_links_of_both_splits_are_asked_for_one_after_another(tiny_config: TrialConfig) -> None:
    asked, run_stage = pretend()
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "mim", "square"]})
    result = run_trial(tried, run_stage)
    assert asked[-3:] == [EVALUATED, EVALUATED[:2], EVALUATED[:2]]
    for split, links in zip(("validation", "test"), chains_of(tried), strict=True):
        assert result.paths[f"{split} verdicts"] == Path(links[-1].address)


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
    student = TrialStages.of(tried).student
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


def test_keys_are_the_digest_of_what_a_stage_depends_on(tiny_config: TrialConfig) -> None:
    for stage in plan(tiny_config):
        inputs = {role: needed.address for role, needed in stage.inputs.items()}
        version = [stage.version, *stage.mended] if stage.mended else stage.version
        parts = [stage.name, version, stage.config, inputs]
        assert stage.key == digest(parts)[:32]

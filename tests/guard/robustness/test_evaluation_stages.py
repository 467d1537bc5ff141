"""An evaluation as a chain of stages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from evaluating import assert_same

import guard.robustness.attacks
import guard.robustness.evaluate
from guard.artifacts import Artifact
from guard.config import EvaluationConfig
from guard.config.evaluation import AUTOATTACK, AttackAt, Split, attacks_at
from guard.data.datasets import load_data
from guard.data.images import Splits
from guard.models.saving import load_model
from guard.pipeline import local_runner
from guard.robustness.evaluate import attack_once, chosen, evaluate
from guard.robustness.stages import Evaluate
from guard.robustness.stages import chain as chain_of_stages
from guard.robustness.verdicts import Verdicts, metrics, share
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import CPU

pytestmark = pytest.mark.usefixtures("cheap_attacks")


def student_chain(config: TrialConfig, split: Split = "validation") -> list[Evaluate]:
    student = TrialStages.of(config).student
    return chain_of_stages(student, config.data, config.evaluation, split)


@pytest.fixture
def chained(trial: SimpleNamespace) -> SimpleNamespace:
    """config, stages, store, student and splits of a chain of five attacks on the tiny student."""
    changes = {"attacks": ["pgd2", "margin2", "cw"], "more_eps": [0.02], "max_samples": 30}
    tried = trial.config.override({f"evaluation.{name}": v for name, v in changes.items()})
    student = TrialStages.of(tried).student
    return SimpleNamespace(
        config=tried,
        student=student,
        store=trial.store,
        stages=student_chain(tried),
        model=load_model(trial.store.path(student)),
        splits=load_data(tried.data),
    )


def verdicts_of(artifact: Artifact) -> Verdicts:
    return Verdicts.load(artifact.path / "verdicts.safetensors")


def at_once(chained: Any, own: EvaluationConfig) -> Verdicts:
    splits: Splits = chained.splits
    return evaluate(chained.model, chosen(splits.validation, own), own, 10, CPU)


def test_a_chain_of_stages_gives_the_verdicts_of_one_evaluation(chained: Any) -> None:
    own = chained.config.evaluation
    made = local_runner(chained.store)(*chained.stages)
    expected = at_once(chained, own)
    assert len(made) == 5
    assert_same(verdicts_of(made[-1]), expected)
    for number, artifact in enumerate(made[:-1]):
        so_far = verdicts_of(artifact)
        assert list(artifact.summary["passes"]) == [
            "clean",
            *(f"{eps!r} {name}" for eps, name in attacks_at(own)[: number + 1]),
        ]
        assert set(so_far.survived) == set(attacks_at(own)[: number + 1])
        assert artifact.summary["metrics"] == {"clean_accuracy": share(expected.clean)}
    found = dict(made[-1].summary["metrics"])
    passes = made[-1].summary["passes"].values()
    assert found.pop("forward_passes") == sum(forward for forward, _ in passes)
    assert found.pop("backward_passes") == sum(backward for _, backward in passes)
    assert found == metrics(expected, own)
    assert share(expected.robust(own.eps)) < share(expected.clean)


def test_an_interrupted_chain_goes_on_where_it_was(
    chained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = chained.config.override({"evaluation.seed": 7})
    stages = student_chain(tried)
    assert stages[0].model == chained.student
    run_stage, parts = local_runner(chained.store), attacks_at(tried.evaluation)
    called: list[AttackAt] = []
    stop: set[AttackAt] = {parts[2]}

    def counting(model: Any, images: Any, part: AttackAt, *rest: Any) -> Any:
        called.append(part)
        if part in stop:
            raise KeyboardInterrupt
        return attack_once(model, images, part, *rest)

    monkeypatch.setattr(guard.robustness.evaluate, "attack_once", counting)
    with pytest.raises(KeyboardInterrupt):
        run_stage(*stages)
    assert called == parts[:3]
    stop.clear()
    made = run_stage(*stages)
    assert called[3:] == parts[2:]
    assert [artifact.built for artifact in made] == [False, False, True, True, True]
    assert_same(verdicts_of(made[-1]), at_once(chained, tried.evaluation))


def keys(base: TrialConfig, **changes: Any) -> list[str]:
    tried = base.override({f"evaluation.{name}": value for name, value in changes.items()})
    return [stage.key for stage in student_chain(tried)]


def test_only_the_last_stage_depends_on_what_is_reported(tiny_config: TrialConfig) -> None:
    named, single = keys(tiny_config, attacks=["autoattack"]), keys(tiny_config, attacks=AUTOATTACK)
    assert named[:-1] == single[:-1] and len(named) == 4
    assert named[-1] != single[-1]


def test_suites_with_the_same_beginning_share_it(tiny_config: TrialConfig) -> None:
    one, other = (keys(tiny_config, attacks=["pgd2", "mim", last]) for last in ("vmi", "square"))
    assert one[:2] == other[:2] and one[2] != other[2]
    small = keys(tiny_config, attacks=["pgd2", "mim"], eps=0.05)
    large = keys(tiny_config, attacks=["pgd2", "mim"], eps=0.05, more_eps=[0.1])
    assert small[0] == large[0] and small[1] != large[1] and len(large) == 4


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({"diagnose": False}, True),
        ({"splits": ["test"]}, True),
        ({"seed": 1}, False),
        ({"batch_size": 9}, False),
        ({"max_samples": 9}, False),
        ({"cascade": False}, False),
        ({"norm": "L2"}, False),
        ({"eps": 0.07}, False),
    ],
)
def test_every_stage_depends_on_how_it_attacks(
    change: dict[str, Any], is_shared: bool, tiny_config: TrialConfig
) -> None:
    base = tiny_config.override({"evaluation.attacks": ["pgd2", "margin2", "square"]})
    pairs = zip(keys(base), keys(base, **change), strict=True)
    assert {one == other for one, other in pairs} == {is_shared}


def test_a_stage_says_which_attack_it_is(tiny_config: TrialConfig) -> None:
    tried = tiny_config.override({"evaluation.attacks": ["pgd2", "cw"]})
    student = TrialStages.of(tried).student
    first, last = student_chain(tried, "test")
    assert (first.config["attack"], first.config["eps"], first.config["is_last"]) == (
        "cw",
        None,
        False,
    )
    assert (last.config["attack"], last.config["eps"], last.config["is_last"]) == (
        "pgd2",
        0.05,
        True,
    )
    assert first.inputs == {"model": student}
    assert last.inputs == {"model": student, "before": first}

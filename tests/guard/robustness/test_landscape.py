from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guard.artifacts import Artifact
from guard.data.datasets import load_data
from guard.pipeline import local_runner
from guard.robustness import landscape
from guard.robustness.evaluate import drawn
from guard.robustness.hessian import BoundTerms
from guard.robustness.landscape import EIGENVALUES, SAMPLES, TERMS, bound_metrics, look_around
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, landscapes, plan

FILE = "landscape.safetensors"
DIMENSION = 8 * 8
FEW_SAMPLES, FEW_EIGENVALUES = 12, 4


def metrics(artifact: Artifact) -> Mapping[str, float]:
    found: Mapping[str, float] = artifact.summary["metrics"]
    return found


@contextlib.contextmanager
def few() -> Iterator[None]:
    """Fewer samples than usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "SAMPLES", FEW_SAMPLES)
        patch.setattr(landscape, "EIGENVALUES", FEW_EIGENVALUES)
        yield


@pytest.fixture(scope="module")
def around(trial: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """What is measured around few samples of the tiny trial's models."""
    made = {}
    for part, stage in landscapes(trial.config).items():
        folder = tmp_path_factory.mktemp(part)
        with few():
            made[part] = Artifact(
                path=folder, summary=look_around(stage, trial.store, folder), seconds=0.0
            )
    return made


@pytest.fixture
def radii(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The radii that Proposition 1 was asked for; its terms are not computed."""
    asked: list[float] = []

    def proposition1(*given: Any) -> dict[int, BoundTerms]:
        asked.append(given[4])
        return {
            0: BoundTerms(
                distilled_loss=1.0,
                loss=1.0,
                gradient=1.0,
                curvature=1.0,
                distance=1.0,
                lipschitz=1.0,
            )
        }

    monkeypatch.setattr(landscape, "proposition1", proposition1)
    return asked


@pytest.mark.parametrize(
    ("changes", "parts", "has_set"),
    [
        ({}, {"student", "teacher"}, True),
        ({"method": "mtt"}, {"student", "teacher"}, True),
        ({"method": "dc"}, {"student"}, True),
        ({"method": "random", "regularizer": "none"}, {"student"}, True),
        ({"method": "whole"}, {"student"}, False),
    ],
)
def test_the_models_of_a_trial_are_looked_around(
    changes: dict[str, Any], parts: set[str], has_set: bool, tiny_config: TrialConfig
) -> None:
    config = tiny_config.override(changes)
    stages, steps = landscapes(config), TrialStages.of(config)
    assert set(stages) == parts
    assert stages["student"].inputs["model"] == steps.student
    if "teacher" in parts:
        assert stages["teacher"].inputs["model"] == steps.teachers[0]
    for stage in stages.values():
        assert ("distilled" in stage.inputs) == has_set


def test_what_is_looked_at_is_made_by_the_trial(tiny_config: TrialConfig) -> None:
    planned = {stage.address for stage in plan(tiny_config)}
    for stage in landscapes(tiny_config).values():
        assert {needed.address for needed in stage.inputs.values()} <= planned


@pytest.mark.parametrize(
    ("changes", "is_another"),
    [
        ({"evaluation.eps": 0.2}, True),
        ({"evaluation.norm": "L2"}, True),
        ({"student.seed": 1}, True),
        ({"evaluation.attacks": ["mim"]}, False),
        ({"evaluation.splits": ["test"]}, False),
    ],
)
def test_only_what_matters_makes_another_landscape(
    changes: dict[str, Any], is_another: bool, tiny_config: TrialConfig
) -> None:
    before, after = (
        landscapes(config)["student"].key for config in (tiny_config, tiny_config.override(changes))
    )
    assert (before != after) == is_another


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_the_file_has_a_value_for_every_sample(part: str, around: dict[str, Artifact]) -> None:
    tensors = load_file(around[part].path / FILE)
    assert {name: tuple(values.shape) for name, values in tensors.items()} == {
        "eigenvalues": (FEW_SAMPLES, FEW_EIGENVALUES),
        "gradient_norm": (FEW_SAMPLES,),
        "cosine": (FEW_SAMPLES,),
        "loss": (FEW_SAMPLES,),
    }
    assert around[part].summary["samples"] == FEW_SAMPLES
    values = tensors["eigenvalues"]
    assert bool((values[:, :-1] >= values[:, 1:]).all())
    assert bool((tensors["gradient_norm"] >= 0).all()) and bool((tensors["loss"] > 0).all())
    assert 0 <= float(tensors["cosine"].min()) <= float(tensors["cosine"].max()) <= 1 + 1e-6


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_the_summary_has_the_means_of_the_file(part: str, around: dict[str, Artifact]) -> None:
    tensors, found = load_file(around[part].path / FILE), metrics(around[part])
    largest = tensors["eigenvalues"][:, 0]
    assert found["largest_eigenvalue"] == pytest.approx(float(largest.mean()))
    assert found["largest_eigenvalue_median"] == pytest.approx(float(largest.median()))
    for name in ("gradient_norm", "cosine", "loss"):
        assert found[name] == pytest.approx(float(tensors[name].mean()))


def test_teacher_and_student_are_different_landscapes(around: dict[str, Artifact]) -> None:
    student, teacher = (metrics(around[part]) for part in ("student", "teacher"))
    assert student["loss"] != teacher["loss"]


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_the_bound_s_terms_are_means_over_classes(
    part: str, around: dict[str, Artifact], trial: SimpleNamespace
) -> None:
    tensors, found = load_file(around[part].path / FILE), metrics(around[part])
    test = load_data(trial.config.data).test
    labels = drawn(test, FEW_SAMPLES, 0, "landscape").y
    radius = trial.config.evaluation.eps * math.sqrt(DIMENSION)

    def over_classes(values: torch.Tensor) -> float:
        means = [float(values[labels == label].mean()) for label in labels.unique()]
        return sum(means) / len(means)

    largest = over_classes(tensors["eigenvalues"][:, 0])
    assert found["bound/loss"] == pytest.approx(over_classes(tensors["loss"]), rel=1e-4)
    gradient = radius * over_classes(tensors["gradient_norm"])
    assert found["bound/gradient"] == pytest.approx(gradient, rel=1e-4)
    assert found["bound/curvature"] == pytest.approx(0.5 * radius**2 * largest, rel=1e-3)
    assert found["bound/distance"] > 0 and found["bound/lipschitz"] > 0
    three = sum(found[f"bound/{name}"] for name in ("loss", "gradient", "curvature"))
    assert found["bound/bound"] > three
    assert 0 <= found["bound/holds"] <= 1


def test_the_bound_is_the_sum_of_its_terms_in_each_class() -> None:
    terms = [
        BoundTerms(
            distilled_loss=3.0, loss=1.0, gradient=0.5, curvature=0.25, distance=2.0, lipschitz=0.5
        ),
        BoundTerms(
            distilled_loss=9.0, loss=2.0, gradient=1.0, curvature=0.75, distance=1.0, lipschitz=3.0
        ),
    ]
    assert bound_metrics(terms) == {
        "bound/distilled_loss": 6.0,
        "bound/loss": 1.5,
        "bound/gradient": 0.75,
        "bound/curvature": 0.5,
        "bound/lipschitz": 1.75,
        "bound/distance": 1.5,
        "bound/bound": (2.75 + 6.75) / 2,
        "bound/holds": 0.0,
    }


@pytest.mark.parametrize(("left", "share"), [((2.75, 6.75), 1.0), ((2.7, 7.0), 0.5)])
def test_the_bound_holds_in_a_share_of_the_classes(left: tuple[float, float], share: float) -> None:
    terms = [
        BoundTerms(
            distilled_loss=left[0],
            loss=1.0,
            gradient=0.5,
            curvature=0.25,
            distance=2.0,
            lipschitz=0.5,
        ),
        BoundTerms(
            distilled_loss=left[1],
            loss=2.0,
            gradient=1.0,
            curvature=0.75,
            distance=1.0,
            lipschitz=3.0,
        ),
    ]
    assert bound_metrics(terms)["bound/holds"] == share


@pytest.mark.parametrize(("norm", "factor"), [("Linf", math.sqrt(DIMENSION)), ("L2", 1.0)])
def test_the_radius_holds_the_threat_model_s_ball(
    norm: str, factor: float, radii: list[float], trial: SimpleNamespace, tmp_path: Path
) -> None:
    config = trial.config.override({"evaluation.norm": norm})
    with few():
        look_around(landscapes(config)["student"], trial.store, tmp_path)
    assert radii == [pytest.approx(config.evaluation.eps * factor)]


def test_a_hundred_samples_have_ten_eigenvalues_each(
    radii: list[float], trial: SimpleNamespace, tmp_path: Path
) -> None:
    summary = look_around(landscapes(trial.config)["student"], trial.store, tmp_path)
    assert (SAMPLES, EIGENVALUES) == (100, 10)
    assert load_file(tmp_path / FILE)["eigenvalues"].shape == (SAMPLES, EIGENVALUES)
    assert summary["samples"] == SAMPLES


def test_without_a_distilled_set_there_is_no_bound(trial: SimpleNamespace) -> None:
    config = trial.config.override({"method": "whole"})
    runner = local_runner(trial.store)
    runner(TrialStages.of(config).student)
    with few():
        (made,) = runner(landscapes(config)["student"])
    assert not any(name.startswith("bound/") for name in metrics(made))
    assert "largest_eigenvalue" in metrics(made)


def test_every_term_of_the_bound_is_told(around: dict[str, Artifact]) -> None:
    told = {name for name in metrics(around["student"]) if name.startswith("bound/")}
    assert told == {f"bound/{name}" for name in (*TERMS, "holds")}


def test_looking_twice_gives_the_same_bytes(
    around: dict[str, Artifact], trial: SimpleNamespace, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    with few():
        summary = look_around(landscapes(trial.config)["student"], trial.store, tmp_path)
    assert summary == around["student"].summary
    assert (tmp_path / FILE).read_bytes() == (around["student"].path / FILE).read_bytes()

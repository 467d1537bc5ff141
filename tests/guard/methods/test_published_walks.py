"""What MTT and TESLA publish by data set and IPC, and how a trial comes by it."""

from __future__ import annotations

from typing import Any

import pytest

from guard.errors import ConfigError
from guard.methods.mtt import MAT, MTT, TESLA
from guard.methods.mtt.published import MTT_WALKS, TESLA_WALKS
from guard.trial import TrialConfig
from guard.trial_stages import plan

FEW = {"experts": {"count": 1}, "model": {"name": "convnet", "width": 4}}


def trial(ipc: int, **section: Any) -> TrialConfig:
    return TrialConfig().override({"method": "mtt", "ipc": ipc, "mtt": {**FEW, **section}})


def whitened(config: TrialConfig) -> bool:
    inputs = {
        config.distilled_model.input,
        config.student_model.input,
        *(stage.config["model"]["input"] for stage in plan(config) if "model" in stage.config),
    }
    assert len(inputs) == 1
    return inputs == {"zca"}


@pytest.mark.parametrize(
    ("data", "ipc"), [(data, ipc) for data, walks in MTT_WALKS.items() for ipc in walks]
)
def test_a_data_set_has_its_own_settings_at_each_ipc(data: str, ipc: int) -> None:
    config, named = trial(ipc, **MTT.as_published(data)), trial(ipc, **MTT.NAMED[f"{data}-{ipc}"])
    assert [stage.address for stage in plan(config)] == [stage.address for stage in plan(named)]
    assert whitened(config) is MTT_WALKS[data][ipc].zca


def test_whitening_is_that_of_the_published_rows() -> None:
    """CIFAR-10 with ZCA at 1 and 10, CIFAR-100 at 1 and 50, nothing else."""
    rows = {(data, ipc) for data, walks in MTT_WALKS.items() for ipc in walks if walks[ipc].zca}
    assert rows == {("cifar10", 1), ("cifar10", 10), ("cifar100", 1), ("cifar100", 50)}


@pytest.mark.parametrize(("ipc", "listed"), [(1, 1), (5, 1), (10, 10), (49, 10), (500, 50)])
def test_an_ipc_between_has_the_settings_of_the_next_smaller_one(ipc: int, listed: int) -> None:
    assert MTT(**MTT.as_published("cifar10")).walk(ipc) == MTT_WALKS["cifar10"][listed]


def test_tesla_below_its_only_ipc_has_that_one() -> None:
    assert TESLA(**TESLA.as_published("cifar100")).walk(1) == TESLA_WALKS["cifar100"][50]


def test_what_is_set_counts_before_what_is_published() -> None:
    own = {"student_steps": 30, "batch_size": 7, "zca": False, "lr_rate": 0.0}
    walk = MTT(**{**MTT.as_published("cifar10"), **own}).walk(1)
    assert {name: getattr(walk, name) for name in own} == own
    assert (walk.max_start, walk.lr_images, walk.rate) == (2, 100.0, 0.01)


def test_settings_of_one_trial_do_not_follow_the_ipc() -> None:
    assert MTT().walk(1) == MTT().walk(50)
    assert not MTT().walk(1).zca


def test_tesla_has_hard_labels_on_cifar_and_the_released_gradient() -> None:
    for name in TESLA.NAMED:
        section = TESLA.named(name)
        assert section.soft_labels is name.startswith("imagenet")
        assert section.published_half and section.gradient == "tesla"
        assert section.iterations == 10_000
    cifar = TESLA.named("cifar10-1")
    assert (cifar.student_steps, cifar.max_start, cifar.lr_images, cifar.lr_rate) == (
        50,
        5,
        1e3,
        1e-7,
    )


def test_mat_walks_as_mtt() -> None:
    assert MAT(**MAT.as_published("cifar10")).walk(10) == MTT_WALKS["cifar10"][10]


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"rate": None}, "^mtt.rate: null stands for what `published` says, which is empty"),
        ({"zca": None}, "^mtt.zca: null stands for"),
        ({"published": "imagenet"}, "^mtt.published: there is cifar10, .*; got 'imagenet'"),
        (
            {**MTT.as_published("cifar10"), "experts": {"train": {"epochs": 40}}},
            "^mtt.experts.train.epochs: a trajectory of 2 epochs that starts at epoch 39 needs",
        ),
    ],
)
def test_what_is_not_published_is_refused(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        TrialConfig().override({f"mtt.{name}": value for name, value in section.items()})

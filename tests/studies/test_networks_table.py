from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from builders import configured
from guard.config import ModelConfig
from studies.compare import across_networks, network


def arm(clean: float, **fields: Any) -> SimpleNamespace:
    own = SimpleNamespace(mean=clean, num_distillations=1)
    config = configured({"regularizer": "none", **fields})
    return SimpleNamespace(arm=SimpleNamespace(config=config), clean=own, robust=own)


def found(*arms: SimpleNamespace) -> Any:
    return across_networks(SimpleNamespace(comparisons=arms))  # type: ignore[arg-type]


def test_methods_stand_by_their_students_networks() -> None:
    net = "student.model.name"
    (table,) = found(
        arm(0.9, **{net: "bn-convnet"}),
        arm(0.7, **{net: "torchvision:mobilenet_v2"}),
        arm(0.8, method="dc", **{net: "bn-convnet"}),
        arm(0.99, method="whole"),
    )
    assert table.columns == ["configuration", "bn-convnet (4 x 32)", "mobilenet_v2"]
    assert table.rows == [
        ["sre2l, IPC 10, none", "90.0, 90.0", "70.0, 70.0"],
        ["dc, IPC 10, none", "80.0, 80.0", ""],
    ]


def test_networks_that_read_the_same_are_told_apart() -> None:
    norms = [{"student.model": {"name": "convnet", "norm": n}} for n in ("instance", "batch")]
    (table,) = found(*(arm(0.1 * n, **own) for n, own in enumerate(norms)))
    named = [f"convnet (4 x 32), norm = {own}" for own in ("instance", "batch")]
    assert table.columns[1:] == named and table.rows[0][1:] == ["0.0, 0.0", "10.0, 10.0"]


def test_rows_say_what_else_they_differ_in() -> None:
    nets = ("bn-convnet", "resnet18")
    every = [(net, epochs) for net in nets for epochs in (10, 20)]
    (table,) = found(
        *(arm(0.5, **{"student.model.name": n, "student.train.epochs": e}) for n, e in every)
    )
    titles = [f"sre2l, IPC 10, none, student.train.epochs = {e}" for e in (10, 20)]
    assert [row[0] for row in table.rows] == titles
    assert all(row[1:] == ["50.0, 50.0"] * 2 for row in table.rows)


def test_one_network_is_no_table() -> None:
    assert found(arm(0.9), arm(0.8, method="dc")) == []


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (ModelConfig(name="convnet", depth=3, width=128), "convnet (3 x 128)"),
        (ModelConfig(name="resnet18"), "resnet18"),
        (ModelConfig(name="torchvision:resnet50"), "resnet50"),
    ],
)
def test_a_network_in_words(model: ModelConfig, text: str) -> None:
    assert network(model) == text

from __future__ import annotations

from typing import Any

import pytest

from builders import configured, record
from tune.results.cautions import after, before
from tune.results.records import Record

RESNET = {"model": {"name": "resnet18"}}


def test_an_ordinary_study_gets_no_word() -> None:
    configs = [configured({"method": name}) for name in ("sre2l", "cda", "dc", "mtt")]
    assert before(configs) == []
    assert after([record(n, config=config) for n, config in enumerate(configs)]) == []


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_gradient_matching_on_a_resnet_gets_a_word(method: str) -> None:
    (line,) = before(3 * [configured({"method": method, **RESNET})])
    assert line.startswith(f"{method} on resnet18: ")
    convnet = {f"{method}.model": {"name": "convnet"}}
    assert before([configured({"method": method, **RESNET, **convnet})]) == []
    assert before([configured({"method": "sre2l", **RESNET})]) == []


def test_a_weight_that_networks_share_gets_a_word() -> None:
    both = [configured({"method": "cda"}), configured({"method": "cda", **RESNET})]
    (line,) = before(both)
    assert line.startswith("cda.bn_weight = 0.01 is shared by bn-convnet of depth 4 and resnet18: ")
    apart = [both[0], both[1].override({"cda.bn_weight": 1})]
    other_method = [both[0], both[1].override({"method": "sre2l"})]
    wider = [both[0], both[0].override({"model.width": 64})]
    assert before(apart) == before(other_method) == before(wider) == []


def test_so_does_one_that_a_committees_networks_share_in_sums_over_layers() -> None:
    config = configured({"method": "sre2l", "sre2l.committee.networks": ["own", "resnet18"]})
    (line,) = before([config])
    assert line.startswith(
        "sre2l.bn_weight = 0.01 is shared by bn-convnet of depth 4 and resnet18: "
    )
    for weighed in ({"sre2l.bn_scale": "mean"}, {"sre2l.committee.networks": ["resnet18"]}):
        assert before([config.override(weighed)]) == []


def recovered(trial: int, loss: float, **fields: Any) -> Record:
    config = configured({"method": "sre2l", **fields})
    metrics = {**record().metrics, "distilled/bn_loss": loss}
    return record(trial, config=config, metrics=metrics)


def test_batchnorm_losses_a_hundred_times_apart_get_a_word() -> None:
    small, large = recovered(0, 3.0), recovered(1, 320.0, **RESNET)
    (line,) = after([small, large])
    assert line.startswith("the BatchNorm loss of resnet18 is 107 times that of bn-convnet of dep")
    assert after([small, recovered(1, 290.0, **RESNET)]) == []
    assert after([small, recovered(1, 320.0, **RESNET, **{"sre2l.bn_weight": 1})]) == []
    assert after([small, recovered(1, 320.0)]) == []
    assert after([record(0, status="diverged"), large]) == []

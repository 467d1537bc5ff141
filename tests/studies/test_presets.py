from __future__ import annotations

import pytest

from guard.config.schema import paths
from guard.trial import TrialConfig
from studies.presets import PRESETS
from tune.space import SearchSpace

DATA_SETS = (
    "digits",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "imagenette",
    "tiny-imagenet",
    "imagenet",
)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_a_valid_space_that_holds_its_own_config(name: str) -> None:
    preset = PRESETS[name]()
    space = SearchSpace(preset.config, preset.space)
    assert len(space.defaults()) == len(space.controls()) >= 2
    assert preset.num_trials > len(space.defaults()) + len(space.controls())
    assert TrialConfig.from_json(preset.config.to_json()) == preset.config
    assert set(preset.space) <= set(paths(TrialConfig))


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_has_a_preset_of_its_name(name: str) -> None:
    assert PRESETS[name]().config.data.name == name


def test_the_papers_numbers_are_where_they_belong() -> None:
    cifar, nette, tiny = (
        PRESETS[name]().config for name in ("cifar10", "imagenette", "tiny-imagenet")
    )
    assert (cifar.squeeze.epochs, cifar.squeeze.lr, cifar.squeeze.batch_size) == (200, 0.1, 128)
    assert (cifar.sre2l.iterations, cifar.sre2l.lr, cifar.sre2l.jitter) == (1000, 0.25, 4)
    assert (cifar.student.train.epochs, cifar.student.temperature) == (400, 30)
    assert (nette.squeeze.lr, nette.squeeze.batch_size, nette.sre2l.jitter) == (0.025, 32, 32)
    assert (nette.student.train.epochs, nette.student.temperature) == (300, 20)
    assert (tiny.sre2l.iterations, tiny.sre2l.lr, tiny.sre2l.bn_weight) == (4000, 0.1, 1.0)
    assert tiny.student.scale_by_t2 and tiny.student.mix == "none"
    assert all(c.evaluation.eps == 1 / 255 for c in (cifar, nette, tiny))

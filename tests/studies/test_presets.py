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


@pytest.mark.parametrize(
    ("name", "ipc", "zca", "steps", "latest", "lr_images"),
    [
        ("cifar10", 1, True, 50, 2, 1e2),
        ("cifar10", 10, True, 30, 20, 1e2),
        ("cifar10", 50, False, 30, 40, 1e3),
        ("cifar100", 1, True, 20, 20, 1e3),
        ("cifar100", 50, True, 80, 40, 1e3),
        ("tiny-imagenet", 10, False, 20, 40, 1e4),
        ("imagenette-128", 10, False, 20, 10, 1e5),
    ],
)
def test_mtt_has_its_own_settings_at_each_ipc(
    name: str, ipc: int, zca: bool, steps: int, latest: int, lr_images: float
) -> None:
    config = PRESETS[name]().config.override({"method": "mtt", "ipc": ipc})
    walk = config.mtt.walk(ipc)
    assert (walk.student_steps, walk.max_start, walk.lr_images) == (steps, latest, lr_images)
    assert (config.distilled_model.input == "zca") is (config.student_model.input == "zca") is zca
    assert config.distilled_model.width == 128


def test_tesla_has_its_own_settings() -> None:
    for name, ipc in (("cifar10", 1), ("cifar100", 50)):
        tesla = PRESETS[name]().config.tesla
        assert (tesla.soft_labels, tesla.published_half) == (False, True)
        assert tesla.walk(ipc).lr_images == 1e3
    assert PRESETS["imagenet"]().config.tesla.soft_labels


def test_the_papers_photos_are_tested_in_the_middle_of_256_pixels() -> None:
    for name in ("imagenette", "imagenet"):
        assert 224 / PRESETS[name]().config.data.center_crop == 256
    for name in ("tiny-imagenet", "imagenette-small", "imagenette-128"):
        assert PRESETS[name]().config.data.center_crop == 1
    small = PRESETS["imagenette-128"]().config
    assert (small.data.image_size, small.mtt.network_of(small.shared).depth) == (128, 5)


def test_students_of_28_px_take_hundreds_of_steps_at_every_ipc() -> None:
    """With one step an epoch they stay near chance."""
    train = PRESETS["fashion-mnist"]().config.student.train
    assert all(-(-10 * ipc // train.batch_size) * train.epochs >= 600 for ipc in (1, 5, 10))


def test_what_is_decayed() -> None:
    decayed = {name for name, make in PRESETS.items() if make().config.student.train.decay_all}
    assert decayed == {"cifar10", "cifar100"}

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from guard.errors import ConfigError, StudyError, UserError
from guard.trial import TrialConfig
from studies.driver.checks import checked, checked_space, parse_resources
from studies.driver.place import placed
from studies.driver.settings import parse_settings, search_space
from studies.presets import PRESETS
from tune.resources import Resources
from tune.space import SearchSpace


def space(settings: list[str]) -> SearchSpace:
    return search_space(PRESETS["digits"](), parse_settings(settings), None)


def test_resources_have_a_default_by_device_and_exceptions_by_stage() -> None:
    config = TrialConfig().override({"compute.num_threads": 4})
    parsed = parse_resources(["squeeze=8,0.5", "recover=2"], config)
    assert parsed.of("evaluate") == Resources(4, 0)
    assert parsed.of("squeeze") == Resources(8, 0.5)
    assert parsed.of("recover") == Resources(2, 0)
    assert parse_resources(["all=1,0.25"], config).of("student") == Resources(1, 0.25)
    on_gpu = config.override({"compute.device": "cuda"})
    assert parse_resources([], on_gpu).of("squeeze") == Resources(4, 1)


def test_stages_share_gpus_but_those_that_are_named() -> None:
    parsed = parse_resources(["auto", "recover=2,1"], ON_GPU)
    assert parsed.packs and list(parsed.named) == ["recover"]
    assert parsed.of("squeeze") == Resources(2, 1) and parsed.smallest_gpus == 0.05
    assert not parse_resources([], ON_GPU).packs
    in_four = parse_resources(["auto"], IN_FOUR)
    assert in_four.packs and in_four.of("squeeze") == Resources(8, 4) and "squeeze" in in_four.named
    assert parse_resources(["auto"], TrialConfig()).smallest_gpus == 0
    with pytest.raises(StudyError, match=r"--resources: auto and all=… exclude each other"):
        parse_resources(["auto", "all=1,0.5"], ON_GPU)


ON_GPU = TrialConfig().override({"compute.device": "cuda", "compute.num_threads": 2})
IN_FOUR = ON_GPU.override({"squeeze.processes": 4})


def test_a_squeeze_of_several_processes_holds_what_each_takes() -> None:
    """At its looks too."""
    for stage in ("squeeze", "early-squeeze"):
        assert parse_resources([], IN_FOUR).of(stage) == Resources(8, 4)
        assert parse_resources(["squeeze=16,4"], IN_FOUR).of(stage) == Resources(16, 4)
        on_cpus = IN_FOUR.override({"compute.device": "cpu"})
        assert parse_resources([], on_cpus).of(stage) == Resources(8, 0)
    assert parse_resources([], IN_FOUR).of("recover") == Resources(2, 1)


@pytest.mark.parametrize("text", ["squeeze=8,2", "squeeze=8,0.5", "all=8,1"])
def test_processes_want_a_gpu_each(text: str) -> None:
    with pytest.raises(StudyError, match=r"--resources: squeeze.processes = 4 want a GPU each"):
        parse_resources([text], IN_FOUR)


def asked(config: TrialConfig, *resources: str) -> TrialConfig:
    """The config of a study on a machine with GPUs."""
    request = SimpleNamespace(device=config.compute.device, address=None, resources=resources)
    return placed(config, request, ["ipc"])  # type: ignore[arg-type]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.device.is_here", lambda device: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("resources", "processes"),
    [((), 1), (("squeeze=8,4",), 4), (("squeeze=8,1",), 1), (("all=1,0.5",), 1)],
)
def test_a_squeeze_has_a_process_for_each_of_its_gpus(
    resources: tuple[str, ...], processes: int
) -> None:
    assert asked(ON_GPU, *resources).squeeze.processes == processes
    on_cpus = ON_GPU.override({"compute.device": "cpu"})
    assert asked(on_cpus, *resources).squeeze.processes == 1


@pytest.mark.usefixtures("gpus")
def test_processes_without_a_gpu_each_are_refused_before_anything_starts() -> None:
    assert asked(IN_FOUR) == IN_FOUR
    with pytest.raises(ConfigError, match=r"^squeeze.processes: 5 processes want a GPU each"):
        asked(IN_FOUR.override({"squeeze.processes": 5}))


def test_the_number_of_processes_is_that_of_the_whole_study() -> None:
    request = SimpleNamespace(device="cpu", address=None, resources=())
    with pytest.raises(ConfigError, match=r"^squeeze.processes: is the same in all trials"):
        placed(TrialConfig(), request, ["squeeze.processes"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("recover=8,2", "squeeze and early-squeeze alone take several GPUs; got 'recover=8,2'"),
        ("all=8,2", "squeeze and early-squeeze alone take several GPUs"),
        ("all=1,0.5,2", r"must be STAGE=CPUS\[,GPUS\] or auto, got 'all=1,0.5,2'"),
        ("all=1,", "must be STAGE=CPUS"),
        ("all=", "must be STAGE=CPUS"),
        ("all", "must be STAGE=CPUS"),
        ("all=two", "must be STAGE=CPUS"),
        ("all=0", "CPUs above 0"),
        ("all=inf", "CPUs above 0"),
        ("all=nan", "CPUs above 0"),
        ("all=1,1.5", "GPUs a fraction or a whole number"),
        ("all=1,inf", "GPUs a fraction or a whole number"),
        ("sqeeze=1", "no stage is named 'sqeeze'; there are: all, "),
        ("atuo", "no stage is named 'atuo'; there are: all, .*; or auto"),
    ],
)
def test_resources_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--resources: .*{reason}"):
        parse_resources([text], TrialConfig())


def test_the_content_of_the_data_becomes_part_of_the_config() -> None:
    checked = checked_space(space([]))
    assert len(checked.base.data.sha256) == 64


def test_more_images_per_class_than_there_are_is_refused_where_real_ones_are_used() -> None:
    checked_space(space(["ipc=choice(1, 500)"]))
    checked_space(space(["ipc=choice(1, 500)", "method=dc"]))
    for settings in (["method=dsa"], ["method=mtt"], ["method=choice(sre2l, random)"]):
        made = space([*settings, "ipc=choice(1, 500)"])
        with pytest.raises(UserError, match=r"ipc: \w+ starts from real images and the smallest"):
            checked_space(made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=rded", "rded.tiles=3"], r"^rded\.tiles: must divide images of 8 px, got 3"),
        (["method=idm", "idm.partition=3"], r"^idm\.partition: must divide images of 8 px, got 3"),
        (
            ["method=rded", "rded.tiles=4", "ipc=10"],
            r"^ipc: rded\.tiles = 4 takes a crop of each of 160 images of a class, and the",
        ),
        (
            ["sre2l.patches.tiles=5"],
            r"^sre2l\.patches\.tiles: must divide images of 8 px, got 5",
        ),
    ],
)
def test_images_that_do_not_suffice_are_refused_before_a_teacher_is_trained(
    settings: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        checked_space(space(["ipc=1", *settings]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.width=100000000"], r"^model\.width: 100000000 needs .* GiB, and this machine has"),
        (["model.width=1e15"], r"^model\.width = 1000000000000000 makes weights that fit in no"),
        (["method=dsa", "dsa.model.width=100000000"], r"^dsa\.model\.width: 100000000 needs "),
        (['student.model={"width": 100000000}'], r"^student\.model\.width: 100000000 needs "),
        (["ipc=1000000000"], r"^ipc: must be at least 1 and at most 100000, got 1000000000"),
        (["sre2l.chunk=1000000000"], r"^sre2l\.chunk: 1000000000 needs .* GiB"),
        (["model.depth=1000000"], r"^model\.depth: must be at least 1 and at most 1000, got"),
    ],
)
def test_what_fits_in_no_memory_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_space(space(settings))


@pytest.mark.parametrize(
    ("batch", "ipc", "fits"), [(9, 1, False), (1, 1, False), (10, 1, True), (9, 2, True)]
)
def test_an_image_alone_in_a_batch_that_no_batchnorm_takes_is_refused(
    batch: int, ipc: int, fits: bool
) -> None:
    """A ResNet-18 sees 8 px in one place in the end, a network of 4 layers in more."""
    lone = [f"ipc={ipc}", f"student.train.batch_size={batch}"]
    checked_space(space(lone))
    with contextlib.ExitStack() as refused:
        if not fits:
            rule = rf"^student\.train\.batch_size: must not leave one of {10 * ipc} images alone"
            refused.enter_context(pytest.raises(UserError, match=rule))
        checked_space(space([*lone, "model.name=resnet18"]))


def test_perturbations_that_fit_in_no_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.device.memory_bytes", lambda: 4 * 1150 * 65 - 1)
    made = space(["regularizer=pgd-at", "regularizer.ascent=ls-pgd", "model.width=1", "ipc=1"])
    with pytest.raises(UserError, match=r"^regularizer\.ascent: ls-pgd needs .* GiB, and this"):
        checked_space(made)
    plain = made.base.override({"regularizer.ascent": "pgd"})
    with pytest.raises(UserError, match=r"^regularizer\.ascent: ls-pgd needs .* GiB, and this"):
        checked(plain, [plain, made.base])


def test_a_set_need_not_fit_in_memory_where_it_is_made_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guard.device.memory_bytes", lambda: 4 * 60_000)
    base = PRESETS["digits"]().config.override({"ipc": 100, "model.width": 4})
    large = base.override({"evaluation.batch_size": 50, "sre2l.chunk": 5})
    checked(large, [large])
    with pytest.raises(UserError, match=r"^ipc: 100 needs .* GiB, and this machine has"):
        checked(large, [large.override({"method": "dm", "regularizer": "none"})])


def test_images_too_large_to_be_evaluated_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.device.memory_bytes", lambda: 4 * 700 * 359)
    with pytest.raises(UserError, match=r"^evaluation\.batch_size: 359 of 8 px needs "):
        checked_space(space(["ipc=1", "model.width=4"]))


def test_a_set_without_anything_to_see_is_refused(tmp_path: Path) -> None:
    x, y = np.zeros((12, 6, 6), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    made = search_space(PRESETS["digits"](), {}, str(tmp_path / "x.npz"))
    with pytest.raises(UserError, match="x_train: all of 12 images have one colour all over"):
        checked_space(made)

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guard.errors import StudyError, UserError
from studies import gallery, overhead, sensitivity, sweep, trial
from studies.driver import trials_job
from studies.driver.flags import RETIRED, parsed
from studies.driver.options import MEANING, SECTIONS, Options


def write_images(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data sets that cannot be used, by name."""
    root = tmp_path / "data"
    (root / "empty").mkdir(parents=True)
    for split in ("train", "val"):
        write_images(root / "one-class" / split / "a")
        for name in ("a", "b"):
            write_images(root / "corrupt" / split / name)
    (root / "corrupt" / "train" / "b" / "9.png").write_bytes(b"no image")
    (root / "text.npz").write_text("no arrays")
    return root


BAD = [
    (["--preset", "nope"], "--preset: no preset is named 'nope'; there are: digits"),
    (["--set", "regularizer.hh=1"], "regularizer.hh: no such field (did you mean 'h'?)"),
    (["--set", "method=dd"], "method: must be one of sre2l, cda, dc, dsa, mtt, tesla, mat,"),
    (["--set", "evaluation.attacks=pgd20,x"], "evaluation.attacks[1]: no attack is named 'x'"),
    (["--set", "evaluation.splits=test"], "evaluation.splits: a search selects on validation"),
    (["--set", "regularizer.weight=-1"], "regularizer.weight: must be at least 0, got -1"),
    (["--set", "regularizer.h=0"], "regularizer.h: must be greater than 0, got 0"),
    (["--set", "regularizer.h=uniform(-1, 1)"], "regularizer.h: must be greater than 0, got -1"),
    (["--set", "regularizer.q=uniform(0, 1)"], "regularizer.q: no such field"),
    (["--set", "ipc=0"], "ipc: must be at least 1 and at most 100000, got 0"),
    (["--set", "ipc=choice(0, 1)"], "ipc: must be at least 1 and at most 100000, got 0"),
    (["--set", "model.name=convnet"], "model.norm: sre2l matches BatchNorm statistics"),
    (["--set", "regularizer=foo"], "regularizer: no setting is named 'foo'; there are: none"),
    (["--set", "nonsense"], "--set: must be PATH=VALUE, got 'nonsense'"),
    (["--data", "{data}/missing"], "data.path: {data}/missing does not exist"),
    (
        ["--set", "data.name=folder", "--data", "{data}/empty"],
        "an .npz file or a folder with train/",
    ),
    (["--set", "data.name=folder", "--data", "{data}/one-class"], "has one class"),
    (["--set", "data.name=folder", "--data", "{data}/corrupt"], "train/b/9.png: not a readable"),
    (["--set", "data.name=npz", "--data", "{data}/text.npz"], "text.npz: not an .npz file"),
    (["--name", "../evil"], "--name: must be letters, digits"),
    (["--output", "ftp://host/x"], "--output: must be a path in a file system; ftp:// is not"),
    (["--set", "search.seed=1e30"], "search.seed: must be a whole number of at most 63 bits"),
    (["--set", "seed=1e300"], "seed: must be a whole number of at most 63 bits, got 1e+300"),
    (["--set", "confirm.seeds=1e9"], "confirm.seeds: must be at least 0 and at most 1000, got 1"),
    (["--set", f"ipc={'9' * 5000}"], "ipc: must be a whole number, got '9999"),
    (["--set", f"ipc={'[' * 5000}"], "ipc: must be a whole number, got '[[[["),
    (["--set", "regularizer.h=NaN"], "regularizer.h: must be a finite number, got 'NaN'"),
    (["--name", "artifacts"], "--name: must be letters, digits"),
    (["--output", "{data}/text.npz"], "--output: cannot write in {data}/text.npz/digits"),
    (["--address", "127.0.0.1:1"], "--address: no Ray answers at 127.0.0.1:1"),
    (["--address", "ray://x:1"], "--address: must be host:port"),
    (["--tracking-uri", "http://127.0.0.1:1"], "http://127.0.0.1:1 does not answer"),
    (["--tracking-uri", "mlruns"], "--tracking-uri: must be sqlite"),
    (["--device", "tpu"], "--device: no device 'tpu' on this machine; there are:"),
    (["--num-trials", "0"], "--num-trials: must be at least 1, got 0"),
    (["--set", "search.max_clean_drop=3"], "search.max_clean_drop: must be at least 0 and at"),
    (["--set", "search.seed=-1"], "search.seed: must be at least 0 and at most 4294967295, got -1"),
    (["--set", "search.seed=choice(1, 2)"], "search.seed: takes a plain value"),
    (["--set", "confirm.seeds=-1"], "confirm.seeds: must be at least 0 and at most 1000, got -1"),
    (["--set", "confirm.configurations=0"], "confirm.configurations: must be at least 1, got 0"),
    (["--set", "confirm.attacks=pgd3,x"], "confirm.attacks[1]: no attack is named 'x'"),
    (["--set", "confirm=3"], "confirm: is set field by field; there are: confirm.seeds"),
    (["--set", "run.concurrent=-1"], "run.concurrent: must be at least 0 and at most 10000, got"),
    (["--set", "run.verbose=1"], "run.verbose: must be true or false, got 1"),
    (["--resources", "squeeze=9999"], "--resources: a stage wants 9999 CPUs"),
    (["--resources", "squeese=1"], "--resources: no stage is named 'squeese'; there are: all"),
    (["--resources", "all=1,1.5"], "GPUs a fraction or a whole number"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_line_and_starts_nothing(
    flags: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    output = tmp_path / "out"
    flags = [flag.format(data=data) for flag in flags]
    with pytest.raises(UserError) as caught:
        sweep.main(["--output", str(output), *flags])
    assert message.format(data=data) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize("module", ["studies.sweep", "studies.trial"])
def test_a_command_exits_with_2_and_one_line(module: str) -> None:
    bad = ["--preset", "nope"] if module == "studies.sweep" else ["/no/such.json"]
    done = subprocess.run([sys.executable, "-m", module, *bad], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "it is no JSON"), ('{"ipx": 1}', "ipx: no such field"), ('{"ipc": 0}', "ipc: must be")],
)
def test_a_bad_config_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"config\.json: .*{message}|config\.json: {message}"):
        trial.main([str(path), "--output", str(tmp_path)])


def test_a_dry_run_says_space_stages_and_work_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    assert sweep.main(["--dry-run", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "regularizer.weight ~ loguniform(0.001, 100)" in text
    assert "squeeze.epochs = 20" in text
    assert "search.max_clean_drop = 0.03" in text and "confirm.seeds = 3" in text
    assert 'confirm.attacks = ["pgd20", "margin20", ' in text and "run.concurrent = 0" in text
    assert 'baselines, first: {"method": "sre2l", "ipc": 1}' in text
    assert "squeeze    " in text and "image passes" in text
    assert not (tmp_path / "out").exists()


MAIN = {"preset", "data", "set", "device", "output", "name", "num-trials", "sampler"}
MAIN |= {"address", "resources", "tracking-uri", "dry-run", "from"}


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Without --help, and without its dashes."""
    every = {option for action in parser._actions for option in action.option_strings}
    return {option.removeprefix("--") for option in every} - {"-h", "help"}


def test_the_main_command_has_thirteen_flags() -> None:
    assert flags_of(sweep.parser()) == MAIN and len(MAIN) == 13


def test_a_study_of_known_trials_has_seeds_and_no_search() -> None:
    known = MAIN - {"num-trials", "sampler", "from"} | {"seeds"}
    assert flags_of(trials_job.parser(gallery.STUDY)) == known


@pytest.mark.parametrize("spelling", ["{flag}", "{flag}=2", "{flag} 2"])
@pytest.mark.parametrize(("flag", "setting"), RETIRED.items())
def test_an_old_flag_is_one_line_that_says_the_new_one(
    flag: str, setting: str, spelling: str
) -> None:
    argv = spelling.format(flag=flag).split()
    with pytest.raises(StudyError) as caught:
        sweep.main(["--name", "x", *argv])
    assert str(caught.value) == f"{flag} is now --set {setting}"
    assert setting.partition("=")[0] in Options().listed(SECTIONS)


def test_an_old_flag_exits_with_2() -> None:
    old = [sys.executable, "-m", "studies.sweep", "--sampler-seed=3"]
    done = subprocess.run(old, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --sampler-seed is now --set search.seed=SEED\n"


def test_a_command_says_only_of_its_own_old_flags_what_they_are_now(
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = trials_job.parser(gallery.STUDY)
    with pytest.raises(StudyError, match="--verbose is now --set run"):
        parsed(study, ["--verbose"])
    for parser, flag in ((study, "--sampler-seed"), (overhead.parser(), "--verbose")):
        with pytest.raises(SystemExit) as ended:
            parsed(parser, [flag, "3"])
        assert ended.value.code == 2
        assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_help_names_what_a_command_is_set_beside_its_trials() -> None:
    assert MEANING.keys() == Options().listed(SECTIONS).keys()
    words = " ".join(sweep.parser().format_help().split())
    assert all(f"{path} ({meaning})" in words for path, meaning in MEANING.items())
    known = trials_job.parser(gallery.STUDY).format_help()
    assert "run.concurrent" in known and "confirm." not in known and "search." not in known
    assert not any(path in sensitivity.parser().format_help() for path in MEANING)

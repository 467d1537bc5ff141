from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.errors import UserError
from guard.trial import TrialConfig
from studies import sweep, trial
from studies.driver import flags as cli
from studies.presets import PRESETS
from tune.resources import Resources
from tune.space import configured


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
    (["--set", "regularizer.weight=-1"], "regularizer.weight: must be at least 0, got -1"),
    (["--set", "regularizer.h=0"], "regularizer.h: must be greater than 0, got 0"),
    (["--set", "regularizer.h=uniform(-1, 1)"], "regularizer.h: must be greater than 0, got -1"),
    (["--set", "regularizer.q=uniform(0, 1)"], "regularizer.q: no such field"),
    (["--set", "ipc=0"], "ipc: must be at least 1, got 0"),
    (["--set", "ipc=choice(0, 1)"], "ipc: must be at least 1, got 0"),
    (["--set", "model.name=convnet"], "model.norm: sre2l matches BatchNorm statistics"),
    (["--set", "regularizer=foo"], "regularizer: no setting is named 'foo'; there are: none"),
    (["--set", "nonsense"], "--set: must be PATH=VALUE, got 'nonsense'"),
    (["--data", "{data}/missing"], "data.path: {data}/missing does not exist"),
    (["--set", "data.name=folder", "--data", "{data}/empty"], "needs a folder with train/"),
    (["--set", "data.name=folder", "--data", "{data}/one-class"], "has one class"),
    (["--set", "data.name=folder", "--data", "{data}/corrupt"], "train/b/9.png: not a readable"),
    (["--set", "data.name=npz", "--data", "{data}/text.npz"], "text.npz: not an .npz file"),
    (["--name", "../evil"], "--name: must be letters, digits"),
    (["--name", "artifacts"], "--name: must be letters, digits"),
    (["--output", "{data}/text.npz"], "--output: cannot write in {data}/text.npz/digits"),
    (["--address", "127.0.0.1:1"], "--address: no Ray answers at 127.0.0.1:1"),
    (["--address", "ray://x:1"], "--address: must be host:port"),
    (["--tracking-uri", "http://127.0.0.1:1"], "http://127.0.0.1:1 does not answer"),
    (["--tracking-uri", "mlruns"], "--tracking-uri: must be sqlite"),
    (["--device", "tpu"], "--device: no device 'tpu' on this machine; there are:"),
    (["--num-trials", "0"], "--num-trials: must be at least 1, got 0"),
    (["--max-clean-drop", "3"], "--max-clean-drop: must be in [0, 1], got 3"),
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
    [("{", "is not JSON"), ('{"ipx": 1}', "ipx: no such field"), ('{"ipc": 0}', "ipc: must be")],
)
def test_a_bad_config_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"config\.json: .*{message}|config\.json: {message}"):
        trial.main([str(path)])


def space(settings: list[str], data: str | None = None) -> Any:
    return cli.search_space(PRESETS["digits"](), cli.parse_settings(settings), data)


def test_a_field_fixed_inside_a_searched_section_holds_for_all_its_choices() -> None:
    made = space(["regularizer=choice(curvature, gradient-norm)", "regularizer.weight=0.7"])
    assert "regularizer.weight" in made.distributions
    configs = [configured(made.base, params) for params in made.grid(1)]
    assert {config.regularizer.kind for config in configs} == {"curvature", "gradient-norm"}
    assert {config.regularizer.weight for config in configs} == {0.7}


def test_a_fixed_value_leaves_the_space_and_a_distribution_joins_it() -> None:
    made = space(["regularizer.h=0.5", "sre2l.bn_weight=loguniform(0.01, 1)"])
    assert set(made.distributions) == {"method", "ipc", "regularizer.weight", "sre2l.bn_weight"}
    assert made.base.regularizer.h == 0.5


def test_a_named_penalty_fixes_all_of_it() -> None:
    made = space(["regularizer=cure"])
    assert set(made.distributions) == {"method", "ipc"}
    assert made.base.regularizer.weight == 4


def test_a_named_penalty_and_a_search_inside_it() -> None:
    made = space(["regularizer=cure", "regularizer.weight=loguniform(1, 8)"])
    assert set(made.distributions) == {"method", "ipc", "regularizer.weight"}


def test_text_with_commas_is_a_list_and_data_is_a_path() -> None:
    made = space(["evaluation.attacks=pgd5, mim"], data="/somewhere")
    assert made.base.evaluation.attacks == ("pgd5", "mim")
    assert made.base.data.path == "/somewhere"


def test_resources_have_a_default_by_device_and_exceptions_by_stage() -> None:
    config = TrialConfig().override({"compute.num_threads": 4})
    parsed = cli.parse_resources(["squeeze=8,0.5", "recover=2"], config)
    assert parsed.of("evaluate") == Resources(4, 0)
    assert parsed.of("squeeze") == Resources(8, 0.5)
    assert parsed.of("recover") == Resources(2, 0)
    assert cli.parse_resources(["all=1,0.25"], config).of("student") == Resources(1, 0.25)
    on_gpu = config.override({"compute.device": "cuda"})
    assert cli.parse_resources([], on_gpu).of("squeeze") == Resources(4, 1)


def test_the_content_of_the_data_becomes_part_of_the_config() -> None:
    checked = cli.checked_space(space([]))
    assert len(checked.base.data.sha256) == 64


def test_more_images_per_class_than_there_are_is_refused_where_real_ones_are_used() -> None:
    cli.checked_space(space(["ipc=choice(1, 500)"]))
    cli.checked_space(space(["ipc=choice(1, 500)", "method=dc"]))
    for settings in (["method=dsa"], ["method=mtt"], ["method=choice(sre2l, random)"]):
        made = space([*settings, "ipc=choice(1, 500)"])
        with pytest.raises(UserError, match=r"ipc: \w+ starts from real images and the smallest"):
            cli.checked_space(made)


def test_the_searched_methods_and_not_the_presets_own_decide_what_fits() -> None:
    made = space(["method=choice(dc, mtt)", "model.name=convnet"])
    assert made.base.method == "dc"
    assert space(["method=choice(random, dc)"]).base.method == "dc"
    with pytest.raises(UserError, match="cda matches BatchNorm"):
        space(["method=choice(cda)", "model.name=convnet"])


def test_a_dry_run_says_space_stages_and_work_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    assert sweep.main(["--dry-run", "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "regularizer.weight ~ loguniform(0.001, 100)" in text
    assert "squeeze.epochs = 20" in text
    assert 'baselines, first: {"method": "sre2l", "ipc": 1}' in text
    assert "squeeze    " in text and "image passes" in text
    assert not (tmp_path / "out").exists()

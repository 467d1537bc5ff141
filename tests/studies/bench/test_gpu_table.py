"""The one run for a GPU, tried on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from studies.bench import gpu

TABLE = ["--device", "cpu", "--scale", "tiny"]


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    """Ten classes of 32 px, each around a colour of its own."""
    draws, found = np.random.default_rng(0), {}
    colours = draws.uniform(40, 215, (10, 1, 1, 3))
    for part, count in (("train", 400), ("test", 60)):
        y = np.arange(count) % 10
        x = draws.normal(colours[y], 20, (count, 32, 32, 3))
        found |= {f"x_{part}": x.clip(0, 255).astype(np.uint8), f"y_{part}": y}
    np.savez(tmp_path / "ten.npz", **found)
    return str(tmp_path / "ten.npz")


@pytest.mark.slow
def test_the_table_is_whole(arrays: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiling takes half a minute."""
    assert gpu.main([arrays, *TABLE, "--seeds", "1"]) == 0
    heading, rule, *lines = capsys.readouterr().out.splitlines()
    assert heading == "| part | what | figure |" and rule == "|---|---|---|"
    rows = [line.split(" | ") for line in lines]
    assert {len(row) for row in rows} == {3}
    parts = [row[0].removeprefix("| ") for row in rows]
    assert {"machine", "tests", "cell: SRe2L", "DC's matching step, batch 8"} < set(parts)
    steps = [row[1] for row in rows if row[0].startswith("| step")]
    exact, fast = ([f"{name}: {mode}" for name in gpu.STEPS] for mode in ("exact", "fast"))
    compiled = ["plain: exact, compiled", "plain: fast, compiled"]
    assert steps == [*exact, "plain: exact", *fast, *compiled]
    walks = [row[1] for row in rows if row[0] == "| MTT's gradient"]
    assert walks == ["adjoint, 1 steps", "adjoint, 2 steps"]
    cell = [row[2] for row in rows if row[0] == "| cell: SRe2L"]
    assert len(cell) == 2
    assert all("standard at 1/255" in text and "pgd20 at 2/255" in text for text in cell)


def test_what_would_not_be_over_in_time_is_left_out(
    arrays: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here all parts but one arm of the cell."""
    monkeypatch.setattr(gpu, "ATTACKED", ({"evaluation.attacks": ["fgsm"]},))
    monkeypatch.setattr(gpu, "SECONDS", {**dict.fromkeys(gpu.SECONDS, 10**6), "none": 0})
    assert gpu.main([arrays, *TABLE, "--seeds", "2"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[5:]]
    left = [row[0].removeprefix("| ") for row in rows if row[1] == "left out"]
    assert left == [
        *("marked", "matching", "exact steps", "curvature"),
        *("fast steps", "compiled steps", "curvature"),
    ]
    cell = [row[1] for row in rows if row[0] == "| cell: SRe2L"]
    assert cell == ["none, seed 0", "none, seed 1"]


def test_dc_and_mtt_match_on_a_convnet() -> None:
    config = gpu.trial(None, "cpu", gpu.SCALES["full"])
    for own in (config.dc, config.mtt):
        assert own.model is not None and (own.model.name, own.model.width) == ("convnet", 128)
    assert config.model.name == "resnet18"


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--device", "cuda"], "no device 'cuda'"), (["no.npz", *TABLE], "no.npz")],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(argv) == 2
    assert message in capsys.readouterr().err


def test_the_library_alone_will_do() -> None:
    """Where Ray, MLflow, Optuna, matplotlib and rich are not installed."""
    missing = ("ray", "mlflow", "optuna", "matplotlib", "rich", "plotly", "pandas", "pytest")
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import studies.bench.gpu"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(gpu.__file__).parents[2])

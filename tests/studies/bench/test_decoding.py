"""The table of what decoding brings; how fast it is here is not asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from guard.errors import StudyError
from studies.bench import decoding
from studies.bench.decoding import HEIGHT, WIDTH, Timed, of_noise, powers
from studies.presets import PRESETS


def test_a_table_has_a_row_for_each_number_of_processes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    of_noise(tmp_path, 3)
    flags = ["--preset", "imagenette-small", "--images", "2", "--device", "cpu"]
    assert decoding.main([*flags, "--photos", str(tmp_path), "--processes", "1", "2"]) == 0
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.startswith("| processes | decoded alone")
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 2"]
    shares = [int(row.split(" | ")[3].split(" ")[0]) for row in rows]
    assert all(0 <= share <= 100 for share in shares)


def test_waiting_is_for_batches_alone(tmp_path: Path) -> None:
    files = sorted(map(str, of_noise(tmp_path, 4).iterdir()))
    photos = Timed(
        files=tuple(files), y=torch.zeros(4).long(), channels=3, image_size=8, num_workers=1
    )
    start = time.perf_counter()
    for x, _ in photos.batches(2, torch.device("cpu")):
        assert x.shape == (2, 3, 8, 8)
        time.sleep(0.3)
    assert 0 < photos.waited[0] <= time.perf_counter() - start - 0.6


def test_photos_of_noise_are_of_a_photo_s_size(tmp_path: Path) -> None:
    (file,) = of_noise(tmp_path, 1).iterdir()
    with Image.open(file) as image:
        assert image.size == (WIDTH, HEIGHT) and image.format == "JPEG"
    assert 30_000 < file.stat().st_size < 300_000


def test_images_have_the_preset_s_size_or_that_of_its_data() -> None:
    sides = {name: PRESETS[name]().config.data.side for name in ("imagenette", "imagenette-small")}
    assert sides == {"imagenette": 224, "imagenette-small": 64}


def test_processes_are_doubled_up_to_the_cores() -> None:
    assert [powers(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--images", "0"], "--images and --processes must be at least 1"),
        (["--processes", "0"], "--images and --processes must be at least 1"),
        (["--device", "tpu"], "--device: no device 'tpu' on this machine; there are: "),
    ],
)
def test_bad_input_is_one_line(flags: list[str], reason: str) -> None:
    with pytest.raises(StudyError, match=reason):
        decoding.main(flags)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"--photos: {tmp_path} holds no images"):
        decoding.main(["--photos", str(tmp_path)])

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from builders import judged, planned, record
from pages import runs_of, told, write_about
from studies import compare
from studies.design.about import About
from studies.presets import PRESETS
from studies.reporting import sections
from tune.results.comparison import compare as compared
from tune.results.folder import StudyFolder


def test_figures_of_each_attack_have_a_table_of_their_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About(study="compare", command="again"))
    for run in runs_of(compare.STUDY, 1)[:3]:
        folder.write(judged(tmp_path, run, 0.9, 0.3 if run.control else 0.5))
    page = told(folder)
    assert "one seed (intervals over test images alone)" in page.text
    assert "95 % interval over test images alone: one seed says nothing of others" in page.text
    header, *rows = page.rows("attacks")
    attacks = runs_of(compare.STUDY, 1)[0].config.evaluation.attacks
    assert header == ["configuration", "clean", *attacks, "robust"]
    assert [row[1:] for row in rows] == [
        ["90.0", *["30.0"] * (len(attacks) + 1)],
        ["90.0", *["50.0"] * (len(attacks) + 1)],
        ["90.0", *["30.0"] * (len(attacks) + 1)],
    ]
    assert {"Table 2", "Table 1"} & {row[0][:7] for row in page.rows("published")} == {"Table 2"}


def test_a_published_figure_stands_beside_ours(tmp_path: Path) -> None:
    config = PRESETS["imagenette"]().config.override({"evaluation.splits": ["test"]})
    runs = [
        planned(0, config.unregularized()),
        planned(1, config),
        planned(2, config.override({"ipc": 7})),
    ]
    records = [judged(tmp_path, run, 0.9, 0.5) for run in runs]
    columns, rows = sections.result_table(compared(records))
    assert columns[-1] == "published (clean / AutoAttack)"
    assert [row.cells[-1].text for row in rows] == ["42.42 / 4.99 (!)", "57.93 / 19.69", ""]


def test_a_figure_has_the_same_bytes_each_time() -> None:
    def drawn() -> str:
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4], "o-", label="x")
        return sections.svg(figure)

    first, second = drawn(), drawn()
    assert first == second
    assert first.startswith("<svg ") and first.rstrip().endswith("</svg>")


def test_a_figure_with_much_in_it_is_a_picture_of_pixels() -> None:
    few, many = Figure(), Figure()
    few.subplots().plot([1, 2])
    many.subplots().scatter(range(3000), range(3000), c=range(3000))
    assert sections.shown(few).startswith("<svg ")
    found = sections.shown(many)
    assert found.startswith('<img alt="figure" src="data:image/webp;base64,')
    assert len(found) < len(sections.svg(many)) / 3


def test_a_picture_too_tall_for_webp_stays_as_it_is() -> None:
    tall = io.BytesIO()
    Image.new("L", (1, 16_384)).save(tall, "PNG")
    assert sections.in_webp(tall.getvalue()).startswith("data:image/png;base64,")


def test_distilled_images_have_a_limit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images.png")
        records.append(record(number, paths={"distilled": str(folder)}))
    monkeypatch.setattr(sections, "IMAGE_BYTES", 10**9)
    assert len(sections.distilled_images([], records)) == 4
    size = len(sections.distilled_images([], records)[0].source)
    for room, expected in ((10, 1), (2.5 * size, 2)):
        monkeypatch.setattr(sections, "IMAGE_BYTES", room)
        assert len(sections.distilled_images([], records)) == expected

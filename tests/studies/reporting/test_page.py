"""The page of a study as text; tests/studies/test_browser.py looks at it in a browser."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import SAMPLES, configured, failed, judged, planned, record
from guard.errors import StudyError
from pages import Page, begin, runs_of, told, write_about
from studies import adversarial, report
from studies.design.about import About
from studies.design.stories import stories
from studies.design.study import Study
from studies.reporting import page as page_module
from studies.reporting.page import TRIAL_COLUMNS
from studies.reporting.published import ATTACKS
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.records import SEEDS
from tune.results.tables import MARK, legend, write_comparisons
from tune.runs import Run
from tune.timeline import FILE, Span, append

STORIES = stories()
STUDIES = [story for story in STORIES.values() if isinstance(story, Study)]

PIXEL = b"\x89PNG a picture"
ABOUT = About(study="adversarial", command="uv run python -m studies.adversarial --seeds 2")


def levels(run: Run) -> tuple[float, float]:
    """Clean and robust accuracy: GUARD is clearly more robust, fgsm-rs clearly less; the others
    differ from their control in other directions on other seeds."""
    config, sign = run.config, 1 if run.config.seed % 2 else -1
    if run.control:
        return 0.9, 0.3
    if config.regularizer.kind == "curvature":
        return 0.9 + 0.02 * sign, 0.6
    if config.regularizer.steps == 1:
        return 0.9, 0.1
    return 0.9, 0.3 + 0.03 * sign


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """folder, results and page of a study whose trials are done, but for one that failed."""
    folder = StudyFolder(tmp_path_factory.mktemp("report"), "mine")
    write_about(folder, ABOUT)
    for run in runs_of(adversarial.STUDY, 2):
        if run.trial == 19:
            folder.write(failed(run, "OSError: full"))
            continue
        made = judged(folder.output / "verdicts", run, *levels(run))
        if run.trial == 1:
            doubt = {"reliability/square_gain": 0.2, "reliability/zero_gradients": 0.5}
            made = replace(made, metrics={**made.metrics, **doubt})
        if run.trial == 2:
            place = folder.output / "distilled"
            place.mkdir()
            (place / "images.png").write_bytes(PIXEL)
            made = replace(made, paths={**made.paths, "distilled": str(place)})
        folder.write(made)
    spans = [
        Span(stage="squeeze", key="a", worker="w1", start=100.0, end=103.0),
        Span(stage="recover", key="b", worker="w2", start=101.0, end=102.0),
    ]
    append(folder.path / FILE, spans)
    results = Results.read(folder)
    write_comparisons(folder, results.comparisons)
    return SimpleNamespace(folder=folder, results=results, page=told(folder))


def comparison_csv(folder: StudyFolder) -> list[dict[str, str]]:
    with (folder.path / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_report_is_one_file_without_anything_from_elsewhere(study: SimpleNamespace) -> None:
    made = {path.name for path in study.folder.path.iterdir()}
    tables = {"comparison.csv", "comparison.md", "penalties.md"}
    assert made == {"about.json", "trials", FILE, *tables, "accuracy.png", "report.html"}
    page: Page = study.page
    assert page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert page.tags["iframe"] == page.tags["object"] == 0
    assert "@import" not in page.html


def test_every_link_of_a_report_leads_somewhere(study: SimpleNamespace) -> None:
    links = [address[1:] for address in study.page.addresses if address.startswith("#")]
    assert links and set(links) <= set(study.page.ids)


def test_a_report_opens_with_question_and_answer(study: SimpleNamespace) -> None:
    page: Page = study.page
    story = STORIES["adversarial"]
    assert page.text.index(story.question) < page.text.index(story.answer(study.results))
    assert page.texts["answer"] == story.answer(study.results)
    assert "after GUARD, Table 1" in page.text
    assert "19 complete, 1 failed" in page.text
    assert f"{SAMPLES} test images, 2 seeds" in page.text


def test_a_report_has_the_figures_of_the_comparison(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("result")
    assert header == ["configuration", "seeds", "clean", "robust", "Δ clean", "Δ robust"]
    written = comparison_csv(study.folder)
    assert len(rows) == len(written) == 10

    def percent(row: Mapping[str, str], name: str) -> str:
        spread = row[f"{name}_distillation_std"]
        text = f"{100 * float(row[name]):.1f}"
        return f"{text} ± {100 * float(spread):.1f}" if int(row["seeds"]) > 1 else text

    def gained(row: Mapping[str, str], name: str) -> str:
        if not row[f"{name}_gain"]:
            return ""
        mean, *ends = (100 * float(row[f"{name}_gain{end}"]) for end in ("", "_low", "_high"))
        return f"{mean:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"

    for cells, row in zip(rows, written, strict=True):
        both = ("clean", "robust")
        assert cells[1:4] == [row["seeds"], *(percent(row, name) for name in both)]
        assert [cell.removesuffix(MARK) for cell in cells[4:]] == [gained(row, n) for n in both]
        assert cells[0].startswith(f"sre2l, IPC {row['ipc']}, {row['regularizer']}")


def test_only_clear_differences_are_bold(study: SimpleNamespace) -> None:
    bold = study.page.bold("result")
    written = comparison_csv(study.folder)
    for marks, row in zip(bold, written, strict=True):
        clear = [
            bool(row[f"{name}_gain"])
            and (float(row[f"{name}_gain_low"]) > 0 or float(row[f"{name}_gain_high"]) < 0)
            for name in ("clean", "robust")
        ]
        assert marks == [False] * 4 + clear
    found = {row["regularizer"]: marks[5] for marks, row in zip(bold, written, strict=True)}
    assert found["curvature"] and found["fgsm-rs"]
    assert not found["none"] and not found["pgd-at"]


def test_a_table_says_how_it_is_read(study: SimpleNamespace) -> None:
    comparisons = study.results.comparisons
    assert legend(comparisons) in study.page.text
    assert "95 % interval over seeds and test images" in legend(comparisons)
    assert not any("*" in text for row in study.page.rows("penalties") for text in row)
    assert any(map(any, study.page.bold("penalties")))


def test_the_grey_rows_are_the_controls(study: SimpleNamespace) -> None:
    assert study.page.html.count('<tr class="control">') == 2


def test_doubtful_trials_are_listed_with_their_signs(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("flags")
    assert header == ["trial", "configuration", "signs"]
    (row,) = rows
    assert row[0] == "1" and row[1].startswith("sre2l, IPC 1, curvature")
    assert "vanishing-gradient: " in row[2] and "black-box-wins: " in row[2]


def test_every_trial_is_listed_with_how_it_ended(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("trials")
    assert header == list(TRIAL_COLUMNS)
    assert [row[0] for row in rows] == [str(number) for number in range(20)]
    assert rows[0][2:5] == ["complete", "0.900", "0.300"]
    assert rows[19][2:5] == ["failed", "", ""] and rows[19][6] == "OSError: full"


def test_a_page_of_very_many_trials_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAX_TRIALS", 3)
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About(study="sweep", command="again"))
    for number in range(5):
        folder.write(record(number, config=configured({"seed": number})))
    found = told(folder)
    assert len(found.rows("trials")) == 1 + 3 and "… and 2 more in results.csv" in found.text


def test_the_published_table_stands_there_with_its_marks(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("published")
    assert header == ["configuration", *ATTACKS]
    (guard,) = (row for row in rows if row[0] == "Table 1, imagenette, IPC 10, GUARD")
    assert guard[1:] == ["57.93", "23.87", "44.07", "19.69", "58.67 (!)", "21.80"]


def test_figures_and_images_are_inside_the_page(study: SimpleNamespace) -> None:
    page: Page = study.page
    assert page.tags["svg"] == 1 and "accuracy.png" in page.text
    (image,) = (address for address in page.addresses if address.startswith("data:image"))
    assert image == "data:image/png;base64,iVBORyBhIHBpY3R1cmU="
    assert "trial 2: sre2l, IPC 1, pgd-at" in page.text


def test_the_timeline_says_what_workers_did(study: SimpleNamespace) -> None:
    assert "Stages on workers" in study.page.text
    assert "2 stages computed in 4 s of work" in study.page.text


def test_a_report_says_how_to_do_it_again_and_with_what(study: SimpleNamespace) -> None:
    text = study.page.text
    assert ABOUT.command in text
    assert f"uv run python -m studies.report {study.folder.path}" in text
    assert "Made with torch " in text and "Python 3." in text


def test_a_page_without_plots_has_no_script(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, ABOUT)
    (run, *_) = runs_of(adversarial.STUDY, 1)
    folder.write(judged(tmp_path, run, 0.9, 0.3))
    page = told(folder)
    assert page.tags["script"] == 0 and "Stages on workers" not in page.text


@pytest.mark.parametrize("name", STORIES)
def test_a_study_without_a_trial_has_a_page(name: str, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About(study=name, command="the command"))
    page = told(folder)
    assert STORIES[name].question in page.text and "the command" in page.text
    assert page.texts["answer"].startswith("Nothing ")
    assert "result" not in page.tables and "trials" not in page.tables


def test_a_study_whose_trials_all_failed_has_a_page(tmp_path: Path) -> None:
    for name in ("adversarial", "sweep"):
        folder = StudyFolder(tmp_path, name)
        write_about(folder, About(study=name, command="the command"))
        folder.write(failed(planned(), "OSError: full"))
        page = told(folder)
        assert "1 failed" in page.text and "OSError: full" in page.text
        assert page.texts["answer"].startswith("Nothing ")


@pytest.mark.parametrize("planned", STUDIES, ids=lambda planned: planned.name)
def test_a_running_study_has_a_page_of_what_there_is(planned: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    done = begin(planned, folder)
    page = told(folder)
    assert "3 complete" in page.text
    arms = {run.config.override(dict.fromkeys(SEEDS, 0)) for run in done}
    assert len(page.rows("result")) == 1 + len(arms)


def test_an_arm_without_its_control_has_no_gain(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, ABOUT)
    folder.write(judged(tmp_path, runs_of(adversarial.STUDY, 1)[1], 0.9, 0.6))
    _, row = told(folder).rows("result")
    assert row[2:] == ["90.0", "60.0", "", ""]


def test_building_it_again_says_the_same(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, ABOUT)
    (run, *_) = runs_of(adversarial.STUDY, 1)
    folder.write(judged(tmp_path, run, 0.9, 0.3))
    pages = []
    for _ in range(2):
        told(folder)
        pages.append((folder.path / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    evil = "<marquee>&amp;</script><b>"
    write_about(folder, About(study="adversarial", command=f"uv run --data '{evil}'"))
    first, second, *_ = runs_of(adversarial.STUDY, 1)
    doubt = {"test/clean_accuracy": 0.9, "reliability/square_gain": 0.2}
    made = judged(tmp_path, first, 0.9, 0.3, params={"data.path": evil}, metrics=doubt)
    folder.write(made)
    folder.write(failed(second, f"TypeError: {evil}"))
    append(folder.path / FILE, [Span(stage=evil, key="a", worker=evil, start=0.0, end=1.0)])
    page = told(folder)
    assert page.tags["marquee"] == page.tags["b"] == 0
    assert "<marquee>" not in page.html
    assert page.text.count(evil) == 4  # command, flags, trial, reason


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_study_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError) as caught:
        report.main([str(tmp_path / name)])
    text = str(caught.value)
    assert text == f"{tmp_path / name}: holds no study (there is no about.json)"
    assert not (tmp_path / "missing").exists() and not any((tmp_path / "empty").iterdir())

"""The page of a study as text; tests/studies/test_browser.py looks at it in a browser."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from matplotlib.figure import Figure
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from safetensors.numpy import save_file

from guard.artifacts import ArtifactStore
from guard.config.evaluation import parts_of
from guard.errors import StudyError
from guard.robustness.evaluate import Verdicts
from guard.trial import TrialConfig
from studies import ablation, adversarial, compare, curvature, report, scaling
from studies.design.about import About
from studies.design.stories import stories
from studies.design.study import Results, Story, Study
from studies.presets import PRESETS
from studies.reporting import sections
from studies.reporting.page import TRIAL_COLUMNS
from studies.reporting.published import ATTACKS
from tune.results.comparison import compare as compared
from tune.results.folder import StudyFolder, to_csv
from tune.results.records import CONFIRMATION, Record
from tune.results.tables import write_comparisons
from tune.runs import Run
from tune.space import CONTROL
from tune.timeline import FILE, Span, append

SAMPLES = 200
STORIES = stories()
STUDIES = [story for story in STORIES.values() if isinstance(story, Study)]
PRESET = PRESETS["digits"]()
VOID = {"meta", "link", "img", "br", "hr"}
PIXEL = b"\x89PNG a picture"
ABOUT = About("adversarial", "uv run python -m studies.adversarial --seeds 2")


class Page(HTMLParser):
    """What is read of a page: tags, addresses, ids, text, and the tables under each heading."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text = html, ""
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[tuple[str, bool]]]] = {}
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self._heading = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id") or ""))
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append(("", False))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.ids += [named["id"]] if "id" in named else []
        self.addresses += [named[name] for name in ("src", "href", "xlink:href") if name in named]
        if tag == "h2":
            self._heading = named["id"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "script" in tags or "style" in tags:
            return
        self.text += data
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
        if "td" in tags or "th" in tags:
            row = self.tables[self._heading][-1]
            row[-1] = (row[-1][0] + data, "b" in tags)

    def rows(self, heading: str) -> list[list[str]]:
        """A table's rows, the titles of its columns first."""
        return [[text for text, _ in row] for row in self.tables[heading]]

    def bold(self, heading: str) -> list[list[bool]]:
        return [[is_bold for _, is_bold in row] for row in self.tables[heading][1:]]


def runs_of(study: Study, seeds: int) -> list[Run]:
    design = study.design(PRESET)
    return design.runs(PRESET.config.override(design.settings), seeds)


def record(root: Path, run: Run, clean: float, robust: float, **changes: Any) -> Record:
    """A complete trial on test images, with that share of them right under every attack."""
    numbers = torch.arange(SAMPLES)
    right, left = numbers < round(clean * SAMPLES), numbers < round(robust * SAMPLES)
    parts = parts_of(run.config.evaluation)
    survived = {part: left.clone() for part in parts}
    distances = {name: torch.full((SAMPLES,), math.inf) for eps, name in parts if eps == math.inf}
    place = root / f"verdicts-{run.phase}-{run.trial}-{run.config.seed}"
    place.mkdir(parents=True)
    Verdicts(right, survived, distances).save(place / "verdicts.safetensors")
    metrics = {
        "test/clean_accuracy": float(right.float().mean()),
        "test/robust_accuracy": float(left.float().mean()),
        "reliability/flags": 0.0,
    }
    plain = (run.config.to_dict(), run.config.fingerprint())
    own = Record(run.trial, "complete", "", run.control, run.params, *plain, metrics)
    paths = {"test verdicts": str(place)}
    return replace(own, paths=paths, phase=run.phase, **changes)


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


def write_about(folder: StudyFolder, about: About) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    facts = {"study": about.study, "command": about.command}
    (folder.path / "about.json").write_text(json.dumps(facts))


def read_page(folder: StudyFolder) -> Page:
    return Page((folder.path / "report.html").read_text())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """folder, results and page of a study whose trials are done, but for one that failed."""
    folder = StudyFolder(tmp_path_factory.mktemp("report"), "mine")
    write_about(folder, ABOUT)
    for run in runs_of(adversarial.STUDY, 2):
        if run.trial == 19:
            folder.write(Record.failed(19, run.config, run.params, run.control, "OSError: full"))
            continue
        made = record(folder.output / "verdicts", run, *levels(run))
        if run.trial == 1:
            doubt = {"reliability/square_gain": 0.2, "reliability/zero_gradients": 0.5}
            made = replace(made, metrics={**made.metrics, **doubt})
        if run.trial == 2:
            place = folder.output / "distilled"
            place.mkdir()
            (place / "images.png").write_bytes(PIXEL)
            made = replace(made, paths={**made.paths, "distilled": str(place)})
        folder.write(made)
    spans = [Span("squeeze", "a", "w1", 100.0, 103.0), Span("recover", "b", "w2", 101.0, 102.0)]
    append(folder.path / FILE, spans)
    results = Results.read(folder)
    write_comparisons(folder, results.comparisons)
    assert report.main([str(folder.path)]) == 0
    return SimpleNamespace(folder=folder, results=results, page=read_page(folder))


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
        assert cells[4:] == [gained(row, name) for name in both]
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


def test_the_grey_rows_are_the_controls(study: SimpleNamespace) -> None:
    assert study.page.html.count('<tr class="control">') == 2


def test_doubtful_trials_are_listed_with_their_signs(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("flags")
    assert header == ["trial", "configuration", "signs of gradient masking"]
    (row,) = rows
    assert row[0] == "1" and row[1].startswith("sre2l ipc 1 curvature")
    assert "vanishing-gradient: " in row[2] and "black-box-wins: " in row[2]


def test_every_trial_is_listed_with_how_it_ended(study: SimpleNamespace) -> None:
    header, *rows = study.page.rows("trials")
    assert header == list(TRIAL_COLUMNS)
    assert [row[0] for row in rows] == [str(number) for number in range(20)]
    assert rows[0][2:5] == ["complete", "0.900", "0.300"]
    assert rows[19][2:5] == ["failed", "", ""] and rows[19][6] == "OSError: full"


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
    assert "trial 2: sre2l ipc 1 pgd-at" in page.text


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
    folder.write(record(tmp_path, run, 0.9, 0.3))
    report.main([str(folder.path)])
    page = read_page(folder)
    assert page.tags["script"] == 0 and "Stages on workers" not in page.text


def test_figures_of_each_attack_have_a_table_of_their_own(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About("compare", "again"))
    for run in runs_of(compare.STUDY, 1)[:3]:
        folder.write(record(tmp_path, run, 0.9, 0.3 if run.control else 0.5))
    report.main([str(folder.path)])
    page = read_page(folder)
    header, *rows = page.rows("attacks")
    attacks = runs_of(compare.STUDY, 1)[0].config.evaluation.attacks
    assert header == ["configuration", "clean", *attacks, "robust"]
    assert [row[1:] for row in rows] == [
        ["90.0", *["30.0"] * (len(attacks) + 1)],
        ["90.0", *["50.0"] * (len(attacks) + 1)],
        ["90.0", *["30.0"] * (len(attacks) + 1)],
    ]
    assert {"Table 2", "Table 1"} & {row[0][:7] for row in page.rows("published")} == {"Table 2"}


@pytest.mark.parametrize(("ipcs", "shown"), [((5,), False), ((1, 5), True)])
def test_an_axis_of_images_per_class_is_drawn(
    ipcs: tuple[int, ...], shown: bool, tmp_path: Path
) -> None:
    base = PRESET.config.override({"evaluation.splits": ["test"]})
    configs = [base.override({"ipc": ipc}) for ipc in ipcs]
    runs = [Run(n, config.unregularized(), {}, True) for n, config in enumerate(configs)]
    records = [record(tmp_path, run, 0.9, 0.3) for run in runs]
    results = Results(StudyFolder(tmp_path, "s"), records, compared(records))
    assert ("ipc" in compare.figures(results)) is shown


def test_a_published_figure_stands_beside_ours(tmp_path: Path) -> None:
    config = PRESETS["imagenette"]().config.override({"evaluation.splits": ["test"]})
    runs = [
        Run(0, config.unregularized(), {}, True),
        Run(1, config, {}, False),
        Run(2, config.override({"ipc": 7}), {}, False),
    ]
    records = [record(tmp_path, run, 0.9, 0.5) for run in runs]
    columns, rows = sections.result_table(compared(records))
    assert columns[-1] == "published (clean / AutoAttack)"
    assert [row.cells[-1].text for row in rows] == ["42.42 / 4.99 (!)", "57.93 / 19.69", ""]


@pytest.mark.parametrize("name", STORIES)
def test_a_study_without_a_trial_has_a_page(name: str, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About(name, "the command"))
    assert report.main([str(folder.path)]) == 0
    page = read_page(folder)
    assert STORIES[name].question in page.text and "the command" in page.text
    assert page.texts["answer"].startswith("Nothing ")
    assert "result" not in page.tables and "trials" not in page.tables


def test_a_study_whose_trials_all_failed_has_a_page(tmp_path: Path) -> None:
    for name in ("adversarial", "sweep"):
        folder = StudyFolder(tmp_path, name)
        write_about(folder, About(name, "the command"))
        config = TrialConfig()
        folder.write(Record.failed(0, config, {}, False, "OSError: full"))
        report.main([str(folder.path)])
        page = read_page(folder)
        assert "1 failed" in page.text and "OSError: full" in page.text
        assert page.texts["answer"].startswith("Nothing ")


def begin(study: Study, folder: StudyFolder) -> list[Run]:
    """The first three trials of a study are done."""
    write_about(folder, About(study.name, "again"))
    done = runs_of(study, 2)[:3]
    for number, run in enumerate(done):
        level = (0.9 - 0.01 * number, 0.3 + 0.05 * number)
        folder.write(record(folder.output / "verdicts", run, *level))
    return done


@pytest.mark.parametrize("planned", STUDIES, ids=lambda planned: planned.name)
def test_a_running_study_has_a_page_of_what_there_is(planned: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    done = begin(planned, folder)
    report.main([str(folder.path)])
    page = read_page(folder)
    assert "3 complete" in page.text
    arms = {run.config.override({"seed": 0, "student.seed": 0}) for run in done}
    assert len(page.rows("result")) == 1 + len(arms)


def test_an_arm_without_its_control_has_no_gain(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, ABOUT)
    folder.write(record(tmp_path, runs_of(adversarial.STUDY, 1)[1], 0.9, 0.6))
    report.main([str(folder.path)])
    _, row = read_page(folder).rows("result")
    assert row[2:] == ["90.0", "60.0", "", ""]


def finish(study: Study, folder: StudyFolder) -> Results:
    """What there is when all trials of two seeds are done."""
    write_about(folder, About(study.name, "again"))
    for run in runs_of(study, 2):
        level = (0.8, 0.3 + 0.001 * run.trial)
        folder.write(record(folder.output / "verdicts", run, *level))
    return Results.read(folder)


def test_curvature_measured_afterwards_is_in_the_page(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    store, rows = ArtifactStore(folder.artifacts), []
    arms = [comparison.arm for comparison in finish(curvature.STUDY, folder).comparisons]
    for facts, stage in itertools.chain.from_iterable(map(curvature.stages, arms)):
        value = {"teacher": 5.0, "student": 1.0}[str(facts["model"])] + int(facts["seed"])
        value -= 2.0 if facts == {**facts, "model": "teacher", "penalty": "none"} else 0.0
        place = store.path(stage.address)
        place.mkdir(parents=True)
        save_file({"eigenvalues": np.full((4, 3), value)}, place / "landscape.safetensors")
        rows.append({**facts, "largest_eigenvalue": value, "bound/holds": 0.5})
    (folder.path / "measured.csv").write_text(to_csv(rows))
    report.main([str(folder.path)])
    page = read_page(folder)
    answer, arm = page.texts["answer"], "curvature (λ = 0.3, h = 0.1)"
    assert "(sre2l, IPC 5): teacher, none: 3.50 ± 0.71;" in answer
    assert f"teacher, {arm}: 5.50 ± 0.71, steeper: +2.00 [+2.00, +2.00];" in answer
    assert f"student, {arm}: 1.50 ± 0.71, no clear difference: +0.00 [+0.00, +0.00]." in answer
    header, *lines = page.rows("landscape")
    assert header == ["model", "λ₁ (mean)", "holds in"]
    assert len(lines) == 8
    assert ["sre2l, teacher, none, seed 1", "4", "0.5"] in lines


def test_an_ablation_holds_its_arms_against_the_preset_s_penalty(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About("ablation", "again"))
    for run in runs_of(ablation.STUDY, 2):
        is_plain = not run.control and set(run.params) == {"seed"}
        folder.write(record(tmp_path, run, 0.9, 0.6 if is_plain else 0.5))
    report.main([str(folder.path)])
    header, *rows = read_page(folder).rows("details")
    assert header == ["configuration", "Δ clean", "Δ robust"]
    assert len(rows) == 12 and "curvature (λ = 0.3, h = 0.1)" not in [row[0] for row in rows]
    for _, clean, robust in rows:
        assert clean == "+0.0 [+0.0, +0.0]" and robust.startswith("-10.0 [-1")


def test_throughput_measured_afterwards_is_in_the_page(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    begin(scaling.STUDY, folder)
    rows = [{"workers": n, "trials": 3 * n, "trials_a_minute": 2.5 * n} for n in (1, 2)]
    (folder.path / "measured.csv").write_text(to_csv(rows))
    report.main([str(folder.path)])
    page = read_page(folder)
    assert page.tags["svg"] == 2 and "throughput.png" in page.text


def test_building_it_again_says_the_same(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, ABOUT)
    (run, *_) = runs_of(adversarial.STUDY, 1)
    folder.write(record(tmp_path, run, 0.9, 0.3))
    pages = []
    for _ in range(2):
        report.main([str(folder.path)])
        pages.append((folder.path / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    evil = "<marquee>&amp;</script><b>"
    write_about(folder, About("adversarial", f"uv run --data '{evil}'"))
    first, second, *_ = runs_of(adversarial.STUDY, 1)
    doubt = {"test/clean_accuracy": 0.9, "reliability/square_gain": 0.2}
    made = record(tmp_path, first, 0.9, 0.3, params={"data.path": evil}, metrics=doubt)
    folder.write(made)
    failed = Record.failed(1, second.config, {}, False, f"TypeError: {evil}")
    folder.write(failed)
    append(folder.path / FILE, [Span(evil, "a", evil, 0.0, 1.0)])
    report.main([str(folder.path)])
    page = read_page(folder)
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


def test_a_figure_has_the_same_bytes_each_time() -> None:
    def drawn() -> str:
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4], "o-", label="x")
        return sections.svg(figure)

    first, second = drawn(), drawn()
    assert first == second
    assert first.startswith("<svg ") and first.rstrip().endswith("</svg>")


SPACE = {
    "regularizer.weight": FloatDistribution(1e-3, 100, log=True),
    "regularizer.h": FloatDistribution(1e-2, 3, log=True),
}


def searched(trial: int, ipc: int, params: Mapping[str, float], clean: float) -> Record:
    """A trial of a search; without parameters a control."""
    config = TrialConfig().override({"ipc": ipc, **params})
    config = config if params else config.unregularized()
    robust = 0.4 + 0.2 * params["regularizer.h"] if params else 0.3
    metrics = {
        f"validation/{name}": value
        for name, value in {
            "clean_accuracy": clean,
            "robust_accuracy": robust,
            "num_samples": 100.0,
        }.items()
    }
    plain = (config.to_dict(), config.fingerprint())
    drawn = {"ipc": ipc, **params}
    return Record(trial, "complete", "", not params, drawn, *plain, metrics)


def write_sweep(folder: StudyFolder, records: Iterable[Record]) -> None:
    """A sweep's records and its storage."""
    write_about(folder, About("sweep", "uv run python -m studies.sweep"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=folder.storage_uri, study_name=folder.name, directions=["maximize", "maximize"]
    )
    for made in records:
        folder.write(made)
        params = {name: value for name, value in made.params.items() if name in SPACE}
        study.add_trial(
            create_trial(
                values=made.objectives,
                params=params,
                distributions={name: SPACE[name] for name in params},
                user_attrs={CONTROL: True} if made.control else {},
            )
        )


RECORDS = [
    searched(0, 1, {}, 0.9),
    searched(1, 10, {}, 0.95),
    *(
        searched(2 + n, 10, {"regularizer.weight": weight, "regularizer.h": h}, 0.94 - 0.01 * n)
        for n, (weight, h) in enumerate([(0.1, 0.1), (0.1, 0.5), (1.0, 0.1), (1.0, 1.0), (9, 0.3)])
    ),
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """folder and page of a sweep, and its page after the confirmation (confirmed)."""
    folder = StudyFolder(tmp_path_factory.mktemp("report"), "swept")
    write_sweep(folder, RECORDS)
    folder.write_tables(RECORDS, RECORDS[5])
    report.main([str(folder.path)])
    page = read_page(folder)
    for seed in (1, 2):
        for number in (1, 5):
            chosen = RECORDS[number]
            changes = {"seed": seed, "student.seed": seed, "evaluation.splits": ["test"]}
            config = TrialConfig.from_dict(chosen.config).override(changes)
            run = Run(number, config, chosen.params, chosen.control, CONFIRMATION)
            levels = (0.95, 0.3) if chosen.control else (0.94, 0.6)
            folder.write(record(folder.output / "verdicts", run, *levels))
    report.main([str(folder.path)])
    return SimpleNamespace(folder=folder, page=page, confirmed=read_page(folder))


PLOTS = [
    "The search: clean against robust accuracy",
    "Robust accuracy against images per class",
    "The λ x h map",
    "Parallel coordinates",
    "Which hyper-parameters matter",
]


def test_a_sweep_is_shown_from_all_sides(sweep: SimpleNamespace) -> None:
    page: Page = sweep.page
    for title in PLOTS:
        assert title in page.text
    assert {f"plot-{number}" for number in range(1, len(PLOTS) + 1)} <= set(page.ids)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "7 students on 100 validation images, one seed each." in page.text
    assert page.html.count("plotly.js v") == 1


def test_controls_are_no_part_of_what_was_searched(sweep: SimpleNamespace) -> None:
    assert "λ against h; 5 trials." in sweep.page.text
    assert "One line a regularized trial (5)" in sweep.page.text
    assert "(fANOVA, 5 trials)" in sweep.page.text


def test_a_sweep_without_a_confirmation_says_so(sweep: SimpleNamespace) -> None:
    answer = sweep.page.texts["answer"]
    assert answer.startswith("Chosen by the search, not confirmed: sre2l ipc 10 curvature")
    assert answer.endswith("clean 0.910, robust 0.600 on validation images.")
    assert "result" not in sweep.page.tables and "published" not in sweep.page.tables


def test_a_confirmed_sweep_says_what_its_new_seeds_say(sweep: SimpleNamespace) -> None:
    page: Page = sweep.confirmed
    assert "(sre2l, IPC 10). More robust: curvature (λ = 1, h = 1): +30.0" in page.texts["answer"]
    control, ours = page.rows("result")[1:]
    assert control[1:4] == ["2", "95.0 ± 0.0", "30.0 ± 0.0"]
    assert ours[1:4] == ["2", "94.0 ± 0.0", "60.0 ± 0.0"]
    assert "the confirmation, 2 new seeds on 200 test images under a stronger suite" in page.text
    labels = [row[0] for row in page.rows("trials")[1:]]
    assert labels == ["0", "1", "2", "3", "4", "5", "6"] + [
        f"{number} seed {seed}" for number in (1, 5) for seed in (1, 2)
    ]


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_sweep(folder, RECORDS[:1])
    report.main([str(folder.path)])
    page = read_page(folder)
    assert PLOTS[0] in page.text
    assert not any(title in page.text for title in PLOTS[1:])


def test_markup_in_names_is_text_in_plots_too(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    evil = "<marquee>&</script>"
    write_sweep(folder, [replace(made, params={**made.params, "x": evil}) for made in RECORDS])
    report.main([str(folder.path)])
    page = read_page(folder)
    assert page.tags["marquee"] == 0 and "<marquee>" not in page.html
    assert evil in page.text


@pytest.mark.parametrize("story", STORIES.values(), ids=lambda story: story.name)
def test_every_story_has_a_question_and_a_name_of_its_own(story: Story) -> None:
    assert STORIES[story.name] is story
    assert story.question.endswith("?")

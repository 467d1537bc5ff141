"""The report and the MLflow UI as a person sees them, in headless Chromium."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browsing import drawn, errors, has_text, served, wait
from mlflow.tracking import MlflowClient
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tune.results.folder import StudyFolder
from tune.tracking.identity import EXPERIMENT, page_of
from tune.tracking.wanted import PARENT, TRIAL

pytestmark = pytest.mark.slow

SMALL = [
    "method=sre2l",
    "ipc=2",
    "model.width=8",
    "squeeze.epochs=4",
    "sre2l.iterations=30",
    "student.train.epochs=40",
    "evaluation.attacks=pgd3",
    "evaluation.more_eps=0.05",
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep, in which some trials end early, and its confirmation."""
    folder = tmp_path_factory.mktemp("browser")
    confirm = ("confirm.seeds=2", "confirm.attacks=pgd3,fgsm", "search.reduction=2")
    settings = [part for setting in (*SMALL, *confirm) for part in ("--set", setting)]
    where = ["--output", str(folder), "--name", "s", "--num-trials", "16"]
    command = [sys.executable, "-m", "studies.sweep", *where]
    done = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.fixture(scope="module")
def server(output: Path) -> Iterator[str]:
    """The address of an MLflow UI on the study."""
    yield from served(output)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(browser: WebDriver, name: str) -> list[list[str]]:
    """The body's cells, also of a table that is folded away."""
    found: list[list[str]] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(row => "
        "[...row.cells].map(cell => cell.textContent))",
        f"#{name} tbody tr",
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_every_figure_and_says_what_the_tables_say(
    output: Path, browser: WebDriver, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get((output / "s" / "report.html").as_uri())
    plots = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".plotly-graph-div"))
    drawn = "return document.querySelectorAll('.plotly-graph-div .main-svg').length"
    wait(browser, lambda b: b.execute_script(drawn) >= len(plots))
    titles = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert {"λ and h", "Parallel coordinates", "Stages on workers"} <= set(titles)
    pictures = browser.find_elements(By.CSS_SELECTOR, ".card > svg, .card > img")
    assert pictures and all(picture.size["width"] > 100 for picture in pictures)
    assert errors(browser) == []

    compared = rows(output / "s" / "comparison.csv")
    shown = table(browser, "comparison")
    assert len(shown) == len(compared)
    for cells, row in zip(shown, compared, strict=True):
        assert cells[2].split(" ")[0] == f"{100 * float(row['clean']):.1f}"
        assert cells[3].split(" ")[0] == f"{100 * float(row['robust']):.1f}"
    results = rows(output / "s" / "results.csv")
    trials = table(browser, "trials-table")
    assert len(trials) == len(results)
    for cells, row in zip(trials, results, strict=True):
        split = "validation" if row["phase"] == "search" else "test"
        robust = row[f"{split}/robust_accuracy"]
        assert cells[4] == (f"{float(robust):.3f}" if robust else "")


def test_the_report_is_small_and_says_what_it_has_not_found(
    output: Path, browser: WebDriver
) -> None:
    page = output / "s" / "report.html"
    assert page.stat().st_size < 2_000_000
    browser.get(page.as_uri())
    titles = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert "What was not found" in titles


def test_the_report_fits_a_phone(output: Path, browser: WebDriver) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get((output / "s" / "report.html").as_uri())
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".plotly-graph-div .main-svg"))
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= phone["width"]


def test_mlflow_shows_the_study_its_comparison_and_the_images(
    output: Path, browser: WebDriver, server: str
) -> None:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    place = f"{server}/#/experiments/{experiment.experiment_id}/runs"
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if PARENT in run.data.tags]
    (parent,) = [run for run in runs if PARENT not in run.data.tags]

    browser.get(place)
    wait(browser, has_text("study s"))

    chosen = sorted(children, key=lambda run: run.data.tags[TRIAL])[:4]
    names = quote(json.dumps([run.info.run_id for run in chosen]))
    where = quote(json.dumps([experiment.experiment_id]))
    browser.get(f"{server}/#/compare-runs?runs={names}&experiments={where}")
    wait(browser, has_text("Parallel Coordinates Plot", "Show diff only"))
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".parcoords"))
    values = {
        float(row["validation/robust_accuracy"])
        for row in rows(output / "s" / "results.csv")
        if row["phase"] == "search" and row["status"] == "complete"
    }
    assert {
        run.data.metrics["validation/robust_accuracy"]
        for run in children
        if "validation/robust_accuracy" in run.data.metrics
    } == values

    browser.get(f"{place}/{chosen[0].info.run_id}/artifacts/distilled/images.png")
    wait(browser, has_text("images.png"))
    image = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "img[src^='blob:']"))
    assert image[0].size["width"] > 100

    browser.get(f"{place}/{parent.info.run_id}/artifacts")
    wait(browser, has_text("report.html", "comparison.csv", "results.csv"))
    assert errors(browser) == []


def test_mlflow_opens_a_study_with_its_columns_and_charts(
    output: Path, browser: WebDriver, server: str
) -> None:
    folder = StudyFolder(output, "s")
    browser.get(f"{server}/{page_of(folder)}")
    searched = [record for record in folder.records() if record.status == "complete"]
    wait(browser, has_text("The study", f"{len(folder.every_record())} matching runs"))
    wait(browser, lambda b: drawn(b, ".scatterlayer .point") >= len(searched))
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".parcoords"))
    wait(browser, lambda b: drawn(b, ".barlayer .point") >= len(searched))

    browser.get(f"{server}/{page_of(folder).replace('CHART', 'TABLE')}")
    browser.refresh()
    wait(browser, has_text("matching runs", "validation/robust_accuracy", "studies.sweep"))
    wait(browser, has_text("digits ("))


def test_a_studys_run_leads_to_its_page_and_has_curves(
    output: Path, browser: WebDriver, server: str
) -> None:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    runs = client.search_runs(["1"])
    (parent,) = [run for run in runs if PARENT not in run.data.tags]
    place = f"{server}/#/experiments/1/runs/{parent.info.run_id}"
    browser.get(place)
    link = wait(browser, lambda b: b.find_elements(By.LINK_TEXT, "Its trials with charts"))
    assert link[0].get_attribute("href") == f"{server}/{page_of(StudyFolder(output, 's'))}"
    browser.get(f"{place}/model-metrics")
    wait(browser, has_text("best/validation", "complete", "diverged"))
    browser.get(f"{place}/system-metrics")
    wait(browser, has_text("system/early-squeeze", "memory_mib", "cpu_percent"))
    browser.get(f"{server}/#/experiments/1/models")
    wait(browser, has_text("Ready", "sre2l, IPC"))

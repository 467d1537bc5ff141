"""A study of many trials in the MLflow UI, in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import drawn, has_text, served, wait
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from builders import configured, record
from tune.results.folder import StudyFolder
from tune.tracking.identity import page_of
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

CHILDREN = 300


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of many trials."""
    folder = StudyFolder(tmp_path_factory.mktemp("crowded"), "many")
    for number in range(CHILDREN):
        params = {"ipc": 1 + number % 5, "regularizer.weight": 0.1 + 0.01 * number}
        config = configured(params)
        robust = number / (2 * CHILDREN)
        folder.write(record(number, 0.9, robust, config=config, params=params))
    Tracker(folder, open_store(folder.tracking_uri, folder)).close(folder.records())
    return folder.output


@pytest.fixture(scope="module")
def crowded_server(crowded: Path) -> Iterator[str]:
    yield from served(crowded)


def test_a_study_of_many_trials_opens_with_the_most_robust_ones(
    crowded: Path, browser: WebDriver, crowded_server: str
) -> None:
    """The UI loads a hundred at a time."""
    browser.get(f"{crowded_server}/{page_of(StudyFolder(crowded, 'many'))}")
    wait(browser, has_text("The study", "100 matching runs"))
    wait(browser, lambda b: drawn(b, ".scatterlayer .point") == 100)
    first = sorted((0.1 + 0.01 * n for n in range(CHILDREN)), reverse=True)[0]
    wait(browser, has_text(f"λ = {first:.3g}"))
    more = wait(browser, lambda b: b.find_elements(By.XPATH, "//button[contains(., 'Load more')]"))
    browser.execute_script("arguments[0].click()", more[0])
    wait(browser, lambda b: drawn(b, ".scatterlayer .point") == 200)
    wait(browser, has_text("200 matching runs"))

"""Pages as a person sees them, in headless Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from studies.bench.machines import free_port

UNKNOWN_USER = "users/current"
"""MLflow's page asks for a user that a server without accounts does not have."""
WAIT_S = 300.0


def headless() -> Iterator[WebDriver]:
    """A browser, while it is open."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1500,1100"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def served(output: Path) -> Iterator[str]:
    """The address of an MLflow UI on an output folder, while it is there."""
    port = free_port()
    store = f"sqlite:///{output / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health").close()
            break
        except OSError:
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


def errors(browser: WebDriver) -> list[str]:
    log = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in log if UNKNOWN_USER not in message]


def wait(browser: WebDriver, until: Callable[[WebDriver], Any]) -> Any:
    return WebDriverWait(browser, WAIT_S).until(until)


def has_text(*parts: str) -> Callable[[WebDriver], bool]:
    return lambda browser: all(
        part in browser.find_element(By.TAG_NAME, "body").text for part in parts
    )


def drawn(browser: WebDriver, kind: str) -> int:
    """How many points, lines or bars the charts of a kind have."""
    found = browser.find_elements(By.CSS_SELECTOR, f".js-plotly-plot {kind}")
    return len(found)

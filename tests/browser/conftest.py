"""The report's page in a real browser, headless Chromium: run with ``-m browser`` alone."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support_browser import Browser

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: No test needs the network, and Chromium is not to use it for itself either.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = ""
    if "browser" not in str(config.option.markexpr):
        reason = "needs Chromium: run it with -m browser"
    elif not all(map(importlib.util.find_spec, ("selenium", "jinja2"))):
        reason = "selenium or jinja2 is not installed"
    elif not shutil.which("chromium") or not shutil.which("chromedriver"):
        reason = "there is no chromium with its chromedriver"
    for item in items:
        if reason and item.get_closest_marker("browser") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chrome: Chrome, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(chrome, tmp_path)
    yield browser
    browser.check()
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [], "media": ""})
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    if chrome.current_url.startswith("file:"):
        chrome.execute_script("localStorage.clear()")
    chrome.get("about:blank")

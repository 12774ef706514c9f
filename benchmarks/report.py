"""The report's page at 100 and 5,000 tests: its size, the time to make it and to open it.

Opened in headless Chromium where Selenium, ``chromium`` and ``chromedriver`` are installed: from
the order to load the file until its script has built everything. "bad" has a failure with a long
traceback and log in each test. The last table is what recording costs each test of a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _measure import Results, interleave, ms, report, runs_argument, table, verdict

sys.path.insert(0, str(Path(__file__).parent.parent))

from pytest_mlc_server.reporting.report import attempts, page
from pytest_mlc_server.reporting.report.data import Report
from tests.support_report import made_up

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

KINDS: dict[str, Callable[[], Report]] = {
    "100 tests": lambda: made_up(100),
    "5,000 tests": lambda: made_up(5000, workers=8),
    "5,000 tests, bad": lambda: made_up(5000, workers=8, failing=1, text=8, hostile=True),
}

LARGEST = 5_000_000
SLOWEST = 2.0


def made(report_: Report, path: str) -> float:
    began = time.perf_counter()
    text = page.page(report_, path)
    took = time.perf_counter() - began
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return took


def opened(driver: Chrome, path: str) -> float:
    """Return the seconds from the order to load a page until it can be used."""
    driver.get("about:blank")
    began = time.perf_counter()
    driver.get(Path(path).as_uri())
    if driver.execute_script("return document.documentElement.dataset.ready") != "true":
        raise RuntimeError(f"{path} did not get ready")
    driver.execute_async_script(  # the first picture was drawn
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    return time.perf_counter() - began


@contextlib.contextmanager
def chromium() -> Iterator[Chrome | None]:
    there = importlib.util.find_spec("selenium") and shutil.which("chromium")
    if not there or not shutil.which("chromedriver"):
        print("not opened: there is no selenium, chromium or chromedriver")
        yield None
        return
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
        for flag in (*flags, *quiet, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def recorded(number: int) -> float:
    """Return the seconds that taking down the three phases of one passing test takes."""
    import pytest

    found = attempts.Attempts()
    reports = [
        pytest.TestReport(
            nodeid=f"a.py::test_{index}",
            location=("a.py", 0, "test"),
            keywords={},
            outcome="passed",
            longrepr=None,
            when=when,
            start=index,
            stop=index + 1,
        )
        for index in range(number)
        for when in ("setup", "call", "teardown")
    ]
    began = time.perf_counter()
    for one in reports:
        found.add(one)
    return (time.perf_counter() - began) / number


def main() -> None:
    runs = runs_argument(__doc__, 3)
    with report("the report's page"), tempfile.TemporaryDirectory() as directory:
        reports = {name: make() for name, make in KINDS.items()}
        paths = {name: os.path.join(directory, f"{n}.html") for n, name in enumerate(KINDS)}
        ours = "5,000 tests"
        making = interleave(
            {name: partial(made, reports[name], paths[name]) for name in KINDS}, runs
        )
        table("time to make it", making, ours=ours)
        sizes: Results = {name: [float(os.path.getsize(paths[name]))] for name in KINDS}
        table("size", sizes, ours=ours, show=lambda size: f"{size / 1e6:.2f} MB")
        for name in KINDS:
            size = sizes[name][0]
            verdict(f"{name}: size", size, LARGEST, show=lambda value: f"{value / 1e6:.2f} MB")
        with chromium() as driver:
            if driver is not None:
                opening = interleave(
                    {name: partial(opened, driver, paths[name]) for name in KINDS}, runs
                )
                table("time to open it", opening, ours=ours)
                for name in KINDS:
                    verdict(f"{name}: opens in", max(opening[name]), SLOWEST)
        each = min(recorded(5000) for _ in range(runs))
        print(f"\nrecording: {ms(each)} for each test")


if __name__ == "__main__":
    main()

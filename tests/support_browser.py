"""A browser with one page of the report open, driven through Selenium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.reporting.report.data import Report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


class Browser:
    """A browser with one page open.

    Parameters
    ----------
    driver
        Selenium's.
    directory
        Where pages are written.
    """

    def __init__(self, driver: Chrome, directory: Path) -> None:
        self.driver = driver
        self._directory = directory
        self._number = 0

    def open(self, report: Report) -> None:
        """Make a page and open it."""
        from pytest_mlc_server.reporting.report import page

        self._number += 1
        path = self._directory / f"report-{self._number}.html"
        path.write_text(page.page(report, str(path)), encoding="utf-8")
        self.open_file(path)

    def open_file(self, path: Path) -> None:
        """Open a page, which must get ready without a word on the console or a request."""
        self.log("browser")
        self.log("performance")
        self.driver.get(path.as_uri())
        assert self.js("return document.documentElement.dataset.ready") == "true"
        self.check()
        assert self.requests() == [path.as_uri()]

    def check(self) -> None:
        """Fail if anything was said on the console."""
        assert self.log("browser") == []

    def log(self, kind: str) -> list[Any]:
        """Return what the browser noted since this was called last."""
        get_log: Any = self.driver.get_log
        found: list[Any] = get_log(kind)
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the browser asked for since this was called last."""
        entries = (json.loads(one["message"])["message"] for one in self.log("performance"))
        sent = (one for one in entries if one["method"] == "Network.requestWillBeSent")
        urls = [one["params"]["request"]["url"] for one in sent]
        # The browser's own first page is made of such.
        return [url for url in urls if not url.startswith(("data:", "chrome:"))]

    def js(self, code: str, *arguments: Any) -> Any:
        """Execute a script in the page."""
        return self.driver.execute_script(code, *arguments)

    def text(self, selector: str) -> list[str]:
        """Return the text of all elements that fit."""
        code = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        found: list[str] = self.js(code, selector)
        return found

    def click(self, selector: str) -> None:
        """Click an element."""
        from selenium.webdriver.common.by import By

        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def keys(self, selector: str, *keys: str) -> None:
        """Type into an element."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(*keys)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import Select

        Select(self.driver.find_element(By.CSS_SELECTOR, selector)).select_by_value(value)

    def media(self, **features: str) -> None:
        """Have the browser prefer something: ``prefers_color_scheme="dark"``."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def width(self, pixels: int, height: int = 1000) -> None:
        """Give the page so much room."""
        size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def settle(self) -> None:
        """Wait until the page has drawn what it was asked for."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

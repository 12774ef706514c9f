"""The report's page as somebody uses it: reads, sorts, filters, zooms, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support_browser import Browser
from tests.support_plugin import PLAIN
from tests.support_report import HOSTILE, made_up

pytestmark = pytest.mark.browser

#: The smallest contrast of text that has its own background, over all that the page shows.
CONTRAST = """
const channels = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const light = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
function ground(node) {
  for (let at = node; at; at = at.parentElement) {
    const colour = channels(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
}
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
  if (node.closest("svg, .names")) continue;
  const [a, b] = [luminance(channels(getComputedStyle(node).color)), luminance(ground(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const what = `${node.tagName}.${node.className}: ${node.textContent.slice(0, 40)}`;
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${what}`);
}
for (const name of document.querySelectorAll(".names span:not(.around)")) {
  const bar = document.querySelector(`#drawing path.${name.className}:not(.around)`);
  const colours = [name, bar].map((node) => luminance(channels(getComputedStyle(node).color)));
  const ratio = (Math.max(...colours) + 0.05) / (Math.min(...colours) + 0.05);
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} on the timeline: ${name.className}`);
}
return poor;
"""


def column(browser: Browser, number: int) -> list[str]:
    return browser.text(f"#rows tr > :nth-child({number})")


def view(browser: Browser) -> tuple[float, float]:
    """Return where the timeline begins, and how much of it is shown, in milliseconds."""
    browser.settle()
    x, _, width, _ = browser.js(
        "return document.getElementById('drawing').getAttribute('viewBox')"
    ).split()
    return float(x), float(width)


@pytest.mark.parametrize("number", [0, 1, 60])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, number: int, scheme: str) -> None:
    browser.media(prefers_color_scheme=scheme)
    browser.open(made_up(number, failing=0.3, hostile=True))
    if number:
        browser.click("#rows .open")
        for _ in range(3):
            browser.click("[data-zoom=in]")
            browser.settle()
            assert browser.js(CONTRAST) == []
    assert browser.js(CONTRAST) == []


@pytest.mark.parametrize("pixels", [360, 820, 1920])
def test_the_page_fits_its_window(browser: Browser, pixels: int) -> None:
    browser.width(pixels)
    browser.open(made_up(60, failing=0.2, hostile=True))
    assert browser.js("return document.documentElement.scrollWidth") <= pixels


def test_hostile_names_are_text(browser: Browser) -> None:
    report = made_up(60, hostile=True, failing=1)
    browser.open(report)
    shown = browser.text("#rows .test")
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[5]):
        assert name in shown
    assert "nul\u2400 red {{ 7 * 7 }}" in shown
    assert "lone \\udcff surrogate" in shown
    for row in range(6):
        browser.js(f"document.querySelectorAll('#rows .open')[{row}].click()")
    for entry in range(6):
        browser.js(f"document.querySelectorAll('.failure')[{entry}].open = true")
    browser.settle()
    assert browser.js("return document.querySelectorAll('main script, main img').length") == 0
    assert "report" in browser.js("return document.title")
    assert any(HOSTILE[2][:15] in text for text in browser.text(".failure pre"))


def test_columns_sort(browser: Browser) -> None:
    browser.open(made_up(60))
    sort = "return [...document.querySelectorAll('#columns th')].map((e) => e.ariaSort)"
    assert browser.js(sort)[4] == "descending"  # the longest first

    browser.click("[data-key=requests] button")
    down = [int(text.strip("* ")) for text in column(browser, 6) if text != "\u2013"]
    assert down == sorted(down, reverse=True)
    assert column(browser, 6)[-1] == "\u2013"  # skipped tests asked nothing
    browser.keys("[data-key=requests] button", "\n")
    up = [int(text.strip("* ")) for text in column(browser, 6) if text != "\u2013"]
    assert up == sorted(down)
    assert column(browser, 6)[-1] == "\u2013"
    assert [one for one in browser.js(sort) if one != "none"] == ["ascending"]

    browser.click("[data-key=name] button")
    files = browser.text("#rows .file")
    assert files == sorted(files)
    browser.click("[data-key=worker] button")
    assert column(browser, 3) == ["gw0"] * 30 + ["gw1"] * 30


def test_filters(browser: Browser) -> None:
    browser.open(made_up(60, failing=0.2))
    whole = browser.text("#shown")
    browser.keys("#filter-text", "CHAT stops")
    files, names = browser.text("#rows .file"), browser.text("#rows .test")
    assert 0 < len(names) < 60
    assert all("chat" in file for file in files)
    assert all("stops" in name for name in names)
    assert browser.text("#shown") == [f"{len(names)} of 60 tests"]
    browser.keys("#filter-text", " and-nothing")
    assert browser.text("#rows tr") == ["No test fits."]
    browser.js("document.getElementById('filter-text').value = ''")
    browser.click("#filter-outcomes .failed")
    assert browser.js(CONTRAST) == []
    assert set(browser.text("#rows .outcome span:last-child")) == {"failed"}
    browser.click("#filter-outcomes .failed")
    assert browser.text("#shown") == whole
    browser.choose("#filter-worker", "gw1")
    assert set(column(browser, 3)) == {"gw1"}
    browser.choose("#filter-worker", "")
    browser.choose("#filter-server", "1")
    assert set(column(browser, 4)) == {"Qwen2.5-0.5B-Instruct-q4f16_1"}


def test_colours_follow_the_system_until_somebody_chooses(browser: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.media(prefers_color_scheme="light")
    browser.open(made_up(3))
    light = browser.js(ground)
    browser.media(prefers_color_scheme="dark")
    dark = browser.js(ground)
    assert light != dark
    browser.click("[data-theme=light]")
    assert browser.js(ground) == light
    browser.click("[data-theme=dark]")
    browser.media(prefers_color_scheme="light")
    assert browser.js(ground) == dark
    browser.driver.refresh()
    assert browser.js(ground) == dark
    browser.click("button[data-theme='']")
    assert browser.js(ground) == light
    assert (
        browser.js("return document.querySelector('button[data-theme=\"\"]').ariaPressed") == "true"
    )


def wheel(browser: Browser, *, delta: int, ctrl: bool) -> None:
    code = """
        const how = {deltaY: arguments[0], ctrlKey: arguments[1], bubbles: true, cancelable: true};
        document.getElementById("plot").dispatchEvent(new WheelEvent("wheel", how));
        """
    browser.js(code, delta, ctrl)


def test_the_timeline_zooms_and_moves(browser: Browser) -> None:
    browser.open(made_up(60))
    start, whole = view(browser)
    assert start == 0
    browser.click("[data-zoom=in]")
    start, half = view(browser)
    assert half == pytest.approx(whole / 2)
    assert start == pytest.approx(whole / 4)
    browser.click("[data-zoom=right]")
    assert view(browser)[0] > start
    browser.keys("#lanes", "+", "+")
    assert view(browser)[1] == pytest.approx(whole / 8)
    browser.keys("#lanes", "0")
    assert view(browser) == pytest.approx((0, whole))
    wheel(browser, delta=-100, ctrl=False)  # scrolls the page
    assert view(browser)[1] == pytest.approx(whole)
    wheel(browser, delta=-100, ctrl=True)
    assert view(browser)[1] < whole * 0.7
    browser.click("[data-zoom=fit]")
    for _ in range(30):
        browser.keys("#lanes", "+")
    assert view(browser)[1] > 0
    browser.keys("#lanes", "-", "-")


def test_dragging_moves_the_timeline_and_a_click_shows_the_test(browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    browser.open(made_up(20, workers=1))
    plot = browser.driver.find_element(By.ID, "plot")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", plot)
    browser.click("[data-zoom=in]")
    start, width = view(browser)
    actions = ActionChains(browser.driver)
    actions.move_to_element_with_offset(plot, 100, 20).click_and_hold()
    actions.move_by_offset(-80, 0).move_by_offset(-80, 0).release().perform()
    moved = view(browser)
    assert moved[0] > start
    assert moved[1] == pytest.approx(width)
    assert browser.text("#rows .expanded") == []

    browser.click("[data-zoom=fit]")
    view(browser)
    lane = browser.js(
        "return JSON.parse(document.getElementById('data').textContent).lanes.at(-1).y"
    )
    height = plot.size["height"]
    at = ActionChains(browser.driver)
    at.move_to_element_with_offset(plot, 60, int(26 + lane + 10 - height / 2)).perform()
    (tip,) = browser.text("#tip:not([hidden])")
    assert "test_" in tip
    at.click().perform()
    browser.settle()
    (row,) = browser.text("#rows tr:has(+ .expanded) .test")
    assert row in tip
    assert browser.js("return document.activeElement.textContent").startswith(row)


def test_failures_show_their_logs_requests_and_traces(browser: Browser) -> None:
    browser.open(made_up(60, failing=0.5))
    browser.click(".failure summary")
    browser.settle()
    entry = ".failure[open]"
    assert any("request" in text or "engine.cc" in text for text in browser.text(f"{entry} pre"))
    assert browser.text(f"{entry} pre .e")[0].endswith('AssertionError: assert "Lyon" == "Paris"')
    assert browser.text(f"{entry} .why") == ['AssertionError: assert "Lyon" == "Paris"']
    code = "return [...document.querySelectorAll('.failure[open] a')].map((e) => e.href)"
    links = browser.js(code)
    assert all(link.endswith("a%20trace.json") for link in links)
    _, whole = view(browser)
    browser.click(f"{entry} .links button")
    assert view(browser)[1] < whole / 5
    assert browser.js("return document.getElementById('found').getAttribute('width')") != "0"


def test_paper_has_every_failure(browser: Browser, tmp_path: Path) -> None:
    browser.open(made_up(30, failing=0.3))
    hidden = "return [...document.querySelectorAll('.failure')].filter((e) => !e.open).length"
    assert browser.js(hidden) > 0
    printed: Any = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 10_000
    assert browser.js(hidden) == 0


def test_five_thousand_tests_can_be_used(browser: Browser) -> None:
    browser.open(made_up(5000, workers=8, failing=0.1))
    assert browser.text("#shown") == ["5\u202f000 tests"]
    assert len(browser.text("#rows tr")) == 150
    browser.click("#further")
    assert len(browser.text("#rows tr")) == 300
    browser.click("[data-key=name] button")
    browser.keys("#filter-text", "[4999-")
    assert len(browser.text("#rows tr")) == 1
    browser.click("#rows .open")
    assert browser.text("#rows .expanded")
    for _ in range(12):
        browser.keys("#lanes", "+")
    browser.settle()
    assert any("test_" in name for name in browser.text(".names span"))


def test_the_page_of_a_real_run(browser: Browser, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_answers(mlc_server): mlc_server.chat("one", max_tokens=3)
        def test_fails(mlc_server): assert mlc_server.chat("two", max_tokens=3) == "</script>"
        """
    )
    run = (*PLAIN, "--mlc-engine=sim", "--mlc-log-dir=logs", "--mlc-report=a.html")
    result = pytester.runpytest_inprocess(*run)
    result.assert_outcomes(passed=1, failed=1)
    browser.open_file(pytester.path / "a.html")
    assert browser.text("h1") == ["1 of 2 tests went wrong"]
    assert len(browser.text(".servers tbody")) == 1
    assert any("POST /v1/chat/completions" in text for text in browser.text(".failure pre"))


def test_a_page_without_tests_works(browser: Browser) -> None:
    browser.open(made_up(0, workers=0))
    assert browser.text("#rows tr") == ["No tests ran."]
    browser.click("[data-theme=dark]")


def test_a_page_of_tests_without_a_server_has_no_columns_of_cost(browser: Browser) -> None:
    report = made_up(5, workers=0, failing=1)
    report["servers"] = []
    for test in report["tests"]:
        test.update({"cost": None, "requests": [], "durations": {"setup": 0.1}})
    browser.open(report)
    assert browser.text("#columns th") == ["Outcome", "Test", "Duration"]
    browser.click(".failure summary")
    browser.settle()
    assert browser.text(".failure[open] dt") == ["outcome", "setup"]

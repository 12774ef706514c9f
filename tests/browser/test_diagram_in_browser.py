"""The diagram of the architecture can be read in a browser, in light and in dark."""

from __future__ import annotations

import pytest

from tests.support_browser import Browser
from tests.support_docs import ROOT

pytestmark = pytest.mark.browser

DIAGRAM = ROOT / "docs" / "explanation" / "architecture.svg"

#: What is wrong with its texts: outside of the page, upon each other, beyond their box, too faint.
#: A text's ground is the last filled rectangle of the document that it lies in.
FAULTS = """
const light = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (node) => {
  const [r, g, b] = getComputedStyle(node).fill.match(/[\\d.]+/g).map((v) => light(Number(v)));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const box = (node) => node.getBoundingClientRect();
const within = (a, b) =>
  a.left >= b.left && a.right <= b.right && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
const touch = (a, b) =>
  a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
const filled = [...document.querySelectorAll("rect")].filter(
  (node) => getComputedStyle(node).fill !== "none");
const texts = [...document.querySelectorAll("text")];
const found = [];
for (const [n, text] of texts.entries()) {
  const here = box(text);
  const ground = filled.filter((node) => within(here, box(node))).pop();
  if (!ground) { found.push(`${text.textContent}: outside`); continue; }
  for (const node of filled)
    if (touch(here, box(node)) && !within(here, box(node)))
      found.push(`${text.textContent}: over an edge`);
  for (const other of texts.slice(n + 1))
    if (touch(here, box(other))) found.push(`${text.textContent}: upon ${other.textContent}`);
  const [a, b] = [luminance(text), luminance(ground)].sort((x, y) => y - x);
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < 4.5) found.push(`${text.textContent}: contrast ${contrast.toFixed(1)}`);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, scheme: str) -> None:
    browser.media(prefers_color_scheme=scheme)
    browser.width(900, 620)
    browser.driver.get(DIAGRAM.as_uri())
    assert len(browser.text("text")) > 30
    assert browser.js(FAULTS) == []


def test_its_colours_follow_the_system(browser: Browser) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        browser.media(prefers_color_scheme=scheme)
        browser.driver.get(DIAGRAM.as_uri())
        grounds.append(browser.js("return getComputedStyle(document.querySelector('.page')).fill"))
    assert grounds[0] != grounds[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("text.textContent = 'x'.repeat(60)", "over an edge"),
        ("text.setAttribute('x', -500)", "outside"),
        ("text.style.fill = '#eef6fb'", "contrast"),
    ],
)
def test_a_text_that_cannot_be_read_is_found(browser: Browser, change: str, told: str) -> None:
    browser.media(prefers_color_scheme="light")
    browser.driver.get(DIAGRAM.as_uri())
    find = (
        "const text = [...document.querySelectorAll('text')].find(t => t.textContent == 'keeper');"
    )
    browser.js(f"{find} {change}")
    assert any(told in fault for fault in browser.js(FAULTS))

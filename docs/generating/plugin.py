"""The pages of fixtures, markers and hooks, from the plugin."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docs.generating.docstrings import WRITTEN, functions, prose
from pytest_mlc_server import plugin

PLUGIN = Path(plugin.__file__)
PACKAGE = PLUGIN.parent

FIXTURES_HEAD = """\
# Fixtures

{written}
A fixture that is not asked for costs nothing. Override one in a `conftest.py` to change what the
others get: [hooks](hooks.md) says which.
"""


#: Pages of what fixtures are.
TYPES = {
    "MLCSim": "mlc_sim.md",
    "MLCUsage": "api/usage.md",
    "PopenServer": "api/server.md",
    "ServerConfig": "api/config.md",
    "ServerFactory": "api/factories.md",
}


def fixtures_page() -> str:
    """Return the page of the fixtures."""
    text = FIXTURES_HEAD.format(written=WRITTEN.format("pytest_mlc_server/plugin.py"))
    for function in functions(PLUGIN):
        scope = _fixture_scope(function)
        if scope and not function.name.startswith("_"):
            returned = ast.unparse(function.returns) if function.returns else "None"
            returned = re.sub(r"^(Iterator|Generator)\[([\w.]+).*\]$", r"\2", returned)
            page = TYPES.get(returned)
            kind = f"[`{returned}`]({page})" if page else f"`{returned}`"
            text += f"\n## `{function.name}`\n\nScope `{scope}`; {kind}.\n\n"
            text += prose(ast.get_docstring(function) or "")
    return text


def _fixture_scope(function: ast.FunctionDef) -> str:
    for decorator in function.decorator_list:
        if "pytest.fixture" in (text := ast.unparse(decorator)):
            found = re.search(r"scope='(\w+)'", text)
            return found[1] if found else "function"
    return ""


MARKERS_HEAD = """\
# Markers

{written}
They are registered, so `--strict-markers` knows them, and `pytest --markers` shows them.
"""


def markers_page() -> str:
    """Return the page of the markers."""
    text = MARKERS_HEAD.format(written=WRITTEN.format("pytest_mlc_server/plugin.py"))
    for marker in (plugin.MARKER, plugin.BUDGET_MARKER):
        signature, _, meaning = marker.partition(": ")
        text += f"\n## `{signature.partition('(')[0]}`\n\n`@pytest.mark.{signature}`\n\n"
        text += f"{meaning[0].upper()}{meaning[1:]}.\n\n{MARKER_NOTES[signature.partition('(')[0]]}"
    return text


MARKER_NOTES = {
    "mlc_engine": """\
- The skip names the engine of the run and the setting that chose it, and comes before a server is
  started for the test.
- `external` is a server that `--mlc-url` names. On a host whose workers attach to an advertised
  server it is the engine that serves that counts.
- An engine that there is not, or no engine at all, ends the run before its first test; under
  pytest-xdist the test itself fails.
""",
    "mlc_budget": """\
- A budget is a number of 0 or more: tokens of prompt and completion, seconds of the test's call,
  seconds to the first token. Anything else ends the run before its first test.
- The nearest marker counts whole: what it does not name has no limit.
- [What a test costs](../how-to/cost-per-test.md) says which requests are the test's.
""",
}


HOOKS_HEAD = """\
# Hooks, and how to hook in

{written}
The plugin defines no hooks of its own. What there is to adapt are fixtures and settings:

| to | do |
|---|---|
{ways}
Settings, fixtures, markers, the names in `pytest_mlc_server.__all__`,
`pytest_mlc_server.factories`, the names of report sections and properties, and exit codes are what
you may rely on. Modules that no page of this reference names are not.

## Hooks that the plugin implements

In every run with the plugin installed:

| hook | what it does there |
|---|---|
"""

WAYS = {
    "change the server of the whole session": "override "
    "[`mlc_server_config`](fixtures.md#mlc_server_config) in a `conftest.py` and return "
    "`mlc_server_config.replace(...)`",
    "have a second server beside it": "make a fixture with "
    "[`factories.mlc_server(...)`](api/factories.md), or call "
    "[`mlc_server_factory`](fixtures.md#mlc_server_factory)",
    "run a test with models of its own": '`@pytest.mark.parametrize("mlc_server", [...], '
    "indirect=True)` ([how](../how-to/several-models.md))",
    "do something with the ready server before the first test": "write a session fixture that "
    "takes `mlc_server`; or override `mlc_server`, and `yield` what the overridden one gives",
    "give an application the server's address in another variable": "write a fixture that takes "
    "`mlc_server` and `monkeypatch`; [`server.env()`](api/server.md) has what `mlc_environ` sets",
    "read what a test cost": "the JUnit properties, or [`mlc_usage`](fixtures.md#mlc_usage)",
    "switch the plugin off": "`-p no:mlc_server`",
}

HOOKS_LATER = """
## Registered with the first server

A run without a setting and without a server has none of these; one with it has what it needs.

| module | hooks | what for |
|---|---|---|
"""


def hooks_page() -> str:
    """Return the page of the hooks."""
    ways = "".join(f"| {to} | {do} |\n" for to, do in WAYS.items())
    text = HOOKS_HEAD.format(written=WRITTEN.format("pytest_mlc_server"), ways=ways)
    for function in functions(PLUGIN):
        if function.name.startswith("pytest_"):
            first = (ast.get_docstring(function) or "").splitlines()[0]
            text += f"| `{function.name}` | {first.replace('``', '`')} |\n"
    text += HOOKS_LATER
    for path in sorted(PACKAGE.rglob("*.py")):
        hooks = sorted({f.name for f in functions(path) if _is_hook(f)})
        if hooks and path != PLUGIN and "doctor" not in path.parts:
            module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
            what = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0]
            names = "<br>".join(f"`{hook}`" for hook in hooks)
            text += f"| `{module}` | {names} | {' '.join(what.split())} |\n"
    return text


def _is_hook(function: ast.FunctionDef) -> bool:
    return function.name.startswith("pytest_") and [a.arg for a in function.args.args][:1] == [
        "self"
    ]

"""The page of the extras, from pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docs.generating.docstrings import WRITTEN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

HEAD = """\
# Extras

{written}
`pip install 'pytest-mlc-server[sim,openai]'` installs the package and what the named extras need.
Without any, it needs {needs}, and serves with the engines `mlc` and
`mock`, which need MLC LLM, and `external`.

| extra | for | installs |
|---|---|---|
"""

#: What a user installs an extra for.
USES = {
    "sim": "the engine `sim`: [the simulator](simulator.md)",
    "openai": "the fixtures `mlc_client` and `mlc_async_client` ([clients](../how-to/clients.md))",
    "xdist": "[pytest-xdist](../how-to/share-one-server.md) in a version that is tested",
    "report": "the page of `--mlc-report report.html` ([a report](../how-to/report.md)); its data "
    "need nothing",
    "gpu": "what NVIDIA's driver tells of GPUs and of their memory "
    "([several GPUs](../how-to/multi-gpu.md))",
    "tvm": "`tvm.runtime.Device` as a `device`",
    "mlc": "MLC LLM itself, from "
    "[its own wheel index](../../README.md#against-a-real-model), which has to be named",
}

#: Those for work on the package itself.
OWN = ("browser", "compat", "dev", "docs", "test", "thirdparty")


def page() -> str:
    """Return the page of the extras."""
    project: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    if unknown := set(extras) - set(USES) - set(OWN):
        raise SystemExit(f"docs/generate.py: say what these extras are for: {sorted(unknown)}")
    needs = [_name(requirement) for requirement in project["dependencies"]]
    listed = f"{', '.join(needs[:-1])} and {needs[-1]}"
    text = HEAD.format(written=WRITTEN.format("pyproject.toml"), needs=listed)
    for extra, use in USES.items():
        installs = ", ".join(_name(requirement) for requirement in extras[extra])
        text += f"| `{extra}` | {use} | {installs} |\n"
    return text


def _name(requirement: str) -> str:
    return f"`{re.split('[<>=!;[ ]', requirement)[0]}`"

"""Write the pages that come from the code: ``python docs/generate.py``; ``--check`` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_mlc_server.options import SETTINGS, Setting

SETTINGS_PAGE = Path(__file__).parent / "reference" / "settings.md"

HEAD = """\
# Settings

<!-- Written by docs/generate.py from pytest_mlc_server/options.py. -->

Each setting is a CLI flag, an ini key and an environment variable. The command line (`addopts`
included) wins over the environment, the environment over the ini file, that over the default.

- A higher source replaces a repeatable setting whole. In the environment, the values of a
  repeatable setting are separated by newlines; in an ini file each stands on a line of its own.
- An empty environment variable counts as not set.
- Relative paths start, on the command line and in the environment, where pytest was called; in an
  ini file, at that file. `HF://org/name` is left alone.
- A yes-or-no setting has a second flag that switches it off: `--mlc-no-debug`.
- `MLC_SERVE_MODEL_LIB`, which upstream's tests read, gives the model (its directory) and the
  library as a pair when neither is set anywhere.
- Wrong syntax ends the run at its start with pytest's exit code 4. What needs other settings or the
  file system is reported when the configuration is first used, before anything is started.

| flag | ini key | environment | default | what it is |
|---|---|---|---|---|
"""


def settings_page() -> str:
    """Return the page of the settings."""
    return HEAD + "".join(_row(setting) for setting in SETTINGS)


def _row(setting: Setting) -> str:
    flag = setting.flag
    if setting.kind == "flag":
        flag += f"`, `--mlc-no-{setting.name}"
    default = setting.default
    if default in (None, ()):
        shown = ""
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    text = setting.help
    if setting.choices:
        text += ": " + ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.repeatable:
        text += " (repeatable)"
    return f"| `{flag}` | `{setting.key}` | `{setting.variable}` | {shown} | {text} |\n"


def main() -> int:
    """Write the pages, or say which are out of date."""
    text = settings_page()
    if "--check" not in sys.argv:
        SETTINGS_PAGE.write_text(text, encoding="utf-8")
        return 0
    if SETTINGS_PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{SETTINGS_PAGE.name} is out of date: run python docs/generate.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The page of the settings, from their table."""

from __future__ import annotations

from docs.generating.docstrings import WRITTEN
from pytest_mlc_server import errors
from pytest_mlc_server.options import SETTINGS, Given, Setting
from pytest_mlc_server.reading import read_session
from pytest_mlc_server.runner import checked

HEAD = """\
# Settings

{written}
Each setting is a command-line flag, an ini key and an environment variable; the three names stand
below each other. The command line (`addopts` included) wins over the environment, the environment
over the ini file, that over the default.

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
"""

#: What a reader looks for, and the settings that are about it.
GROUPS = {
    "What serves": "engine url model model-lib additional-model embedding-model "
    "embedding-model-lib python sim-script",
    "Devices": "device devices share-devices",
    "The engine": "mode overrides speculative-mode prefix-cache-mode prefill-mode",
    "The server": "host port api-key debug tracing arg env",
    "Starting and stopping": "launch ready start startup-timeout startup-limit stop-timeout "
    "restarts reset",
    "Who shares it, and for how long": "scope advertise reuse warm max-servers",
    "What a run shows and keeps": "log-dir log-live usage durations trace output report",
    "What a run demands": "unavailable require",
}

#: A wrong value of each kind of setting; the page says what it is told.
WRONG = (
    ("engine", "vllm"),
    ("device", "gpu:0"),
    ("devices", "0,one"),
    ("port", "70000"),
    ("startup-timeout", "soon"),
    ("max-servers", "0"),
    ("debug", "maybe"),
    ("overrides", "max_num_sequences=4"),
    ("env", "CUDA_VISIBLE_DEVICES"),
    ("advertise", "http://gpu-1.lan"),
    ("report", "report.pdf"),
)


def page() -> str:
    """Return the page of the settings."""
    rows = {setting.name: setting for setting in SETTINGS}
    text = HEAD.format(written=WRITTEN.format("pytest_mlc_server/options.py"))
    for title, names in GROUPS.items():
        text += f"\n## {title}\n\n| setting | default | what it is |\n|---|---|---|\n"
        text += "".join(_row(rows.pop(name)) for name in names.split())
    if rows:
        raise SystemExit(f"docs/generate.py: give these settings a group: {', '.join(rows)}")
    text += "\n## What wrong values are told\n\n| setting | error |\n|---|---|\n"
    return text + "".join(_wrong(name, value) for name, value in WRONG)


def _row(setting: Setting) -> str:
    flags = [setting.flag, *([f"--mlc-no-{setting.name}"] if setting.kind == "flag" else [])]
    names = "<br>".join(f"`{name}`" for name in (*flags, setting.key, setting.variable))
    default = setting.default
    if default in (None, ()):
        shown = ""
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
    text = setting.help
    if setting.choices:
        text += ": " + ", ".join(f"`{choice}`" for choice in setting.choices)
    text += " (repeatable)" if setting.repeatable else ""
    return f"| {names} | {shown} | {text} |\n"


def _wrong(name: str, value: str) -> str:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    raw = [value] if setting.repeatable else value
    given = Given(setting, raw, f"{setting.flag} on the command line", "/home/me/project")
    try:
        checked({name: given}) if setting.field else read_session(given)
    except errors.ConfigError as error:
        lines = str(error).splitlines()
        return (
            f"| `{setting.flag} {value}` | `{next(x for x in lines if name in x).strip(' -')}` |\n"
        )
    raise SystemExit(f"docs/generate.py: {setting.flag} {value} is no mistake any more")

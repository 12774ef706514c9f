"""``python -m pytest_mlc_server doctor``."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from pytest_mlc_server import masking, options, runner, runtime
from pytest_mlc_server.doctor import data, settings, text
from pytest_mlc_server.doctor.examination import Examination
from pytest_mlc_server.doctor.findings import Diagnosis
from pytest_mlc_server.doctor.programs import Programs

#: Exit code: a run would fail.
FAILS = 1

#: How long a program may take that is asked, in seconds: importing TVM from a cold disk, say.
LIMIT = 60.0

#: Arguments without which pytest-xdist or this plugin is missing: that is a finding.
_FOUND = re.compile(r"-n(\d+|auto|logical)?|--numprocesses(=.*)?|--mlc-.*", re.DOTALL)

_DESCRIPTION = """\
Say what a run of pytest with these settings would find, before anything is started: the settings
and where they come from, the interpreter, mlc_llm, tvm, devices, memory, the model, its library,
caches, ports, servers that are there already, and the server's command line. For each problem,
what to do. Nothing is started, downloaded or written.

Settings come from flags, from the environment (PYTEST_MLC_MODEL, ...) and from the ini file that
pytest reads here. Give it what you give pytest: other arguments of pytest and of its plugins (-c,
--rootdir, -o, -n, -p, paths of tests) count as they do there."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_mlc_server doctor",
        usage="%(prog)s [--json] [--limit SECONDS] [arguments of pytest]",
        description=_DESCRIPTION,
        epilog="Exit code: 0, or 1 if there is a problem; 2 for wrong use.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--limit",
        type=_seconds,
        default=LIMIT,
        metavar="SECONDS",
        help="how long each check may take (default: %(default)g)",
    )
    options.add_arguments(parser, session=True)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value


def main(argv: Sequence[str]) -> int:
    """Examine, and print what was found.

    Parameters
    ----------
    argv
        Arguments of pytest, ``--json`` and ``--limit``.

    Returns
    -------
    int
        0; 1 if there is a problem, 2 for wrong use.
    """
    parser = _parser()
    parsed, _ = parser.parse_known_args(argv)
    runner.stop_on_signals()
    programs = Programs(parsed.limit)
    try:
        with runtime.only_looking():
            asked = settings.ask(_of_pytest(argv), parsed, programs)
            # Workers without pytest-xdist, and settings without the plugin, are findings.
            unknown = [word for word in asked.unknown if not _FOUND.fullmatch(word)]
            if unknown and not asked.error:
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            diagnosis = Examination(asked, programs).diagnose()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        programs.close()
    return _show(diagnosis, _secrets(asked), as_json=parsed.json)


def _of_pytest(argv: Sequence[str]) -> list[str]:
    """Return the arguments without those of this command."""
    result: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--limit":
            next(words, None)
        elif word != "--json" and not word.startswith("--limit="):
            result.append(word)
    return result


def _secrets(asked: settings.Settings) -> list[str]:
    """Return what must not be shown: keys, and values of variables that are named like secrets."""
    key = asked.given.get("api-key")
    pairs = asked.given.get("env")
    lines = pairs.raw if pairs is not None and isinstance(pairs.raw, (list, tuple)) else ()
    env = dict(str(pair).partition("=")[::2] for pair in lines)
    api_key = str(key.raw) if key is not None and key.raw != "auto" else None
    return masking.secrets_of(api_key, env)


def _show(diagnosis: Diagnosis, secrets: Sequence[str], *, as_json: bool) -> int:
    stream: TextIO | None = sys.stdout
    if stream is None:  # nobody is to read it: the exit code says enough
        return 0 if diagnosis.healthy else FAILS
    try:
        if as_json:
            stream.write(data.text(diagnosis, secrets) + "\n")
        else:
            page = text.page_for(stream, secrets)
            stream.writelines(f"{line}\n" for line in page.lines(diagnosis))
        stream.flush()
    except BrokenPipeError:
        # `doctor | head -1` has read enough, and the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        sys.stderr.write(f"error: cannot write the result: {error.strerror}\n")
        return FAILS
    return 0 if diagnosis.healthy else FAILS

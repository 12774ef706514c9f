"""Bringing a report to its file: checked before the run, and never lost at its end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence

from pytest_mlc_server.errors import ConfigError


def check(paths: Sequence[str], setting: str) -> None:
    """Check that there can be a report, before the run costs anything.

    Parameters
    ----------
    paths
        Where reports are to be: absolute paths.
    setting
        The setting as it was written and where, for the error.

    Raises
    ------
    ConfigError
        If there cannot.
    """
    for path in paths:
        problem = _problem(path)
        if problem:
            raise ConfigError(f"{setting}: there can be no report {path}: {problem}")


def _problem(path: str) -> str:
    if path.endswith(".html") and importlib.util.find_spec("jinja2") is None:
        return (
            "a page is made with Jinja2, which is not installed: "
            "pip install 'pytest-mlc-server[report]'; a report that ends in .json needs nothing"
        )
    if os.path.isdir(path):
        return "it is a directory; give the file, for example " + os.path.join(path, "report.html")
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        return f"{above} is no directory"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"nothing can be written in {above}"
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return "this file cannot be overwritten"
    return ""


def write(path: str, text: str) -> None:
    """Write a file whole or not at all; make its directory.

    Raises
    ------
    OSError
        If that cannot be done. What was at the path before is there still.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    # Beside it, so that the last step is a renaming: nobody ever sees half of a report.
    beside = os.path.join(directory, f".{os.path.basename(path)[-200:]}.{os.getpid()}.part")
    try:
        with open(beside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def write_elsewhere(path: str, text: str) -> str:
    """Write a report under the system's directory for temporary files, and return where it is.

    Raises
    ------
    OSError
        If that cannot be done either.
    """
    directory = tempfile.mkdtemp(prefix="pytest-mlc-report-")
    elsewhere = os.path.join(directory, os.path.basename(path))
    try:
        write(elsewhere, text)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        raise
    return elsewhere

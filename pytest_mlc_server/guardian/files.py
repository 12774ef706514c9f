"""Files that a guardian leaves, and those that it removes."""

from __future__ import annotations

import os
import shutil

from pytest_mlc_server import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write(path: str, message: dict[str, Any]) -> None:
    """Write a message so that whoever finds the file finds all of it."""
    import json

    try:
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(message, file)
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError:
        pass  # who comes later tries again: that costs time, not truth


def remove_words(log: str) -> None:
    """Remove the guardian's own log if there is nothing in it."""
    words = logs.words_path(log)
    if logs.size(words) == 0:
        remove([words])


def remove(paths: list[str]) -> None:
    """Remove files that may be gone."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            pass


def remove_run(directory: str) -> None:
    """Remove the directory of a run that is over, after its last server."""
    try:
        doors = [name for name in os.listdir(directory) if name.endswith(".door")]
    except OSError:
        return
    if not doors:
        shutil.rmtree(directory, ignore_errors=True)

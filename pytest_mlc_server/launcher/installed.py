"""Whether what this process has imported is still what is installed."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: What an installation adds or removes in a directory of packages.
_MARKS = (".dist-info", ".egg-info", ".egg-link", ".pth")


class Installed:
    """What is installed now: the imported modules' files, and the directories of packages.

    Parameters
    ----------
    since
        When the imports began, in seconds since 1970.
    """

    def __init__(self, since: float) -> None:
        self._files = {path: _stamp(path) for path in _imported()}
        self._places = {place: _listing(place) for place in sys.path if os.path.isdir(place)}
        now = time.time()
        #: Who knows which of the two was imported?
        self._torn = next(
            (path for path, one in self._files.items() if one and since < one[0] / 1e9 <= now), ""
        )

    def change(self) -> str:
        """Return what has changed since; empty if nothing has."""
        if self._torn:
            return f"{self._torn} was written while it was imported"
        for place, listing in self._places.items():
            found = _listing(place)
            if found != listing:
                return f"{_first(found, listing)} in {place} has changed since it was imported"
        for path, stamp in self._files.items():
            if _stamp(path) != stamp:
                return f"{path} has changed since it was imported"
        return ""


def taken_elsewhere(directory: str) -> str:
    """Return which module a process would import from elsewhere if it ran in a directory.

    ``python -m`` looks there first. A file of the name of an imported module is no accident that
    could be passed over.

    Parameters
    ----------
    directory
        Of the server that is to be forked.
    """
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return ""
    here = os.getcwd()
    if here != directory and here not in sys.path[1:]:
        for path in _imported():
            if path.startswith(os.path.join(here, "")) and _inside(path, here):
                return f"{path} is not there for a process that begins in {directory}"
    for entry in os.listdir(directory):
        name, _, suffix = entry.partition(".")
        path = os.path.join(directory, entry)
        if name == "__main__" or name not in sys.modules or not _importable(path, suffix):
            continue
        taken = getattr(sys.modules[name], "__file__", None)
        if isinstance(taken, str) and not os.path.abspath(taken).startswith(path):
            return f"{path} would be imported instead of {taken}"
    return ""


def _inside(path: str, here: str) -> bool:
    """Tell whether a module was found in the current directory, not in a place below it."""
    below = (place for place in sys.path[1:] if place.startswith(os.path.join(here, "")))
    return not path.startswith((*(os.path.join(place, "") for place in below), *_BASES))


#: Where Python itself is; an environment may lie below the directory of a project.
_BASES = (os.path.join(sys.prefix, ""), os.path.join(sys.base_prefix, ""))


def _importable(path: str, suffix: str) -> bool:
    if not suffix:
        return os.path.exists(os.path.join(path, "__init__.py"))
    return suffix in ("py", "pyc") or suffix.endswith("so")


def _imported() -> Iterator[str]:
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            yield os.path.abspath(path)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _listing(place: str) -> dict[str, tuple[int, int] | None]:
    """Return what was installed where: versions are in the names, and a path file is short."""
    try:
        names = [name for name in os.listdir(place) if name.endswith(_MARKS)]
    except OSError:
        return {}
    paths = {name: os.path.join(place, name) for name in names}
    return {name: _stamp(path) if name.endswith(".pth") else None for name, path in paths.items()}


def _first(one: dict[str, tuple[int, int] | None], other: dict[str, tuple[int, int] | None]) -> str:
    return next(
        name
        for name in sorted({*one, *other})
        if (name in one, one.get(name)) != (name in other, other.get(name))
    )

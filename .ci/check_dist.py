"""Look at what is in the distributions of a directory: ``python .ci/check_dist.py dist``."""

from __future__ import annotations

import email
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What an sdist must have beside the package: its tests must run from it.
SOURCES = (
    *("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "conftest.py", "noxfile.py"),
    *("CONTRIBUTING.md", "SECURITY.md", ".ci/run", "docs/index.md", "docs/conf.py"),
    *("tests/conftest.py", "tests/data/openapi-debug.json", "tests/standin/mlc_llm/__main__.py"),
    *("tests/oldest_versions.txt", "examples/pytest.ini"),
)

#: What a wheel must have beside the package's files.
METADATA = ("entry_points.txt", "licenses/LICENSE", "METADATA", "RECORD", "WHEEL")


def package_files() -> set[str]:
    """Return the package's files as the checkout has them: those of git, or all but caches."""
    found = ROOT.glob("pytest_mlc_server/**/*")
    files = {path for path in found if path.is_file() and "__pycache__" not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}


def problems_of_wheel(path: Path) -> list[str]:
    """Return what is missing from a wheel, and what does not belong there."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        home = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(home))
    info = home.rpartition("/")[0]
    expected = package_files() | {f"{info}/{name}" for name in METADATA}
    found = [f"{path.name} lacks {name}" for name in sorted(expected - names)]
    found += [f"{path.name} has {name}" for name in sorted(names - expected)]
    found += [
        f"{path.name}: no {name}"
        for name in ("Requires-Python", "License-Expression")
        if name not in metadata
    ]
    if metadata["Description-Content-Type"] != "text/markdown":
        found.append(f"{path.name}: its description is not README.md")
    return found


def problems_of_sdist(path: Path) -> list[str]:
    """Return what is missing from an sdist, and what does not belong there."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {*SOURCES, *package_files()}
    found = [f"{path.name} lacks {name}" for name in sorted(expected - names)]
    strange = ("__pycache__", ".pyc", "_build/", ".nox/", ".venv/", ".coverage")
    return found + [f"{path.name} has {n}" for n in sorted(names) if any(s in n for s in strange)]


def main() -> int:
    """Print the problems; return how many there are."""
    directory = Path(sys.argv[1])
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    found = problems_of_wheel(wheel) + problems_of_sdist(sdist)
    print("\n".join(found) or f"{wheel.name} and {sdist.name} have what they must")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())

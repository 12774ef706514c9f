"""The project's checks by name. `nox -l` lists them; `.ci/run` runs them after the README's own.

A session that cannot run here (no such Python, no Chromium) is skipped with a word.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "docs", "oldest", "newest"]
nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "virtualenv"

#: Every Python that is supported, with the oldest pytest that knows it.
OLDEST_PYTEST = {"3.10": "8.0", "3.11": "8.0", "3.12": "8.0", "3.13": "8.2", "3.14": "8.4"}

#: The suite is made for two cores.
WORKERS = ("-n", "2")


@functools.cache
def _is(python: Path, version: str) -> bool:
    """Tell whether a program is the Python of that version: a shim need not work."""
    if not python.exists():
        return False
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    ended = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    return ended.stdout.strip() == version


def pythons() -> dict[str, Path]:
    """Return the supported Pythons of this machine, the oldest first: pyenv's, the path's, ours."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    homes = sorted(root.glob("versions/3.*/bin"), key=lambda home: _numbers(home.parent.name))
    places = [*reversed(homes), *map(Path, os.get_exec_path())]
    found = {}
    for version in OLDEST_PYTEST:
        candidates = [Path(sys.executable), *(place / f"python{version}" for place in places)]
        for python in candidates:
            if _is(python, version):
                found[version] = python
                break
    return found


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


HERE = pythons()
OLDEST, NEWEST = (next(iter(HERE)), [*HERE][-1]) if HERE else ("3.10", "3.14")
# Where nox looks for an interpreter: it knows nothing of pyenv's.
os.environ["PATH"] = os.pathsep.join([*(str(p.parent) for p in HERE.values()), os.environ["PATH"]])


@nox.session(python=NEWEST)
def lint(session: nox.Session) -> None:
    """Ruff, mypy, and the pages that are generated."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("python", "docs/generate.py", "--check")


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-n", "docs", "docs/_build")


@nox.session(python=[*OLDEST_PYTEST])
@nox.parametrize("pytest", ["oldest", "newest"])
def tests(session: nox.Session, pytest: str) -> None:
    """Run the suite on each Python, with the oldest pytest that knows it and with the newest."""
    oldest = OLDEST_PYTEST[str(session.python)]
    session.install("-e", ".[test]", f"pytest=={oldest}.*" if pytest == "oldest" else "pytest")
    session.run("pytest", *WORKERS, *session.posargs)


@nox.session(python=OLDEST)
def oldest(session: nox.Session) -> None:
    """Run the suite on this machine's oldest Python, with the oldest pytest and dependencies."""
    # The oldest dependencies know nothing of later Pythons.
    lowest = ["-c", "tests/oldest_versions.txt"] if OLDEST in {"3.10", "3.11"} else []
    session.install("-e", ".[test]", f"pytest=={OLDEST_PYTEST[OLDEST]}.*", *lowest)
    session.run("pytest", *WORKERS, *session.posargs)


@nox.session(python=NEWEST)
def newest(session: nox.Session) -> None:
    """Run the suite on this machine's newest Python, with the newest of everything."""
    session.install("--upgrade", "-e", ".[test]")
    session.run("pytest", *WORKERS, *session.posargs)


@nox.session(python=NEWEST)
def slow(session: nox.Session) -> None:
    """Run the tests of many processes and of many runs."""
    session.install("-e", ".[test]")
    session.run("pytest", *WORKERS, "-m", "slow", *session.posargs)


@nox.session(python=NEWEST)
def browser(session: nox.Session) -> None:
    """Look at the report's page in headless Chromium."""
    if shutil.which("chromedriver") is None:
        session.skip("there is no chromedriver, and so no Chromium, on the path")
    session.install("-e", ".[test,browser]")
    session.run("pytest", "-m", "browser", "tests/browser", *session.posargs)


@nox.session(python=NEWEST)
def compat(session: nox.Session) -> None:
    """Run beside every other plugin that touches the same hooks."""
    session.install("-e", ".[test,compat]")
    modules = Path("tests/beside_other_plugins.txt").read_text(encoding="utf-8").split()
    session.run("pytest", *WORKERS, "-m", "slow or not slow", *modules, *session.posargs)


@nox.session(python=NEWEST)
def thirdparty(session: nox.Session) -> None:
    """Run other people's programs against the simulator."""
    session.install("-e", ".[thirdparty]")
    session.run("pytest", "-m", "thirdparty", *session.posargs)


@nox.session(python=NEWEST)
def no_xdist(session: nox.Session) -> None:
    """Run the suite where there is no pytest-xdist: what needs it is skipped with a reason."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", "pytest-xdist", "execnet")
    session.run("pytest", *session.posargs)


@nox.session(python=NEWEST)
def dist(session: nox.Session) -> None:
    """Build the sdist, the wheel out of the sdist, and look at what is in them."""
    session.install("build", "twine", "pytest")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("python", ".ci/check_dist.py", "dist")


@nox.session(python=NEWEST, requires=["dist"])
def bare(session: nox.Session) -> None:
    """Install the wheel without extras: it says what to install where something is missing."""
    session.install(str(built("*.whl")))
    home = Path(session.create_tmp())
    (home / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # this project's is above it
    (home / "test_it.py").write_text("def test_it(mlc_server): pass\n", encoding="utf-8")
    session.chdir(home)
    wanted = {
        ("--help",): (0, "--mlc-model"),
        ("--mlc-engine=sim",): (1, "pip install 'pytest-mlc-server[sim]'"),
        ("-p", "no:mlc_server", "--collect-only"): (0, "1 test collected"),
    }
    for arguments, (code, words) in wanted.items():
        output = session.run("pytest", *arguments, silent=True, success_codes=[code])
        if words not in str(output):
            session.error(f"pytest {' '.join(arguments)} did not say {words!r}:\n{output}")


@nox.session(python=NEWEST, requires=["dist"])
def wheel(session: nox.Session) -> None:
    """Run the sdist's tests against the installed wheel, and check a user's types against it."""
    session.install(f"{built('*.whl')}[test]", "mypy", "types-requests")
    # Not below the directory of `create_tmp`, which becomes that of pytest's own temporary files:
    # runs within tests would find this project's settings above them.
    home = Path(session.virtualenv.location).resolve() / "sdist"
    shutil.rmtree(home, ignore_errors=True)
    with tarfile.open(built("*.tar.gz")) as archive:
        archive.extractall(home, filter="data")
    (source,) = home.iterdir()
    # Nothing can be imported from here, then, but what the wheel has installed.
    shutil.rmtree(source / "pytest_mlc_server")
    session.chdir(source)
    session.run("mypy", "--strict", "--config-file=", "tests/data/typed_suite.py")
    # What holds documents and rooms against the sources, which are not here.
    without = ("--ignore=tests/docs", "--ignore=tests/test_architecture.py")
    session.run("pytest", *WORKERS, *without, *session.posargs)


def built(pattern: str) -> Path:
    """Return what the session `dist` has built."""
    (path,) = Path("dist").resolve().glob(pattern)
    return path


@nox.session(python=NEWEST)
def coverage(session: nox.Session) -> None:
    """Run the suite and the slow tests; count the lines that all their processes run: >= 95 %."""
    session.install("-e", ".[test]", "coverage>=7.10")
    if _numbers(NEWEST) >= [3, 12]:
        session.env["COVERAGE_CORE"] = "sysmon"
    session.env["COVERAGE_PACKAGE"] = str(Path("pytest_mlc_server").resolve())
    session.run("coverage", "erase")
    which = ("-p", "tests.support_coverage", "-m", "not thirdparty and not browser")
    session.run("coverage", "run", "-m", "pytest", *WORKERS, *which, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")

"""From asking for the fixture to the child's exec, in units of a bare interpreter start.

Each measurement is a pytest run of one test that asks for a fixture. A hook notes the time when
pytest sets up the first fixture; the child notes the time as its first instruction. Imports that
only the fixture causes are therefore counted.

The moment of exec itself cannot be seen from outside: the kernel's record of it counts in ticks of
10 ms. The child is therefore a script of bash, whose start takes a tenth of an interpreter's, and
which reads its clock without another process. All figures hold this start; the row "bare spawn" has
nothing else, so that it can be subtracted by eye.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from _measure import interleave, report, runs_argument, table, verdict

OURS = "pytest-mlc-server"
INTERPRETER = "python -c pass, start to end"

_CHILD = """#!{bash}
printf '%s' "$EPOCHREALTIME" > "$CHILD_NOTES/exec"
exit 1
"""

_HOOK = """
import os, time
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    path = os.path.join(os.environ["CHILD_NOTES"], "asked")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(repr(time.time()))
"""

#: The fixture as each candidate's documentation has it.
_FIXTURES = {
    OURS: """
@pytest.fixture(scope="session")
def server(mlc_server):
    return mlc_server
""",
    "Popen": """
@pytest.fixture(scope="session")
def server():
    import subprocess

    child = subprocess.Popen([os.environ["CHILD"]])
    yield child
    child.wait()
""",
    "pytest-xprocess": """
from xprocess import ProcessStarter

@pytest.fixture(scope="session")
def server(xprocess):
    class Starter(ProcessStarter):
        pattern = "ready"
        args = [os.environ["CHILD"]]
        timeout = 0.3

    xprocess.ensure("child", Starter)
""",
    "mirakuru": """
@pytest.fixture(scope="session")
def server():
    from mirakuru import TCPExecutor

    with TCPExecutor([os.environ["CHILD"]], "127.0.0.1", 1, timeout=5) as executor:
        yield executor
""",
}
_PLUGINS = {
    OURS: ["-p", "pytest_mlc_server.plugin", "--mlc-engine=mock", "--mlc-python={child}"],
    "pytest-xprocess": ["-p", "xprocess.pytest_xprocess"],
}


def write(path: str, text: str) -> str:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def project(directory: str, name: str) -> str:
    """Make the pytest project of a candidate."""
    home = tempfile.mkdtemp(dir=directory)
    write(os.path.join(home, "pytest.ini"), "[pytest]\n")
    write(os.path.join(home, "conftest.py"), _HOOK + _FIXTURES[name])
    write(os.path.join(home, "test_it.py"), "def test_it(server): pass\n")
    return home


def read(path: str) -> float:
    with open(path, encoding="ascii") as file:
        return float(file.read().replace(",", "."))  # bash writes it as the locale has it


def ask(directory: str, home: str, name: str, child: str) -> float:
    """Run pytest once; return how long after the first fixture's setup the child began."""
    notes = tempfile.mkdtemp(dir=directory)
    options = [option.format(child=child) for option in _PLUGINS.get(name, [])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=home,
        env={
            **os.environ,
            "CHILD": child,
            "CHILD_NOTES": notes,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,  # the child serves nothing: the test cannot pass
    )
    if not os.path.exists(os.path.join(notes, "exec")):
        raise RuntimeError(f"{name} did not start the child:\n{done.stdout}")
    return read(os.path.join(notes, "exec")) - read(os.path.join(notes, "asked"))


def spawn(directory: str, child: str) -> float:
    """Start the child with nothing in between."""
    notes = tempfile.mkdtemp(dir=directory)
    env = {**os.environ, "CHILD_NOTES": notes}
    began = time.time()
    pid = os.posix_spawn(child, [child], env)
    os.waitpid(pid, 0)
    return read(os.path.join(notes, "exec")) - began


def interpreter(*flags: str) -> float:
    """Run an interpreter that does nothing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *flags, "-c", "pass"], check=True)
    return time.perf_counter() - began


def main() -> None:
    runs = runs_argument(__doc__, 20)
    bash = shutil.which("bash")
    if bash is None:
        sys.exit("this benchmark needs bash (5.0 or newer, for EPOCHREALTIME)")
    with report("asking for the fixture -> exec"), tempfile.TemporaryDirectory() as directory:
        child = write(os.path.join(directory, "child"), _CHILD.format(bash=bash))
        os.chmod(child, 0o755)
        candidates: dict[str, Callable[[], float]] = {}

        def asker(name: str) -> Callable[[], float]:
            home = project(directory, name)
            return lambda: ask(directory, home, name, child)

        for name in _FIXTURES:
            candidates[name] = asker(name)
        candidates["bare spawn"] = lambda: spawn(directory, child)
        candidates[INTERPRETER] = interpreter
        candidates["python -I -S -c pass, start to end"] = lambda: interpreter("-I", "-S")
        for candidate in candidates.values():
            candidate()  # byte code and file cache
        results = interleave(candidates, runs)
        table("fixture asked for -> exec", results, ours=OURS)
        starts = statistics.median(results[OURS]) / statistics.median(results[INTERPRETER])
        verdict(
            "median, in bare interpreter starts", starts, 2.0, show=lambda value: f"{value:.2f}"
        )


if __name__ == "__main__":
    main()

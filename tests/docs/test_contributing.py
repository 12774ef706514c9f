"""CONTRIBUTING.md: its recipes work on a copy of the repository, and what it names is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlc_server import devices, engines, preflight
from tests.conftest import write_model
from tests.support_docs import EXAMPLES, ROOT

PATCHES = EXAMPLES / "contributing"  # the topic "contributing"
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

#: What a recipe runs takes seconds; only a defect, or a machine with other work, takes longer.
SECONDS = 900.0


class Copy:
    """A copy of the repository, and this interpreter with that copy's package."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if shutil.which("git") is None:
            pytest.skip("needs git, to apply patches")
        left_out = shutil.ignore_patterns(".*", "__pycache__", "_build", "build", "dist")
        shutil.copytree(ROOT, directory, ignore=left_out)
        (directory / "tests" / "standin" / "mlc_next").mkdir()
        (directory / "tests" / "standin" / "mlc_next" / "__main__.py").write_text(
            "import runpy\nrunpy.run_module('mlc_llm', run_name='__main__')\n"
        )

    def apply(self, name: str) -> None:
        """Apply a patch of the page."""
        self._run("git", "apply", "--verbose", str(PATCHES / f"{name}.diff"))

    def python(self, *arguments: str, standin: bool = False, status: int = 0) -> str:
        """Run Python with the copy's package; return what it printed."""
        return self._run(sys.executable, *arguments, standin=standin, status=status)

    def pytest(self, *arguments: str, standin: bool = False, status: int = 0) -> str:
        """Run pytest with the copy's plugin; return what it printed."""
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return self.python(*command, standin=standin, status=status)

    def _run(self, *words: str, standin: bool = False, status: int = 0) -> str:
        paths = [self.directory, *([self.directory / "tests" / "standin"] if standin else [])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "STANDIN": "",
        }
        done = subprocess.run(
            words,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == status, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    made = Copy(tmp_path / "copy")
    where = made.python("-c", "import pytest_mlc_server; print(pytest_mlc_server.__file__)")
    assert where.startswith(str(made.directory))
    return made


def named(heading: str) -> list[str]:
    """Return the test files that a section of the page says to run."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    [command] = re.findall(r"`pytest ([^`]+)`", section)
    files: list[str] = command.split()
    return files


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 60)
def test_a_setting(copy: Copy) -> None:
    ask = (
        "from pytest_mlc_server import ServerConfig, engines\n"
        "config = ServerConfig(engine='mlc', model='m', jit_policy='REDO')\n"
        "print(engines.plan(config, mark='').env['MLC_JIT_POLICY'])"
    )
    assert "jit_policy" in copy.python("-c", ask, status=1)
    copy.apply("setting")
    assert copy.python("-c", ask) == "REDO\n"
    assert "--mlc-jit-policy {ON,OFF,REDO,READONLY}" in copy.python(
        "-m", "pytest_mlc_server", "with", "--help"
    )
    # What is forgotten is noticed.
    said = copy.pytest(*named("Add a setting"), "-x", "-k", "accounted", status=1)
    assert "jit_policy" in said
    assert "out of date" in copy.python("docs/generate.py", "--check", status=1)
    copy.apply("setting-tests")
    copy.python("docs/generate.py")
    copy.python("docs/generate.py", "--check")
    assert "jit-policy" in (copy.directory / "docs/reference/settings.md").read_text("utf-8")
    copy.pytest(*named("Add a setting"))


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 60)
def test_an_engine(copy: Copy) -> None:
    model = copy.directory / "next-model"
    model.mkdir()
    write_model(model)
    (copy.directory / "test_next.py").write_text(
        "import psutil\n"
        "def test_it_serves(mlc_server):\n"
        "    assert 'mlc_next' in psutil.Process(mlc_server.pid).cmdline()\n"
        "    assert mlc_server.chat('hello')\n"
    )
    run = ["--mlc-engine=next", f"--mlc-model={model}", "-c", os.devnull, "test_next.py"]
    assert "mlc-engine" in copy.pytest(*run, standin=True, status=4)
    copy.apply("engine")
    assert "1 passed" in copy.pytest(*run, standin=True)
    copy.apply("engine-tests")
    copy.pytest(*named("Add an engine"))


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 60)
def test_an_endpoint(copy: Copy) -> None:
    test = copy.directory / "test_version.py"
    test.write_text(
        "def test_it_answers(mlc_session):\n"
        "    assert mlc_session.get('/version').json() == {'version': '0.20.0'}\n"
    )
    run = ["--mlc-engine=sim", "--mlc-log-dir=logs", "-c", os.devnull, test.name]
    assert "1 failed" in copy.pytest(*run, status=1)
    copy.apply("endpoint")
    assert "1 passed" in copy.pytest(*run)
    copy.apply("endpoint-tests")
    copy.pytest(*named("Add an endpoint to the simulator"))


def test_every_recipe_is_tried() -> None:
    patches = {file.stem.removesuffix("-tests") for file in PATCHES.iterdir()}
    source = Path(__file__).read_text(encoding="utf-8")
    assert {f'copy.apply("{name}")' in source for name in patches} == {True}


def test_the_sessions_that_it_names_are_there() -> None:
    named = set(re.findall(r"`nox -s (\w+)`", PAGE))
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(one) for one in node.decorator_list)
    }
    assert named
    assert named <= sessions


def test_the_places_that_it_names_are_there() -> None:
    modules = {"devices": devices, "engines": engines, "preflight": preflight}
    places = re.findall(r"\| `(\w+)\.(\w+)` \|", PAGE)
    assert len(places) >= 5
    for module, name in places:
        assert hasattr(modules[module], name), f"{module}.{name}"

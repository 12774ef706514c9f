"""What importing costs a project that never asks for a server, and who may import what."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_mlc_server

PACKAGE = Path(pytest_mlc_server.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

#: Modules that are slow to import, or that a project with this plugin need not have.
HEAVY = {
    "mlc_llm",
    "tvm",
    "torch",
    "openai",
    "requests",
    "psutil",
    "fastapi",
    "uvicorn",
    "tokenizers",
    "numpy",
}


def loaded_by(statement: str, before: str = "") -> set[str]:
    """Return the modules that a statement loads in a fresh interpreter."""
    code = (
        f"{before}\nimport json, sys\nbefore = set(sys.modules)\n{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout
    return set(json.loads(output.splitlines()[-1]))


def own(modules: set[str]) -> set[str]:
    return {m for m in modules if m.partition(".")[0] == "pytest_mlc_server"}


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import pytest_mlc_server") - {"__future__"} == {"pytest_mlc_server"}


def test_importing_the_plugin_loads_the_table_of_settings_and_nothing_else() -> None:
    loaded = loaded_by("import pytest_mlc_server.plugin", before="import pytest")
    assert loaded == {
        "pytest_mlc_server",
        "pytest_mlc_server.options",
        "pytest_mlc_server.plugin",
    }


@pytest.mark.parametrize(
    "name", ["PopenServer", "ServerConfig", "EngineConfig", "ConfigError", "ServerFactory"]
)
def test_using_a_public_name_loads_nothing_heavy(name: str) -> None:
    loaded = loaded_by(f"from pytest_mlc_server import {name}")
    assert own(loaded) > {"pytest_mlc_server"}
    assert not loaded & (HEAVY | {"pytest", "_pytest"})


def test_every_public_name_is_there() -> None:
    for name in pytest_mlc_server.__all__:
        assert getattr(pytest_mlc_server, name) is not None
    assert set(pytest_mlc_server.__all__) <= set(dir(pytest_mlc_server))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pytest_mlc_server.nonsense


@pytest.mark.parametrize("arguments", [[], ["--collect-only"], ["--help"]])
def test_a_run_that_asks_for_no_server_loads_only_the_plugin(
    arguments: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("LOADED", *sorted(m for m in sys.modules if m.startswith("pytest_mlc_server")))
        """
    )
    # In a process of its own: this one has loaded everything.
    result = pytester.runpytest_subprocess("-s", "-p", "no:randomly", *arguments)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["LOADED pytest_mlc_server pytest_mlc_server.options pytest_mlc_server.plugin"]
    )


def test_the_guardian_starts_on_the_standard_library() -> None:
    guardian = sorted(path.stem for path in PACKAGE.glob("guardian/[a-z]*.py"))
    loaded = loaded_by(f"from pytest_mlc_server.guardian import {', '.join(guardian)}")
    assert {f"pytest_mlc_server.guardian.{name}" for name in guardian} <= loaded
    roots = {module.partition(".")[0] for module in loaded}
    assert roots - set(sys.stdlib_module_names) == {"pytest_mlc_server"}


# --- who may import what --------------------------------------------------------------------------


def imports(file: Path) -> Iterator[str]:
    """Yield what a file imports anywhere, but for what only a type checker sees."""
    tree = ast.parse(file.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(ast.Module(node.body, []))
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if file.parent.name == "launcher":  # it runs under another name in other interpreters
                module = ".".join(filter(None, ["pytest_mlc_server.launcher", module]))
            else:
                assert node.level == 0, f"{file}: relative import"
            yield from (f"{module}.{alias.name}" for alias in node.names)


def modules(file: Path) -> set[str]:
    """Return the modules of this package that a file imports, named from the package's root."""
    found = set()
    for name in imports(file):
        first, _, rest = name.partition(".")
        if first == "pytest_mlc_server":
            parts = rest.split(".")
            while parts and not (PACKAGE.joinpath(*parts).is_dir() or _is_module(parts)):
                parts.pop()  # a name inside the module
            found.add(".".join(parts))
    return found


def _is_module(parts: list[str]) -> bool:
    return PACKAGE.joinpath(*parts).with_suffix(".py").is_file()


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_the_rooms_of_the_plugin_import_pytest(file: Path) -> None:
    allowed = {"plugin.py", "factories.py", "matrix.py", "wiring.py", "early.py"}
    roots = {name.partition(".")[0] for name in imports(file)}
    if relative(file) not in allowed and not relative(file).startswith("reporting/"):
        assert not roots & {"pytest", "_pytest", "pluggy", "xdist"}


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("guardian/*.py")), ids=relative)
def test_the_guardian_knows_only_processes_and_logs(file: Path) -> None:
    for module in modules(file):
        assert module in ("process", "logs") or module.partition(".")[0] == "guardian"


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("launcher/*.py")), ids=relative)
def test_the_launcher_needs_no_more_than_python_3_9(file: Path) -> None:
    assert {module.partition(".")[0] for module in modules(file)} <= {"launcher"}
    roots = {name.partition(".")[0] for name in imports(file)}
    assert roots - set(sys.stdlib_module_names) <= {"pytest_mlc_server"}
    ast.parse(file.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("sim/*.py")), ids=relative)
def test_the_simulator_knows_nothing_of_the_rest(file: Path) -> None:
    assert {module.partition(".")[0] for module in modules(file)} <= {"sim", "values"}


#: The way that data takes: what comes later is not imported by what comes earlier.
WAY = [
    "options", "values", "engine_config", "config", "preflight", "engines", "leases", "handle",
    "launching", "server",
]  # fmt: skip


@pytest.mark.parametrize("name", WAY)
def test_data_runs_one_way(name: str) -> None:
    later = set(WAY[WAY.index(name) + 1 :]) - {"engines"}
    later |= {"pool", "session", "plugin", "reporting", "factories", "runner", "wiring"}
    assert not modules(PACKAGE / f"{name}.py") & later

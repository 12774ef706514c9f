"""What importing costs a project that never asks for a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_mlc_server

PACKAGE = Path(pytest_mlc_server.__file__).parent

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

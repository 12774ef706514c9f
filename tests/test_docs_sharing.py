"""What the pages on sharing show is what the files say, and the files run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_hosts import command
from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "how-to" / f"{name}.md" for name in (
    "share-one-server", "reuse-while-developing",
)]  # fmt: skip
EXAMPLES = ROOT / "docs" / "examples"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def example(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Copy an example, in an environment in which nothing else is shared."""
    shutil.copytree(EXAMPLES / request.param, pytester.path, dirs_exist_ok=True)
    runtime = pytester.path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester.path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_a_file_a_command_or_output(page: Path) -> None:
    shown = 0
    for name, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if name:
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
            shown += 1
        else:
            assert language in ("sh", "text"), text
    assert shown


def test_every_flag_of_the_pages_exists() -> None:
    from pytest_mlc_server.options import SETTINGS

    known = {setting.flag for setting in SETTINGS}
    known |= {f"--mlc-no-{setting.name}" for setting in SETTINGS if setting.kind == "flag"}
    for page in PAGES:
        assert set(re.findall(r"--mlc-[a-z-]+", page.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("example", ["share_one_server"], indirect=True)
@pytest.mark.parametrize("start", ["collected", "eager", "lazy"])
def test_workers_share_one_server(example: Path, pytester: pytest.Pytester, start: str) -> None:
    pytest.importorskip("xdist")
    options = ("-p", "xdist", "-n2", f"--mlc-start={start}", "--mlc-log-dir=logs")
    result = pytester.runpytest_subprocess(*PLAIN, "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=4)
    assert len(list((example / "logs").glob("sim-*[0-9].log"))) == 1


@pytest.mark.parametrize("example", ["many_machines"], indirect=True)
def test_the_controllers_host_serves_the_other(example: Path, pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytest.importorskip("openai")
    far = example / "far"
    shutil.copytree(EXAMPLES / "many_machines", far)
    words = [sys.executable, "-m", "pytest", *PLAIN, "-p", "xdist", "-p", "no:cacheprovider"]
    words += ["--dist=load", "--mlc-advertise=NEAR", "--mlc-log-dir=logs", "--tx=popen"]
    # In a directory of its own, or the copy would be collected as well.
    words += ["--ignore=far"]
    done = pytester.run(*command("loopback", 2, far, words))
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*4 passed*"])
    assert len(list((example / "logs").glob("sim-*[0-9].log"))) == 1


@pytest.mark.parametrize("example", ["reuse"], indirect=True)
def test_the_next_run_attaches(example: Path, pytester: pytest.Pytester) -> None:
    def manage(*words: str) -> str:
        line = [sys.executable, "-m", "pytest_mlc_server", *words]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    try:
        for says in ("reuse 600 s", "reusing server of ??:??, idle * s"):
            result = pytester.runpytest_subprocess(*PLAIN, "-p", "no:cacheprovider")
            result.assert_outcomes(passed=4)
            result.stdout.fnmatch_lines([f"mlc-server: *, {says}"])
        (server,) = json.loads(manage("ps", "--json"))
        assert server["id"][:4] in manage("ps")
        assert "POST /v1/completions" in manage("logs", server["id"][:4])
        assert "stopped" in manage("stop", server["id"][:4])
    finally:
        manage("stop", "--all")
    assert manage("ps") == "no servers\n"
    assert (example / "pytest.ini").exists()

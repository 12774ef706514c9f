"""The example of workers on other hosts, with a second host."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.support_docs import EXAMPLES
from tests.support_hosts import command
from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

EXAMPLE = EXAMPLES / "many_machines"


def test_the_controllers_host_serves_the_other(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    pytest.importorskip("openai")
    runtime, far = pytester.path / "runtime", pytester.path / "far"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for place in (pytester.path, far):
        shutil.copytree(EXAMPLE, place, dirs_exist_ok=True, ignore=ignored)
    words = [sys.executable, "-m", "pytest", *PLAIN, "-p", "xdist", "-p", "no:cacheprovider"]
    words += ["--dist=load", "--mlc-advertise=NEAR", "--mlc-log-dir=logs", "--tx=popen"]
    # In a directory of its own, or the copy would be collected as well.
    words += ["--ignore=far"]
    done = pytester.run(*command("loopback", 2, far, words))
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*4 passed*"])
    assert len(list((pytester.path / "logs").glob("sim-*[0-9].log"))) == 1

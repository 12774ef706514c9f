from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until it is killed."""
    code = "import signal\nwhile True: signal.pause()"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) as popen:
        yield popen
        popen.kill()

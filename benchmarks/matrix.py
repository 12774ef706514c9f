"""Eight models through one, two or eight places: ``--mlc-max-servers``.

Four tests for each of eight models, in one run without pytest-xdist. Each model's child takes one
second to start and 100 MiB; each test takes a tenth of a second, so that a server can be started
beside the tests of the model before it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable

from _measure import Results, interleave, report, runs_argument, table, verdict
from _project import Project

from pytest_mlc_server import engines

MODELS, EACH = 8, 4
CHILD = {"CHILD_DELAY": "1", "CHILD_MEMORY": "100"}

TESTS = f"""
import time
import pytest

@pytest.mark.parametrize("n", range({EACH}))
def test_model(mlc_server, n):
    time.sleep(0.1)
    with open("starts.txt", "a") as file:
        file.write(f"{{mlc_server.pid}} {{mlc_server.model}}\\n")
"""


def main() -> None:
    runs = runs_argument(__doc__, 3)
    with report("eight models"), tempfile.TemporaryDirectory() as directory:
        project = Project(directory, {"test_it.py": TESTS})
        flags = []
        for number in range(MODELS):
            model = os.path.join(directory, f"model-{number}")
            shutil.copytree(engines.mock_model(), model)
            flags.append(f"--mlc-model={model}")
        peaks: Results = {}
        starts: Results = {}
        noted = os.path.join(directory, "starts.txt")

        def measurer(name: str, servers: int) -> Callable[[], float]:
            def measure() -> float:
                if os.path.exists(noted):
                    os.unlink(noted)
                run = project.served(*flags, f"--mlc-max-servers={servers}", watch=True, env=CHILD)
                with open(noted, encoding="utf-8") as file:
                    lines = file.read().splitlines()
                if len(lines) != MODELS * EACH:
                    raise RuntimeError(f"{len(lines)} tests ran")
                peaks.setdefault(name, []).append(run.peak)
                starts.setdefault(name, []).append(len(set(lines)))
                return run.wall

            return measure

        bounds = {f"--mlc-max-servers {servers}": servers for servers in (1, 2, MODELS)}
        ours = "--mlc-max-servers 2"
        wall = interleave({name: measurer(name, bounds[name]) for name in bounds}, runs)
        table(f"{MODELS} models, {MODELS * EACH} tests: wall time", wall, ours=ours)
        table("peak memory", peaks, ours=ours, show=lambda size: f"{size / (1 << 20):.0f} MiB")
        table("servers started", starts, ours=ours, show=lambda number: f"{number:.0f}")
        verdict("servers started", max(starts[ours]), MODELS, show=lambda number: f"{number:.0f}")


if __name__ == "__main__":
    main()

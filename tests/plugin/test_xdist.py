"""Under pytest-xdist every worker has its own server, port and log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support_plugin import Suite, free_ports, is_free

pytest.importorskip("xdist")

#: Every worker leaves a fact sheet of its server; the barrier sees to it that all take part.
SHEETS = """
    import json, os, time
    import pytest

    WORKER = os.environ["PYTEST_XDIST_WORKER"]

    @pytest.mark.parametrize("n", range(int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    def test_sheet(mlc_server, n):
        sheet = {"port": mlc_server.port, "pid": mlc_server.pid, "log": mlc_server.log_path}
        with open(f"sheet-{WORKER}.part", "w") as file:
            json.dump(sheet, file)
        os.replace(f"sheet-{WORKER}.part", f"sheet-{WORKER}")
        while not all(os.path.exists(f"sheet-gw{n}") for n in WAITED_FOR):
            time.sleep(0.01)
    """


def sheets(suite: Suite) -> dict[str, dict[str, Any]]:
    """Return what the workers wrote, by worker."""
    return {
        path.name.removeprefix("sheet-"): json.loads(path.read_text())
        for path in suite.path.glob("sheet-*")
    }


@pytest.mark.parametrize("workers", [2, 4])
def test_each_worker_has_a_server_of_its_own(suite: Suite, workers: int) -> None:
    suite.tests(SHEETS.replace("WAITED_FOR", f"range({workers})"))
    result = suite.run("-p", "xdist", f"-n{workers}", "--mlc-log-dir=logs", "--dist=each")
    result.assert_outcomes(passed=workers * workers)
    found = sheets(suite)
    assert sorted(found) == [f"gw{n}" for n in range(workers)]
    for what in ("port", "pid", "log"):
        assert len({sheet[what] for sheet in found.values()}) == workers
    assert sorted(suite.starts) == sorted(sheet["pid"] for sheet in found.values())
    suite.await_nothing_left()
    assert all(is_free(sheet["port"]) for sheet in found.values())
    shown = [line for line in result.outlines if "http://127.0.0.1:" in line]
    for worker, sheet in found.items():
        (line,) = [line for line in shown if line.startswith(f"{worker}: ")]
        assert f":{sheet['port']}," in line
        assert sheet["log"] in line


def test_a_given_port_is_the_first_of_as_many_as_there_are_workers(suite: Suite) -> None:
    port = free_ports(2)
    suite.tests(SHEETS.replace("WAITED_FOR", "range(2)"))
    result = suite.run("-p", "xdist", "-n2", "--dist=each", f"--mlc-port={port}")
    result.assert_outcomes(passed=4)
    ports = {worker: sheet["port"] for worker, sheet in sheets(suite).items()}
    assert ports == {"gw0": port, "gw1": port + 1}


def test_a_worker_that_replaces_a_crashed_one_has_the_next_port(suite: Suite) -> None:
    port = free_ports(2)
    suite.tests(
        """
        import os
        import pytest

        WORKER = os.environ["PYTEST_XDIST_WORKER"]

        @pytest.mark.parametrize("n", range(3))
        def test_port(mlc_server, n):
            with open(f"port-{WORKER}", "w") as file:
                file.write(str(mlc_server.port))
            if not os.path.exists("crashed"):
                open("crashed", "w").close()
                os._exit(1)
        """
    )
    result = suite.run("-p", "xdist", "-n1", f"--mlc-port={port}")
    result.assert_outcomes(passed=2, failed=1)
    assert (suite.path / "port-gw0").read_text() == str(port)
    assert (suite.path / "port-gw1").read_text() == str(port + 1)
    assert len(suite.starts) == 2
    suite.await_nothing_left()
    assert is_free(port)
    assert is_free(port + 1)


def test_a_port_above_the_last_is_an_error_of_that_worker_alone(suite: Suite) -> None:
    suite.tests(
        """
        import os
        import pytest
        from pytest_mlc_server import ConfigError

        def test_port(request):
            if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
                request.getfixturevalue("mlc_server_config")
            else:
                with pytest.raises(ConfigError, match="65536"):
                    request.getfixturevalue("mlc_server")
        """
    )
    result = suite.run("-p", "xdist", "-n2", "--dist=each", "--mlc-port=65535")
    result.assert_outcomes(passed=2)
    assert suite.starts == []


def test_a_failing_start_is_tried_once_in_each_worker(suite: Suite) -> None:
    suite.tests(
        """
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_asks(mlc_server, n): pass
        """
    )
    result = suite.run("-p", "xdist", "-n2", "--dist=each", orders="exit=3")
    result.assert_outcomes(errors=6)
    assert len(suite.starts) == 2

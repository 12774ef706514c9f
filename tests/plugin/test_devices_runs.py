"""Runs of pytest whose workers' servers are spread over GPUs that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STANDIN, write_model
from tests.support_gpus import GIB, Gpus
from tests.support_gpus import gpus as gpus
from tests.support_plugin import Suite

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow

#: Every worker leaves what its server was started with; the barrier sees to it that all take part.
SHEETS = """
    import json, os, time
    import pytest
    import requests

    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")

    @pytest.mark.parametrize("n", range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
    def test_sheet(mlc_server, n):
        url = f"{mlc_server.openai_v1_base_url}/completions"
        with requests.Session() as http:
            http.trust_env = False
            answer = http.post(url, json={"prompt": "environment"}, timeout=60).json()
        with open(f"sheet-{WORKER}.part", "w") as file:
            json.dump(answer, file)
        os.replace(f"sheet-{WORKER}.part", f"sheet-{WORKER}")
        while not all(os.path.exists(f"sheet-gw{n}") for n in WAITED_FOR):
            time.sleep(0.01)
    """


def started_with(suite: Suite) -> dict[str, dict[str, Any]]:
    """Return how each worker's server was started, by worker."""
    return {
        path.name.removeprefix("sheet-"): json.loads(path.read_text())
        for path in suite.path.glob("sheet-*")
    }


def device_of(argv: list[str]) -> str:
    return argv[argv.index("--device") + 1]


@pytest.mark.parametrize("wanted", ["0,1", "auto", "5,GPU-x"])
def test_each_worker_has_a_gpu_of_its_own(suite: Suite, gpus: Gpus, wanted: str) -> None:
    gpus.show({}, {})
    # xdist gives its workers the path as it was when xdist was imported.
    suite.write(conftest=f"import sys; sys.path.insert(0, {str(STANDIN / 'gpu')!r})")
    suite.tests(SHEETS.replace("WAITED_FOR", "range(2)"))
    result = suite.run("-p", "xdist", "-n2", "--dist=each", f"--mlc-devices={wanted}")
    result.assert_outcomes(passed=4)
    found = started_with(suite)
    names = ["0", "1"] if wanted == "auto" else wanted.split(",")
    for number, name in enumerate(names):
        sheet = found[f"gw{number}"]
        assert sheet["environment"]["CUDA_VISIBLE_DEVICES"] == name
        assert device_of(sheet["argv"]) == "cuda"
    result.stdout.fnmatch_lines([f"mlc-server: engine mlc, *, devices {wanted}"])


def test_without_workers_the_server_gets_the_first(suite: Suite, gpus: Gpus) -> None:
    suite.tests(SHEETS.replace("WAITED_FOR", "range(0)"))
    options = ("--mlc-devices=2,3,4,5", "--mlc-overrides=tensor_parallel_shards=2")
    suite.run(*options, "--mlc-device=cuda").assert_outcomes(passed=1)
    assert started_with(suite)["main"]["environment"]["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_more_workers_than_gpus_share_them_if_asked(suite: Suite, gpus: Gpus) -> None:
    suite.tests(SHEETS.replace("WAITED_FOR", "range(3)"))
    options = ("-p", "xdist", "-n3", "--dist=each", "--mlc-devices=0,1", "--mlc-device=cuda")
    refused = suite.run(*options)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["ERROR: devices = '0,1' (from --mlc-devices on the command line): 3 pytest-xdist workers*"]
    )
    assert suite.starts == []
    suite.run(*options, "--mlc-share-devices").assert_outcomes(passed=9)
    seen = [sheet["environment"]["CUDA_VISIBLE_DEVICES"] for sheet in started_with(suite).values()]
    assert sorted(seen) == ["0", "0", "1"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mlc-device=cuda:1"], "device = 'cuda:1' (from --mlc-device on the command line)"),
        (["--mlc-env=CUDA_VISIBLE_DEVICES=1"], "(from --mlc-env on the command line)"),
        (["--mlc-devices=0,0"], "0 is listed twice"),
        (["--mlc-devices="], "the list is empty"),
        (["--mlc-devices=0,1,2", "--mlc-overrides=tensor_parallel_shards=2"], "groups of 2"),
    ],
)
def test_what_contradicts_ends_the_run_at_its_start(
    suite: Suite, gpus: Gpus, flags: list[str], says: str
) -> None:
    gpus.show({})
    suite.tests("def test_it(mlc_server): pass")
    result = suite.run("--mlc-devices=0", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()
    assert suite.starts == []


def test_a_url_and_devices_contradict(suite: Suite) -> None:
    suite.tests("def test_it(mlc_server): pass")
    result = suite.run_bare("--mlc-url=http://127.0.0.1:9", "--mlc-devices=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: devices = '0' *url = 'http://127.0.0.1:9' *contradict*"])


def test_no_gpu_fails_the_test_or_skips_it(suite: Suite, gpus: Gpus) -> None:
    suite.tests("def test_it(mlc_server): pass")
    failed = suite.run("--mlc-devices=auto")
    failed.assert_outcomes(errors=1)
    failed.stdout.fnmatch_lines(["*devices = 'auto' (from --mlc-devices *): no GPU found: *"])
    suite.run("--mlc-devices=auto", "--mlc-unavailable=skip").assert_outcomes(skipped=1)


def test_the_simulator_needs_no_gpu(suite: Suite, gpus: Gpus) -> None:
    suite.tests("def test_it(mlc_server_config): assert not mlc_server_config.env")
    result = suite.run_bare("--mlc-engine=sim", "--mlc-devices=0,1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlc-server: *devices 0,1 (not used: engine sim has no GPU)"])


def test_more_copies_than_fit_are_refused_before_any_start(
    suite: Suite, gpus: Gpus, tmp_path: Path
) -> None:
    gpus.show({"total": 24 * GIB})
    model = tmp_path / "heavy"
    model.mkdir()
    write_model(model)
    records = [{"dataPath": "params_shard_0.bin", "nbytes": 10 * GIB}]
    (model / "tensor-cache.json").write_text(json.dumps({"records": records}))
    suite.tests("def test_it(mlc_server): pass")
    suite.model = str(model)
    result = suite.run("-p", "xdist", "-n3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert "3 x 10.0 GiB of weights, and the GPU has 24.0 GiB" in text
    assert "--mlc-scope run" in text
    assert suite.starts == []


def test_a_worker_that_replaces_a_crashed_one_has_its_gpu(suite: Suite, gpus: Gpus) -> None:
    suite.tests(
        """
        import os, time
        import pytest

        WORKER = os.environ["PYTEST_XDIST_WORKER"]

        def await_(*workers):
            while not all(os.path.exists(f"gpu-{worker}") for worker in workers):
                time.sleep(0.01)

        @pytest.mark.parametrize("n", range(6))
        def test_gpu(mlc_server, n):
            with open(f"gpu-{WORKER}.part", "w") as file:
                file.write(mlc_server.config.env["CUDA_VISIBLE_DEVICES"])
            os.replace(f"gpu-{WORKER}.part", f"gpu-{WORKER}")
            await_("gw0", "gw1")
            if WORKER == "gw0":
                os._exit(1)
            await_("gw2")
        """
    )
    result = suite.run("-p", "xdist", "-n2", "--mlc-devices=4,7", "--mlc-device=cuda")
    result.assert_outcomes(passed=5, failed=1)
    seen = {path.name: path.read_text() for path in suite.path.glob("gpu-gw?")}
    assert seen == {"gpu-gw0": "4", "gpu-gw1": "7", "gpu-gw2": "4"}

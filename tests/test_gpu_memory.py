"""More copies of a model than the memory of the GPUs holds; how many workers a run has."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, workers
from pytest_mlc_server.gpu_memory import check as check_memory
from tests.support_gpus import GIB, Gpus, config, devices
from tests.support_gpus import gpus as gpus

#: What ``nvidia-smi -L`` prints: no memory.
SMI = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5f1a)\n"

pytestmark = pytest.mark.usefixtures("gpus")


@pytest.fixture
def heavy(tmp_path: Path) -> str:
    """A model of 10 GiB, as its list of weights says."""
    (tmp_path / "mlc-chat-config.json").write_text("{}")
    records = [{"dataPath": f"params_shard_{n}.bin", "nbytes": 5 * GIB} for n in range(2)]
    (tmp_path / "tensor-cache.json").write_text(json.dumps({"records": records}))
    return str(tmp_path)


@pytest.mark.parametrize("wanted", [None, "0", "0,1", "0,1,2,3", "auto"])
@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_copies_than_the_memory_holds(
    gpus: Gpus, heavy: str, wanted: str | None, number: int, device: str
) -> None:
    gpus.show(*[{"total": 24 * GIB}] * 4)
    one = config(model=heavy, device=device)
    listed = tuple(wanted.split(",")) if wanted and wanted != "auto" else wanted
    chosen = devices(listed, shared=True)
    spread = {None: 1, "auto": 4}.get(wanted, len((wanted or "").split(",")))
    copies = -(-number // spread)
    if copies <= 2:
        check_memory(one, chosen, number)
        return
    with pytest.raises(ConfigError) as caught:
        check_memory(one, chosen, number)
    text = str(caught.value)
    assert f"{number} pytest-xdist workers would load {copies} copies" in text
    assert f"{copies} x 10.0 GiB of weights, and the GPU has 24.0 GiB" in text
    assert "--mlc-scope run" in text
    assert "--mlc-devices" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "cpu"},
        {"device": "vulkan"},
        {"engine": "mock"},
        {"engine": "sim"},
        {"model_lib": "mock://echo"},
        {"model": "HF://org/not-here"},
        {"device": "cuda:9"},
    ],
)
def test_nothing_is_refused_that_loads_no_weights_on_these_gpus(
    gpus: Gpus, heavy: str, fields: Any
) -> None:
    gpus.show({"total": 1})
    check_memory(config(**{"model": heavy, **fields}), devices(None), 8)


def test_nothing_is_refused_where_nothing_is_told(heavy: str, gpus: Gpus) -> None:
    check_memory(config(model=heavy), devices(None), 8)
    gpus.print_by_tool(SMI)  # which knows no memory
    check_memory(config(model=heavy), devices("auto", shared=True), 8)


def test_gpus_that_a_number_may_mean_count_as_the_largest(gpus: Gpus, heavy: str) -> None:
    gpus.show({"total": 8 * GIB}, {"total": 80 * GIB})
    check_memory(config(model=heavy), devices(None), 4)
    by_bus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with pytest.raises(ConfigError, match=r"GPU 0: 4 x .* has 8\.0 GiB"):
        check_memory(config(model=heavy, env=by_bus), devices(None), 4)
    check_memory(config(model=heavy, env=by_bus, device="cuda:1"), devices(None), 4)


def test_shards_are_spread_over_the_gpus_of_a_group(gpus: Gpus, heavy: str) -> None:
    gpus.show({"total": 16 * GIB}, {"total": 16 * GIB})
    two = config(model=heavy, overrides="tensor_parallel_shards=2")
    check_memory(two, devices(None), 3)
    with pytest.raises(ConfigError, match=r"4 x 5\.0 GiB"):
        check_memory(two, devices(None), 4)


# --- how many workers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 1),
        ({"dist": "no", "tx": []}, 1),
        ({"dist": "load", "tx": []}, 1),
        ({"dist": "no", "tx": ["popen"] * 3}, 1),
        ({"dist": "load", "tx": ["popen"] * 3}, 3),
        ({"dist": "each", "tx": ["3*popen", "popen//python=python3.12"]}, 4),
        ({"dist": "load", "tx": ["2*popen", "ssh=host//chdir=/x", "socket=host:1"]}, 2),
        ({"dist": "load", "tx": ["ssh=host//id=hub", "8*popen//via=hub"]}, 0),
        ({"dist": "load", "tx": ["popen"] * 3, "collectonly": True}, 1),
    ],
)
def test_workers_of_this_host(options: dict[str, Any], number: int) -> None:
    assert workers.local(Namespace(**options)) == number

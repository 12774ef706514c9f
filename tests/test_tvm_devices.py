"""Devices of the real apache-tvm, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_mlc_server import ConfigError, PopenServer, ServerConfig, engines
from pytest_mlc_server.values import DEVICE_KINDS

tvm = pytest.importorskip("tvm", reason="needs apache-tvm (extra: tvm)")


def device(kind: str, index: int) -> Any:
    return tvm.device(kind, index)


@pytest.mark.parametrize("kind", ["cuda", "rocm", "metal", "vulkan", "opencl", "cpu"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_device_becomes_the_string_that_tvm_reads(kind: str, index: int) -> None:
    text = ServerConfig(device=device(kind, index)).device
    assert text == f"{kind}:{index}"
    again = tvm.device(text)
    assert again == device(kind, index)


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_every_kind_that_we_take_is_one_of_tvms(kind: str) -> None:
    try:
        tvms: Any = tvm.device(kind, 0)
    except (ValueError, TypeError, RuntimeError):
        pytest.skip(f"this version of TVM knows no {kind}")
    got = ServerConfig(device=tvms).device
    assert tvm.device(got) == tvms


def test_the_constructors_of_tvm_are_taken() -> None:
    assert ServerConfig(device=tvm.cpu()).device == "cpu:0"
    assert ServerConfig(device=tvm.cuda(1)).device == "cuda:1"
    assert ServerConfig(device=tvm.runtime.device("vulkan")).device == "vulkan:0"


def test_popen_server_takes_a_device_as_second_argument() -> None:
    server = PopenServer("m", tvm.cpu())
    assert server.device == "cpu:0"
    argv = engines.plan(server.config, mark="m4rk").argv
    assert argv[argv.index("--device") + 1] == "cpu:0"


def test_a_device_and_its_string_are_the_same_configuration() -> None:
    by_device = ServerConfig(model="m", device=tvm.cuda(1))
    assert by_device == ServerConfig(model="m", device="cuda:1")
    assert by_device.key() == ServerConfig(model="m", device="cuda:1").key()


def test_other_objects_of_tvm_are_no_devices() -> None:
    with pytest.raises(ConfigError, match=r"tvm\.runtime\.Device"):
        ServerConfig(device=tvm.runtime.tensor([1.0]))

"""Devices of the real apache-tvm, where it is installed."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from pytest_mlc_server.values import DEVICE_KINDS
from tests.support_server import run_python

if importlib.util.find_spec("tvm") is None:
    pytest.skip("needs apache-tvm (extra: tvm)", allow_module_level=True)

UPSTREAMS = [f"{kind}:{index}" for kind in ("cuda", "rocm", "metal", "vulkan", "opencl", "cpu")
             for index in (0, 1)]  # fmt: skip

#: In a process of its own: a library of this size must not end with the process of all tests.
CODE = """
import json, sys
import tvm
from pytest_mlc_server import ConfigError, PopenServer, ServerConfig, engines

upstreams, ours = json.loads(sys.argv[1])
told = {"text": {}, "equal": {}, "kinds": {}}
for name in upstreams:
    kind, _, index = name.partition(":")
    device = tvm.device(kind, int(index))
    told["text"][name] = ServerConfig(device=device).device
    told["equal"][name] = tvm.device(told["text"][name]) == device

for kind in ours:
    try:
        device = tvm.device(kind, 0)
    except (ValueError, TypeError, RuntimeError):
        told["kinds"][kind] = None
    else:
        told["kinds"][kind] = tvm.device(ServerConfig(device=device).device) == device

made = (tvm.cpu(), tvm.cuda(1), tvm.runtime.device("vulkan"))
told["made"] = [ServerConfig(device=device).device for device in made]

server = PopenServer("m", tvm.cpu())
argv = engines.plan(server.config, mark="m4rk").argv
told["server"] = [server.device, argv[argv.index("--device") + 1]]

by_device = ServerConfig(model="m", device=tvm.cuda(1))
by_text = ServerConfig(model="m", device="cuda:1")
told["same"] = [by_device == by_text, by_device.key() == by_text.key()]

try:
    ServerConfig(device=tvm.runtime.tensor([1.0]))
except ConfigError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a process with TVM has found out."""
    found: dict[str, Any] = run_python(CODE, json.dumps([UPSTREAMS, list(DEVICE_KINDS)]))
    return found


@pytest.mark.parametrize("device", UPSTREAMS)
def test_a_device_becomes_the_string_that_tvm_reads(told: dict[str, Any], device: str) -> None:
    assert told["text"][device] == device
    assert told["equal"][device] is True


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_every_kind_that_we_take_is_one_of_tvms(told: dict[str, Any], kind: str) -> None:
    if told["kinds"][kind] is None:
        pytest.skip(f"this version of TVM knows no {kind}")
    assert told["kinds"][kind] is True


def test_the_constructors_of_tvm_are_taken(told: dict[str, Any]) -> None:
    assert told["made"] == ["cpu:0", "cuda:1", "vulkan:0"]


def test_popen_server_takes_a_device_as_second_argument(told: dict[str, Any]) -> None:
    assert told["server"] == ["cpu:0", "cpu:0"]


def test_a_device_and_its_string_are_the_same_configuration(told: dict[str, Any]) -> None:
    assert told["same"] == [True, True]


def test_other_objects_of_tvm_are_no_devices(told: dict[str, Any]) -> None:
    assert "tvm.runtime.Device" in told["refused"]

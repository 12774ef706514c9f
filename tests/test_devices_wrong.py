"""What contradicts a list of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_mlc_server import ConfigError
from pytest_mlc_server.reading import visible_devices
from tests.support_gpus import ORIGIN, config, devices, visible
from tests.support_gpus import gpus as gpus

pytestmark = pytest.mark.usefixtures("gpus")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"device": "cuda:1"}, "device = 'cuda:1' (from here) contradict"),
        ({"device": "rocm:0"}, "--mlc-device rocm"),
        ({"device": "cpu"}, "device = 'cpu' (from here) contradict"),
        ({"device": "metal"}, "device = 'metal' (from here) contradict"),
        ({"device": "vulkan:0"}, "device = 'vulkan:0' (from here) contradict"),
        ({"device": "opencl"}, "only the GPUs of cuda and rocm"),
        ({"url": "http://h:1"}, "url = 'http://h:1' (from here) contradict"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "3"}}, "CUDA_VISIBLE_DEVICES='3' (from here)"),
        ({"env": {"HIP_VISIBLE_DEVICES": "3"}}, "HIP_VISIBLE_DEVICES='3' (from here)"),
    ],
)
@pytest.mark.parametrize("wanted", ["auto", ("0",)])
def test_contradictions_name_both_places(wanted: Any, fields: Any, says: str) -> None:
    wrong = config(**fields, origins=dict.fromkeys(fields, "here"))
    for call in (devices(wanted).assign, lambda one: devices(wanted).check(one, 1)):
        with pytest.raises(ConfigError) as caught:
            call(wrong)
        assert ORIGIN in str(caught.value)
        assert says in str(caught.value)


def test_rocm_takes_no_uuid() -> None:
    with pytest.raises(ConfigError, match="GPU-1 is none"):
        devices(("GPU-1",)).assign(config(device="rocm"))


@pytest.mark.parametrize(
    ("allowed", "listed", "fits"),
    [
        ("2,3", ("2",), True),
        ("2,3", ("2", "0"), False),
        ("GPU-abc", ("GPU-ab",), True),
        ("GPU-ab", ("GPU-abc",), True),
        ("GPU-abc", ("GPU-x",), False),
        ("GPU-abc", ("0",), True),  # may be the same one
        ("12", ("1",), False),
    ],
)
def test_a_list_beyond_what_the_caller_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: str, listed: Sequence[str], fits: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    if fits:
        assert visible(devices(listed).assign(config())) == listed[0]
        return
    with pytest.raises(ConfigError, match=f"CUDA_VISIBLE_DEVICES='{allowed}' in the environment"):
        devices(listed).assign(config())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto", "auto"),
        (" auto ", "auto"),
        ("0", ("0",)),
        ("3, 1 ,2", ("3", "1", "2")),
        ("007", ("7",)),
        ("GPU-5f1a2b3c-0000", ("GPU-5f1a2b3c-0000",)),
        ("MIG-GPU-5f1a/1/0,0", ("MIG-GPU-5f1a/1/0", "0")),
        (2, ("2",)),
    ],
)
def test_what_can_be_read(text: object, value: object) -> None:
    assert visible_devices(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the list is empty"),
        ("  ", "the list is empty"),
        (",", "'' is no GPU"),
        ("0,", "'' is no GPU"),
        ("0 1", "'0 1' is no GPU"),
        ("-1", "'-1' is no GPU"),
        ("cuda:0", "'cuda:0' is no GPU"),
        ("\u0661", "is no GPU"),
        ("gpu-1", "'gpu-1' is no GPU"),
        ("GPU-", "'GPU-' is no GPU"),
        ("autp", "did you mean 'auto'?"),
        ("0,auto", "'auto' is no GPU"),
        ("1,01", "1 is listed twice"),
        ("GPU-a,GPU-a", "GPU-a is listed twice"),
    ],
)
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"GPU|empty|twice") as caught:
        visible_devices(text)
    assert says in str(caught.value)

"""What NVML tells of the GPUs: a stand-in for its module, no module, a broken one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mlc_server import nvml
from pytest_mlc_server.nvml import Memory
from tests.support_gpus import GIB, Gpus
from tests.support_gpus import gpus as gpus

QUESTIONS: dict[str, Callable[[], object]] = {
    "devices": nvml.devices,
    "count": nvml.count,
    "memory": lambda: nvml.memory("0"),
    "used": lambda: nvml.used_by([1]),
    "released": lambda: nvml.wait_until_released([1], 0.0),
}

EVERY_QUESTION = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


@EVERY_QUESTION
def test_without_a_driver_nothing_is_told(gpus: Gpus, question: Callable[[], object]) -> None:
    assert question() is None


@EVERY_QUESTION
def test_without_the_package_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, question: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert question() is None


@EVERY_QUESTION
def test_a_broken_package_is_no_exception(
    monkeypatch: pytest.MonkeyPatch, question: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: None))
    assert question() is None


def test_a_warning_of_the_package_is_not_passed_on(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(
        "import warnings\n"
        "warnings.warn('deprecated', FutureWarning)\n"
        "nvmlInit = nvmlShutdown = lambda: None\n"
        "nvmlDeviceGetCount = lambda: 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert nvml.count() == 3


def test_the_library_is_let_go_of_after_each_question(gpus: Gpus) -> None:
    gpus.show({"total": GIB})
    assert nvml.count() == 1
    assert nvml.memory("7") is None
    assert sys.modules["pynvml"].OPEN == 0


def test_gpus_are_counted_and_listed_by_index(gpus: Gpus) -> None:
    gpus.show({}, {}, {})
    assert nvml.count() == 3
    assert nvml.devices() == ["0", "1", "2"]


def test_no_gpu_is_an_answer(gpus: Gpus) -> None:
    gpus.show()
    assert nvml.count() == 0
    assert nvml.devices() == []
    assert nvml.used_by([1]) == 0


def test_a_split_gpu_is_listed_as_its_instances(gpus: Gpus) -> None:
    instances = [{"uuid": "MIG-a"}, {"uuid": "MIG-b"}]
    gpus.show({"mig": []}, {"mig": instances}, {})
    assert nvml.devices() == ["MIG-a", "MIG-b", "2"]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("0", Memory(24 * GIB, 20 * GIB)),
        ("1", Memory(80 * GIB, 80 * GIB)),
        ("GPU-abc123", Memory(24 * GIB, 20 * GIB)),
        ("GPU-abc", Memory(24 * GIB, 20 * GIB)),
        ("GPU-d", Memory(80 * GIB, 80 * GIB)),
        ("MIG-1", Memory(10 * GIB, 9 * GIB)),
        ("2", None),
        ("GPU-f", None),
    ],
)
def test_the_memory_of_a_device(gpus: Gpus, device: str, expected: Memory | None) -> None:
    instance = {"uuid": "MIG-1x", "total": 10 * GIB, "free": 9 * GIB}
    gpus.show(
        {"uuid": "GPU-abc123", "total": 24 * GIB, "free": 20 * GIB},
        {"uuid": "GPU-def456", "total": 80 * GIB, "mig": [instance]},
    )
    assert nvml.memory(device) == expected


@pytest.mark.parametrize(
    ("pids", "used"), [([10], 5), ([10, 11], 112), ([11], 107), ([12], 1), ([13], 0), ([], 0)]
)
def test_memory_used_by_processes(gpus: Gpus, pids: list[int], used: int) -> None:
    # Process 12's share is not told; an instance of a split GPU counts as a GPU does.
    instance: dict[str, Any] = {"uuid": "MIG-1", "processes": [[11, 7]]}
    gpus.show({"processes": [[10, 5], [11, 100], [12, None]]}, {"mig": [instance]})
    assert nvml.used_by(pids) == used


def test_what_is_not_used_is_released_at_once(gpus: Gpus) -> None:
    gpus.show({"processes": [[10, 5]]})
    assert nvml.wait_until_released([11], 0.0) is True


def test_memory_that_stays_in_use_is_not_released(gpus: Gpus) -> None:
    gpus.show({"processes": [[10, 5]]})
    assert nvml.wait_until_released([10], 0.0) is False


def test_the_wait_ends_when_the_memory_is_released(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.show({"processes": [[10, 5]]})
    waiting = threading.Event()

    def release(seconds: float) -> None:
        waiting.set()
        gpus.show({"processes": []})

    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=release))
    assert nvml.wait_until_released([10], 60.0) is True
    assert waiting.is_set()

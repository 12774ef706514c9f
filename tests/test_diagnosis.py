"""Every recorded failure of a start: when it is told, as what, and with which advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mlc_server import EngineUnavailableError, PopenServer, StartError, diagnosis
from tests.conftest import WATCHDOG
from tests.support_server import temporary as temporary
from tests.test_logs import DEAD

Servers = Callable[..., PopenServer]

#: What the real server wrote, but for paths: the end of a usage text, and all of its errors.
RECORDED = Path(__file__).parent / "data" / "logs"

#: A start that ended: its recording, its exit code, and words of the advice in the error.
ENDED = {
    "wrong-origins": (2, "does not know an argument"),
    "wrong-mode": (2, "does not know an argument"),
    "unknown-override": (2, "does not know an argument"),
    "wrong-override": (2, "does not know an argument"),
    "overrides-are-none": (2, "does not know an argument"),
    "wrong-port": (2, "does not know an argument"),
    "unknown-flag": (2, "does not know an argument"),
    "no-tokenizer": (1, "`mlc_llm gen_config` copies it there"),
    "download-failed": (1, "MLC_DOWNLOAD_CACHE_POLICY"),
    "unknown-device": (1, "--mlc-device"),
    "port-in-use": (3, "--mlc-port auto"),
}

#: Those that preflight finds, or that speak for themselves: the log's last word is enough.
PLAIN = {
    "no-library": "The `model_lib` you passed in is not a file: dist/no-such-lib.so.",
    "no-model": "Cannot find model dist/no-such-model, directory does not exist",
    "no-config": "Cannot find dist/hf/mlc-chat-config.json in the model directory provided",
    "model-is-a-file": "directory does not exist",
    "corrupt-config": "Invalid JSON: EOF while parsing an object",
    "port-too-high": "OverflowError: bind(): port must be 0-65535.",
}

#: A start whose engine died while its process lived on, which the real server never tells.
DIED = {
    "missing-weights-shard": ("download or convert the weights again",),
    "library-is-none": ("compile it anew", "--mlc-model-lib"),
    "cache-too-big": ("max_total_seq_length", "--mlc-mode interactive"),
    "no-gpu-memory": ("gpu_memory_utilization", "tensor_parallel_shards"),
}


def failure(standin: Servers, name: str, *orders: str) -> StartError:
    """Start a server that writes a recorded log and obeys the orders; it must not start."""
    server = standin(f"log={RECORDED / name}.txt", *orders, startup_timeout=100 * WATCHDOG)
    with pytest.raises(StartError) as caught:
        server.start()
    assert server.pid is None
    return caught.value


def advice(error: StartError) -> list[str]:
    """Return the lines that say what to do."""
    return [line for line in str(error).splitlines() if line.startswith("what to do: ")]


@pytest.mark.parametrize("name", ENDED)
def test_a_start_that_ended_for_a_known_cause_says_what_to_do(standin: Servers, name: str) -> None:
    code, words = ENDED[name]
    error = failure(standin, name, f"exit={code}")
    assert type(error) is StartError
    assert error.returncode == code
    (line,) = advice(error)
    assert words in line
    first = str(error).partition("\n")[0]
    assert f"its process ended (exit code {code})" in first
    last = (RECORDED / f"{name}.txt").read_text().strip().splitlines()[-1]
    assert last.split(": ")[-1][:60] in str(error)


@pytest.mark.parametrize("name", PLAIN)
def test_a_start_that_ended_for_another_cause_shows_the_servers_words(
    standin: Servers, name: str
) -> None:
    error = failure(standin, name, "exit=1")
    assert type(error) is StartError
    assert advice(error) == []
    assert PLAIN[name] in str(error)


@pytest.mark.parametrize("name", ["no-device", "no-such-cpu", "no-second-cpu"])
def test_a_device_that_is_not_there_is_an_engine_that_is_not_available(
    standin: Servers, name: str
) -> None:
    error = failure(standin, name, "exit=1")
    assert type(error) is EngineUnavailableError
    assert "is not on this machine" in error.brief
    assert "--mlc-device" in str(error)


@pytest.mark.parametrize("name", DIED)
def test_a_dead_engine_ends_the_start_with_its_own_words_first(standin: Servers, name: str) -> None:
    # The process would live for ever, as the real one does, and ignores signals.
    error = failure(standin, name, "hang", "stubborn")
    text = str(error)
    assert text.startswith(DEAD[name] + "\nthe MLC server did not start: ")
    assert "its engine died while its process lived on" in error.brief
    assert DEAD[name].splitlines()[0] in error.brief
    assert "\n" not in error.brief
    (line,) = advice(error)
    assert all(word in line for word in DIED[name])
    assert "phase: loading (" in text
    assert f"log: {error.log_path}" in text
    tail = text.partition("--- end of the log ---\n")[2]
    assert tail.endswith(DEAD[name])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RuntimeError: CUDA error: out of memory", "max_total_seq_length"),
        ("vk::OutOfDeviceMemoryError: ERROR_OUT_OF_MEMORY", "gpu_memory_utilization"),
        ("Cannot open /m/params_shard_7.bin", "shard"),
        ("requests.exceptions.ConnectionError: HTTPSConnectionPool", "network"),
    ],
)
def test_known_causes_have_a_remedy(text: str, words: str) -> None:
    assert words in (diagnosis.remedy(text) or "")


def test_an_unknown_cause_has_none() -> None:
    assert diagnosis.remedy("KeyError: 'surprise'") is None

"""Why a start failed, in words for the person who reads it: what happened, evidence, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mlc_server import engines, logs, masking, process
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import EngineUnavailableError, StartError

#: What the log or the engine says, and what to do about it.
REMEDIES = {
    r"Insufficient GPU memory|out of memory|OutOfMemory|bad_alloc|ERROR_OUT_OF_MEMORY": (
        "There is not enough memory for the model and its KV cache. Lower max_total_seq_length, "
        "max_num_sequence or prefill_chunk_size with --mlc-overrides, or choose --mlc-mode "
        "interactive; gpu_memory_utilization limits what the server may take of a GPU (too low a "
        "value leaves no room for the weights); a stronger quantization or tensor_parallel_shards "
        "make the weights smaller; look for other processes on the device."
    ),
    r"Cannot open \S*(?:params_shard|\.bin)": (
        "A weights shard is missing or cannot be read: download or convert the weights again."
    ),
    r"Failed to load dynamic shared library": (
        "The model library cannot be loaded: compile it anew on this machine (`mlc_llm compile`), "
        "or leave --mlc-model-lib out to have it compiled just in time."
    ),
    r"Cannot find any tokenizer": (
        "The model directory has no tokenizer: `mlc_llm gen_config` copies it there."
    ),
    r"Git clone failed|Cannot download|Cannot find cache for|ConnectionError|Connection refused"
    r"|ReadTimeout|Temporary failure in name resolution|HTTPError": (
        "The model could not be downloaded: look at its name, the network and "
        "MLC_DOWNLOAD_CACHE_POLICY; a model directory on this machine needs no download."
    ),
    r"compilation failed|JIT is disabled": (
        "The model library could not be compiled just in time: the log has the compiler's words; "
        "a library compiled beforehand is given with --mlc-model-lib."
    ),
    r"unrecognized arguments|invalid choice|invalid \w+ value": (
        "The server does not know an argument of its command line: see the command below. The "
        "installed mlc_llm may be older or newer than the setting."
    ),
    r"Invalid device name|Device is not found": (
        "Choose another device with --mlc-device; auto finds what is there."
    ),
}


def remedy(text: str) -> str | None:
    """Return what to do about a cause that is known, None for others."""
    for pattern, advice in REMEDIES.items():
        if re.search(pattern, text):
            return advice
    return None


def no_device(error: StartError) -> bool:
    """Tell whether a server did not start because its device is not there."""
    text = error.text  # whatever has been shown of it already
    return isinstance(error, EngineUnavailableError) and bool(engines.NO_DEVICE.search(text))


def failed_start(
    config: ServerConfig,
    plan: engines.LaunchPlan,
    message: Mapping[str, Any],
    log: str,
    secrets: Sequence[str],
) -> StartError:
    """Turn the guardian's account of a failed start into the error that explains it."""
    reason, returncode = message["reason"], message["returncode"]
    detail = masking.hide(message["detail"], secrets)
    end = masking.hide(logs.tail(log), secrets)
    missing = engines.unavailable(config, returncode, end) if reason == "exited" else None
    advice: str | None
    if missing:
        headline, _, advice = missing.partition("\n")
        brief = headline
    else:
        headline, brief = _headline(config, message, detail, end)
        advice = _advice(config, reason, message["seconds"], detail, end)
    evidence = [detail] if detail and detail not in headline else []
    phases = _phases(message)
    lines = [headline, *evidence]
    lines += [f"what to do: {advice}"] if advice and not missing else [advice] if advice else []
    lines += [f"phase: {phases}"] if phases else []
    if config.launch != "plain" and config.engine in ("mlc", "mock"):
        lines.append(f"launch: {config.launch} (--mlc-launch plain executes the command below)")
    lines += [f"command: {plan.command}", f"directory: {plan.cwd}", f"log: {log}"]
    lines.append(f"--- end of the log ---\n{end}" if end else "the log is empty")
    kind = EngineUnavailableError if missing else StartError
    return kind("\n".join(lines), brief=brief, returncode=returncode, log_path=log)


def _headline(
    config: ServerConfig, message: Mapping[str, Any], detail: str, end: str
) -> tuple[str, str]:
    """Return the first line of the error, and the one line that later tests show."""
    reason, seconds = message["reason"], message["seconds"]
    happened = {
        "exited": f"its process ended ({process.describe_exit(message['returncode'])})",
        "timeout": f"it was not ready within {_limit(config, seconds):g} s",
        "engine": "its engine died while its process lived on",
        "refused": "it answers, but not as this server should",
        "spawn": "its program cannot be executed",
    }[reason]
    failed = f"the MLC server did not start: {happened}, after {seconds:.1f} s"
    # The engine's own words come first: they are what the reader looks for.
    if reason == "engine" and detail:
        return f"{detail}\n{failed}", f"{failed}: {detail.partition(chr(10))[0]}"
    if detail:
        return failed, f"{failed}: {detail.partition(chr(10))[0]}"
    return failed, f"{failed}: {end.splitlines()[-1]}" if end else failed


def _limit(config: ServerConfig, seconds: float) -> float:
    """Return the time limit that a start which took so long has reached."""
    reached = seconds >= config.startup_limit > config.startup_timeout
    return config.startup_limit if reached else config.startup_timeout


def _advice(config: ServerConfig, reason: str, seconds: float, detail: str, end: str) -> str | None:
    if reason == "timeout" and _limit(config, seconds) > config.startup_timeout:
        return "A start that makes progress for longer: --mlc-startup-limit (seconds)."
    if reason == "timeout":
        return (
            "A start that needs longer: --mlc-startup-timeout (seconds). Downloads and "
            "compilations that make progress get more time by themselves."
        )
    if "address already in use" in end:
        winner = process.listener(int(config.port)) if config.port != "auto" else None
        by = f" ({winner})" if winner else ""
        return f"Another program{by} took the port while the server loaded: use --mlc-port auto."
    if "No module named" in end and config.engine in ("mlc", "mock"):
        return "The installation of MLC LLM is incomplete: see the module that the log names."
    return remedy(f"{detail}\n{end}")


def _phases(message: Mapping[str, Any]) -> str:
    spent = message.get("phases") or {}
    if not spent:
        return ""
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
    return f"{message.get('phase')} ({times})"

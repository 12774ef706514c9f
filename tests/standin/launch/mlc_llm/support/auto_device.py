"""The device check: in a process of its own for each kind, which imports everything again."""

import os
import subprocess
import sys

import tvm

from mlc_llm import orders

from . import logging

KINDS = ["cuda", "rocm", "metal", "vulkan", "opencl", "cpu"]
_RESULT_CACHE = {}

logger = logging.getLogger(__name__)


def detect_device(device_hint):
    if device_hint == "auto":
        there = [one for one in (tvm.device(kind, 0) for kind in KINDS) if _device_exists(one)]
        if there:
            logger.info("Using device: %s", device2str(there[0]))
        return there[0] if there else None
    try:
        wanted = tvm.device(device_hint)
    except Exception as error:
        raise ValueError(f"Invalid device name: {device_hint}") from error
    if not _device_exists(wanted):
        raise ValueError(f"Device is not found on your local environment: {device_hint}")
    return wanted


def device2str(device):
    return f"{kind_of(device)}:{device.index}"


def kind_of(device):
    return tvm.runtime.Device._DEVICE_TYPE_TO_NAME[device.dlpack_device_type()]


def _device_exists(device):
    wanted = device2str(device)
    if wanted in _RESULT_CACHE:
        return _RESULT_CACHE[wanted]
    kind = kind_of(device)
    command = [sys.executable, "-m", "mlc_llm.cli.check_device", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    lines = [line for line in done.stdout.splitlines() if line.startswith("check_device:")]
    for index in lines[0].partition(":")[2].split(",") if lines else ():
        if index:
            logger.info("Found device: %s:%s", kind, index)
            _RESULT_CACHE[f"{kind}:{index}"] = True
            if kind == "cpu":  # TVM says of every number that this CPU exists
                break
    if not lines:
        logger.error("GPU device detection failed: %s", " ".join(command))
    if wanted not in _RESULT_CACHE:
        logger.info("Not found device: %s", wanted)
    return _RESULT_CACHE.setdefault(wanted, False)


def _other(device):
    return bool(subprocess.run([sys.executable, "-m", "mlc_llm.cli.other", kind_of(device)]))


def _more(device, timeout):
    return _device_exists(device) and timeout


_words = orders.read()
if "no-check" in _words:
    _device_exists = _other
if "signature" in _words:
    _device_exists = _more
if "renamed" in _words:
    globals()[f"{_words['renamed']}_of_late"] = globals().pop(_words["renamed"])

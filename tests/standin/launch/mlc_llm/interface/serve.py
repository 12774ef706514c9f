"""Finds its device, tells of its process if it was asked to, serves as the other stand-in does."""

import json
import os
import random
import runpy
import signal
import sys
import threading

from mlc_llm import orders
from mlc_llm.support import auto_device, constants, logging

SERVER = os.path.join(os.path.dirname(__file__), "..", "..", "..", "mlc_llm", "__main__.py")

logger = logging.getLogger(__name__)


def serve(model, device):
    found = auto_device.detect_device(device)
    logger.info("Serving %s on %s", model, found)
    if "facts" in orders.read():
        tell(orders.read()["facts"])
    runpy.run_path(os.path.realpath(SERVER))


def tell(path):
    """Leave what a server can know of its own process, whole or not at all."""
    with open(f"{path}.part", "w") as file:
        json.dump(facts(), file)
    os.replace(f"{path}.part", path)


def facts():
    main = sys.modules["__main__"]
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "argv": sys.argv,
        "path": sys.path,
        "flags": repr(sys.flags),
        "executable": sys.executable,
        "main": [main.__name__, main.__file__, main.__spec__ and main.__spec__.name],
        "environment": dict(os.environ),
        "c_environment": c_environment(),
        "cwd": os.getcwd(),
        "umask": umask(),
        "session": os.getsid(0) == os.getpid(),
        "group": os.getpgrp() == os.getpid(),
        "signals": {
            number.name: repr(signal.getsignal(number))
            for number in signal.valid_signals()
            if isinstance(number, signal.Signals)
        },
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "descriptors": descriptors(),
        "streams": [repr(stream.name) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "buffering": [sys.stdout.line_buffering, sys.stdout.write_through],
        "threads": [thread.name for thread in threading.enumerate()],
        "random": random.random(),
        "constants": [constants.MLC_JIT_POLICY, constants.MLC_LLM_HOME],
        "checks": auto_device._RESULT_CACHE if hasattr(auto_device, "_RESULT_CACHE") else {},
        "status": status(),
    }


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def c_environment():
    """Return what a program sees that this process executes with the environment it was given."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return sorted(os.fsdecode(pair) for pair in file.read().split(b"\0") if pair)
    except OSError:
        return []


def descriptors():
    """Return where the open descriptors lead to; not the one that looks."""
    found = {}
    if os.path.isdir("/proc/self/fd"):
        for number in os.listdir("/proc/self/fd"):
            try:
                found[number] = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
    return found


def status():
    """Return what the kernel says of this process and does not change by itself."""
    kept = ("SigBlk", "SigIgn", "SigCgt", "Threads", "NoNewPrivs", "Umask")
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.rstrip().partition(":\t")[::2] for line in file)
    except OSError:
        return {}
    return {name: lines.get(name) for name in kept}

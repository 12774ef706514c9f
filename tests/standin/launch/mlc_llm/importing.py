"""What importing the package does beside importing."""

import ctypes
import os
import threading
import time

from mlc_llm import orders


def obey():
    words = orders.read()
    orders.note("imported")
    while "import-gate" in words and not os.path.exists(words["import-gate"]):
        time.sleep(0.005)
    if "import" in words:
        time.sleep(float(words["import"]))
    if "import-busy" in words:
        compute(float(words["import-busy"]))
    if "thread" in words:
        threading.Thread(target=threading.Event().wait, name="at-import", daemon=True).start()
    for _ in range(int(words.get("native", 0))):
        start_native()
    if "import-fails" in words:
        raise ImportError("libmlc_llm_module.so: undefined symbol, as ordered")


def compute(seconds):
    """Take so much of a core: on a busy host this lasts longer, as a real import does."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10000))


def start_native():
    """Start a thread in the C library that waits for ever, like one of a BLAS pool."""
    libc = ctypes.CDLL(None)
    # From 64 bits on, a thread's number is a word; the start routine is the C library's own.
    libc.pthread_create(
        ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(libc.pause, ctypes.c_void_p), None
    )

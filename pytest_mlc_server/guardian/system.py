"""What Linux offers against orphans, through `ctypes`; elsewhere these do nothing."""

from __future__ import annotations

import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: Whether orphans of a tree come to the nearest ancestor that asked for them.
SUBREAPER = sys.platform.startswith("linux")

if SUBREAPER:
    import ctypes

    # Loaded once, before any fork: nothing may be loaded between fork and exec.
    _prctl = ctypes.CDLL(None, use_errno=True).prctl
    _prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def become_subreaper() -> None:
    """Make orphans of this process's tree children of this process, daemons included."""
    if SUBREAPER:
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(signal: int) -> None:
    """Have the kernel send a signal to this process when its parent's *thread* ends.

    Only the main thread may start a process that calls this: the signal comes when the starting
    thread ends, not when its process does. It is not inherited by children.
    """
    if SUBREAPER:
        _prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)

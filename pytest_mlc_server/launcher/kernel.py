"""What Linux offers to a process that forks servers, by way of `ctypes`."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: Where ``/proc/PID/stat`` has the beginning and the end of two blocks, counted after the name.
ARGUMENTS, ENVIRONMENT = 45, 47

#: Loaded before any fork: nothing may be loaded between a fork and what the child does first.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def become_subreaper() -> None:
    """Make orphans below this process children of this process, daemons included."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(signal: int, parent: int) -> None:
    """Have the kernel send a signal to this process when its parent's main thread ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew whom to watch
        os._exit(1)


def flush_c_streams() -> None:
    """Write what libraries have in the buffers of the C library: a fork would write it again."""
    _libc.fflush(None)


def children() -> dict[int, list[int]]:
    """Return the processes of this machine by their parents."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything: count from its end.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def below(pid: int, but: set[int] | frozenset[int] = frozenset()) -> list[int]:
    """Return all living processes below one, without some of its children and what is below those.

    Parameters
    ----------
    pid
        The process.
    but
        Children that are left out.
    """
    by_parent = children()
    waiting = [one for one in by_parent.get(pid, []) if one not in but]
    found = []
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += by_parent.get(one, [])
    return found


def replace_in_environment(old: bytes, new: bytes) -> bool:
    """Replace a text in the environment block that the kernel shows of this process.

    Changes of `os.environ` do not reach it. Who looks for a server by the mark in its environment
    would not find one that was forked.

    Parameters
    ----------
    old, new
        Of the same length.

    Returns
    -------
    bool
        Whether the kernel shows the new text.
    """
    begin, end = _block(ENVIRONMENT)
    if not begin < end or len(old) != len(new):
        return False
    place = ctypes.string_at(begin, end - begin).find(old)
    if place < 0:
        return False
    ctypes.memmove(begin + place, new, len(new))
    with open("/proc/self/environ", "rb") as file:
        return new in file.read()


def show_command(words: Sequence[str]) -> None:
    """Show another command line in ``ps``, as much of it as there is room for.

    Parameters
    ----------
    words
        The command line; of the program's path the name alone is shown.
    """
    begin, end = _block(ARGUMENTS)
    room = end - begin
    if room <= 0:
        return
    text = b"\0".join(map(os.fsencode, (os.path.basename(words[0]), *words[1:])))[: room - 1]
    ctypes.memmove(begin, text.ljust(room, b"\0"), room)


def _block(which: int) -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as file:
        # The name in parentheses may hold anything: count from its end.
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[which]), int(fields[which + 1])

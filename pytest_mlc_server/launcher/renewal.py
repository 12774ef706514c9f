"""Makes anew in a forked server what a process that imports by itself has of its own.

What cannot be renewed does no harm: the secret of string hashes, the addresses of the loaded
libraries. The garbage collector's frozen generation stays frozen on purpose: the pages of the
imports stay shared.
"""

from __future__ import annotations

import os
import sys
import time

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .forking import Request


class UnmarkedError(Exception):
    """The kernel would not show the server's mark in its environment."""


def renew(request: Request) -> None:
    """Take over the environment of a server, and give up what siblings would share.

    The signal handlers are those that the imports have left: nothing here sets any before the fork.

    Parameters
    ----------
    request
        The server.

    Raises
    ------
    UnmarkedError
        If it would not be found by its mark.
    """
    _mark(request)
    _replace_environment(request.env)
    os.umask(request.umask)
    kernel.show_command([request.argv[0], "-m", *request.argv[3:]])  # without `entry` and its HOW
    if hasattr(sys, "orig_argv"):  # from Python 3.10 on
        sys.orig_argv = list(request.argv)
    _reseed()
    _forget_names()


def _mark(request: Request) -> None:
    old = f"{request.mark}={os.environ.get(request.mark, '')}".encode()
    new = f"{request.mark}={request.env[request.mark]}".encode()
    if not kernel.replace_in_environment(old, new):
        raise UnmarkedError("the mark of its environment cannot be replaced")


def _replace_environment(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    time.tzset()


def _reseed() -> None:
    """Make new random states where a new process has random ones.

    `random` does so by itself after a fork; `uuid`, `secrets` and `ssl` ask the kernel. The
    generator of torch begins with the same seed in each process, and so it does here.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def _forget_names() -> None:
    """Forget what was found out by the warm parent's environment."""
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None
        tempfile._name_sequence = None
    import importlib

    importlib.invalidate_caches()

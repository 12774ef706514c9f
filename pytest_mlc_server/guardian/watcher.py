"""The watcher: the keeper's parent. It ends what a keeper that died has left."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` takes 3 ms more
import os
import sys

from pytest_mlc_server.guardian import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(
    lease: int,
    psutil_home: str,
    doors: Sequence[int] = (),
    held: Sequence[int] = (),
    forks: Sequence[int] = (),
) -> None:
    """Start the keeper and wait for its end.

    Parameters
    ----------
    lease
        Descriptor of the lease's socket.
    psutil_home
        Directory to import psutil from.
    doors
        Descriptor of the socket where others may ask for a lease, if they may.
    held
        Descriptors that this process and the keeper keep open, and the server does not have: of
        locks that last for as long as anything of the server is left.
    forks
        Descriptor of the socket where a warm parent is to be asked for forks, if this is one's
        guardian.
    """
    for descriptor in (lease, *doors, *held, *forks):
        os.set_inheritable(descriptor, False)
    sys.path.append(psutil_home)
    # What the holder blocks and ignores is inherited: without SIGCHLD nobody here hears of an end.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    system.become_subreaper()
    keeper = os.fork()
    if keeper == 0:
        status = 1
        try:
            system.become_subreaper()  # a fork does not inherit it
            from pytest_mlc_server.guardian import keeper as keeper_module

            keeper_module.main(lease, doors, held, forks)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Whatever happened, the watcher's code must not run on in the keeper.
            os._exit(status)
    for descriptor in (lease, *doors, *forks):
        os.close(descriptor)  # they must close with the keeper: that is how its end is seen
    watch(keeper)
    os._exit(0)


def watch(keeper: int) -> None:
    """Wait until the keeper has ended in any way, then end all that it left."""
    import signal

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        # Somebody who means "stop" and finds this process means the server.
        try:
            os.kill(keeper, number)
        except ProcessLookupError:
            pass

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while os.waitpid(-1, 0)[0] != keeper:
        pass
    end_leftovers()


def end_leftovers() -> None:
    """Kill everything that the kernel handed to this process, until there is nothing."""
    import time

    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        from pytest_mlc_server import process

        process.kill(process.descendants(os.getpid()))
        time.sleep(0.005)

"""The keeper: starts the server, says when it is ready, and stops it when its leases end."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(
    lease: int,
    doors: Sequence[int] = (),
    held: Sequence[int] = (),
    forks: Sequence[int] = (),
) -> None:
    """Run the keeper until nothing of its server is left.

    Parameters
    ----------
    lease
        Descriptor of the first lease's socket. On it comes the order (see `read_order`), then a
        line of JSON with all that is not needed to execute the server's program.
    doors
        Descriptor of the socket where others may ask for a lease, if they may.
    held
        Descriptors of locks that last for as long as anything of the server is left.
    forks
        Descriptor of the socket of a warm parent, if this is one's keeper.
    """
    from pytest_mlc_server.guardian.spawn import Order, SpawnError, reserve, spawn

    try:
        order = Order(read_order(lease))
    except ValueError as error:
        sys.stderr.write(f"the order cannot be read: {error}\n")
        return
    problem, pid, build, forked = "", 0, None, None
    try:
        if order.lock:
            held = [*held, reserve(order.lock)]  # kept open until this process ends
        if order.builds:
            from pytest_mlc_server.guardian.building import Build

            build = Build(order.builds)
        if build is None or build.enter():
            if order.parent:
                from pytest_mlc_server.guardian.forked import launch

                pid, forked = launch(order, held)
            else:
                pid = spawn(order, *forks)
    except SpawnError as error:
        problem = str(error)
    began = time.monotonic()
    # `http.client` would load it and never use it: 15 ms and 6 MB, for requests to plain HTTP.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    # Everything that takes time to import comes from here on, beside the server's own start.
    from pytest_mlc_server.guardian.loop import Loop

    Loop(lease, order, pid, began, problem, doors, build, forked, held).run()


def read_order(lease: int) -> list[str]:
    """Read what to execute: a length of four bytes, then fields that end with NUL each.

    JSON would have to be imported first. Command lines and environments cannot hold a NUL.
    """
    size = int.from_bytes(_read_exactly(lease, 4), "big")
    return [os.fsdecode(field) for field in _read_exactly(lease, size).split(b"\0")]


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(descriptor, min(size - len(data), 1 << 20))
        if not chunk:
            os._exit(0)  # the holder ended before it said what it wanted: nothing was started
        data += chunk
    return data

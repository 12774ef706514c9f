"""The connections of the simulator: uvicorn's, with what faults need of them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_STATE = "mlc_sim_connection"

# A socket that lingers for no time at all sends RST when it is closed, and no FIN.
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection(Protocol):
    """What faults need of a connection."""

    #: Set when the connection is gone, and when the server is about to end.
    ended: asyncio.Event

    def reset(self) -> None:
        """End it at once with a TCP RST."""

    def disconnect(self) -> None:
        """Send what was written, and then a TCP FIN."""

    def quiet(self) -> None:
        """Keep the request that is being answered out of the access log."""

    def shutdown(self) -> None:
        """Close it after the request that is being answered."""


def connection_of(scope: Any) -> Connection:
    """Return the connection that a request came over."""
    connection: Connection = scope["state"][_STATE]
    return connection


class Connections:
    """The open connections."""

    def __init__(self) -> None:
        self._open: set[Any] = set()

    def at(self, port: int) -> list[Connection]:
        """Return the connections to a port."""
        return [item for item in self._open if item.server is not None and item.server[1] == port]

    def protocol(self, base: Any, accepted: Callable[[int], bool]) -> Any:
        """Return uvicorn's protocol class `base`, with what a `Connection` needs.

        Parameters
        ----------
        base : type
            One of uvicorn's HTTP protocols.
        accepted : Callable
            Is told the port of each new connection, and says whether it may stay.
        """
        open_ones = self._open

        class FaultyProtocol(base):  # type: ignore[misc]
            """uvicorn's, that can be cut off."""

            app_state: dict[str, Any]

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.ended = asyncio.Event()
                # It comes with the scope of each request. Addresses would not find it: there is
                # none where the other side had gone before it was accepted.
                self.app_state = {**self.app_state, _STATE: self}

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                open_ones.add(self)
                if self.server is not None and not accepted(self.server[1]):
                    self.reset()

            def connection_lost(self, exc: Exception | None) -> None:
                self.ended.set()
                open_ones.discard(self)
                super().connection_lost(exc)

            def shutdown(self) -> None:
                self.ended.set()
                super().shutdown()

            def reset(self) -> None:
                channel = self.transport.get_extra_info("socket")
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self.transport.abort()

            def disconnect(self) -> None:
                self.transport.close()

            def quiet(self) -> None:
                self.cycle.access_log = False

        return FaultyProtocol

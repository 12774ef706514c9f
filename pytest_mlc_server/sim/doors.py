"""The doors of a simulator: its listening sockets, opened, closed and opened again."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.connection import Connections
from pytest_mlc_server.sim.door import Door

if TYPE_CHECKING:
    import uvicorn

    from pytest_mlc_server.sim.rules import Script


class Doors:
    """All doors of a simulator.

    Parameters
    ----------
    script : Script
        What holds at each of them after a reset.

    Attributes
    ----------
    first : Door
        The one of ``--port``.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self.first = Door(0, script)
        self._opened: dict[int, Door] = {}
        self._listeners: dict[Door, _Listener] = {}
        self._connections = Connections()

    def protocol(self, base: Any) -> Any:
        """Return the protocol class that the server has to use in the place of `base`."""
        return self._connections.protocol(base, lambda port: self.at(port).accepts())

    def started(self, server: uvicorn.Server) -> None:
        """Take over the sockets on which `server` listens: the first door."""
        listener = _Listener(server, server.servers[0])
        self._listeners[self.first] = listener
        self.first.port = listener.port

    def at(self, port: int) -> Door:
        """Return the door that a connection to `port` came through."""
        # Not looked up among the first door's ports: on "localhost" it may have two.
        return self._opened.get(port, self.first)

    def find(self, port: int) -> Door | None:
        """Return the door that is known by `port`."""
        return self.first if port == self.first.port else self._opened.get(port)

    async def open(self) -> Door:
        """Open a door: on the first one's address, at a port of the kernel's choice."""
        listener = await self._listeners[self.first].another()
        door = Door(listener.port, self._script)
        self._opened[door.port] = door
        self._listeners[door] = listener
        return door

    async def close(self, door: Door) -> None:
        """Close a door that was opened."""
        await self._listeners.pop(door).close()
        door.epoch.calls.close()
        self._end_connections(door)
        del self._opened[door.port]

    async def reset(self, door: Door) -> int:
        """Begin a new epoch at a door, which listens again."""
        await self.resume(door)
        return door.reset()

    async def refuse(self, door: Door, seconds: float | None) -> None:
        """Have the kernel refuse connections to a door.

        Parameters
        ----------
        door : Door
            Which one.
        seconds : float, optional
            How long; until `resume` or `reset` without it.
        """
        if door in self._listeners:  # it may have been closed
            await self._listeners[door].pause(seconds)
            self._end_connections(door)

    async def resume(self, door: Door) -> None:
        """Listen again."""
        await self._listeners[door].resume()

    def _end_connections(self, door: Door) -> None:
        for connection in self._connections.at(door.port):
            connection.shutdown()


class _Listener:
    """The sockets of one door.

    Parameters
    ----------
    server : uvicorn.Server
        Serves their connections, and closes them when it ends.
    listening : asyncio.Server
        What listens.
    """

    def __init__(self, server: uvicorn.Server, listening: asyncio.base_events.Server) -> None:
        self._server = server
        self._listening = [listening]
        self._addresses = [(item.family, item.getsockname()) for item in listening.sockets]
        self._bound: list[socket.socket] = []
        self._timer: asyncio.Task[None] | None = None
        # One change at a time: what listens and what is only bound must not get mixed up.
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port; of several, the first."""
        port: int = self._addresses[0][1][1]
        return port

    async def another(self) -> _Listener:
        """Return a listener on the same address, at a port of the kernel's choice."""
        family, address = self._addresses[0]
        listening = await _listen(self._server, _bound(family, (address[0], 0, *address[2:])))
        self._server.servers.append(listening)
        return _Listener(self._server, listening)

    async def pause(self, seconds: float | None) -> None:
        """Do not listen, and keep the port."""
        async with self._lock:
            self._cancel()
            self._close_listening()
            if not self._bound:
                # At once, so that no other program gets the port. The kernel refuses connections
                # to a socket that is bound and does not listen.
                self._bound = [_bound(family, address) for family, address in self._addresses]
            if seconds is not None:
                self._timer = asyncio.ensure_future(self._resume_later(seconds))

    async def resume(self) -> None:
        """Listen again."""
        async with self._lock:
            self._cancel()
            bound, self._bound = self._bound, []
            for channel in bound:
                if self._server.should_exit:
                    channel.close()
                    continue
                listening = await _listen(self._server, channel)
                self._listening.append(listening)
                self._server.servers.append(listening)

    async def close(self) -> None:
        """Do not listen, and leave the port to others."""
        async with self._lock:
            self._cancel()
            self._close_listening()
            for channel in self._bound:
                channel.close()
            self._bound = []

    async def _resume_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._timer = None
        await self.resume()

    def _close_listening(self) -> None:
        for listening in self._listening:
            listening.close()
            self._server.servers.remove(listening)
        self._listening = []

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bound(family: int, address: Any) -> socket.socket:
    """Return a socket that is bound as asyncio binds its own, and does not listen."""
    channel = socket.socket(family, socket.SOCK_STREAM)
    channel.setblocking(False)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        channel.bind(address)
    except OSError:
        channel.close()
        raise
    return channel


async def _listen(server: uvicorn.Server, bound: socket.socket) -> asyncio.base_events.Server:
    config = server.config

    def connection() -> asyncio.Protocol:
        protocol: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )
        return protocol

    return await asyncio.get_running_loop().create_server(
        connection, sock=bound, backlog=config.backlog
    )

"""A lease is lost with its holder, and with whatever else its holder needs."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_mlc_server import PopenServer, leases, process
from pytest_mlc_server.guardian.holder import Holder
from tests.conftest import await_gone
from tests.support_server import linux, temporary

__all__ = ["temporary"]  # a fixture


@contextmanager
def holder_of(pid: int, start: str) -> Iterator[tuple[Holder, list[str]]]:
    lost: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, selectors.DefaultSelector() as selector:
        holder = Holder(theirs.detach(), selector, lambda _: None, lambda: lost.append("lost"))
        holder.watch_process(pid, start)
        yield holder, lost
        holder.close()


def test_a_server_ends_with_the_controller_of_its_holder(
    standin: Callable[..., PopenServer],
    other: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "also_needed", [other.pid])
    server = standin()
    server.start()
    pid = server.pid
    assert pid is not None
    assert server.poll() == "ready"
    other.kill()
    await_gone(pid)


@linux
def test_a_process_number_that_was_given_away_holds_nothing(
    other: subprocess.Popen[bytes],
) -> None:
    with holder_of(other.pid, "another time") as (_, lost):
        assert lost == ["lost"]


def test_a_process_that_is_gone_already_holds_nothing(other: subprocess.Popen[bytes]) -> None:
    start = process.start_time(other.pid)
    other.kill()
    other.wait()
    with holder_of(other.pid, start) as (holder, lost):
        if holder.must_be_looked_for:
            holder.look()
        assert lost == ["lost"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_refuses_to_tell_the_process_is_looked_for(
    number: int, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    with holder_of(other.pid, process.start_time(other.pid)) as (holder, lost):
        assert holder.must_be_looked_for
        holder.look()
        assert lost == []
        other.kill()
        other.wait()
        holder.look()
        assert lost == ["lost"]
        assert not holder.must_be_looked_for

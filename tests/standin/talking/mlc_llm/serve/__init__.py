"""Upstream's place for its `PopenServer`; here it is ours, which takes the same arguments."""

from pytest_mlc_server import PopenServer

__all__ = ["PopenServer"]

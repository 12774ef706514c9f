"""The simulator as a test scripts it: rules, faults, latency, and what the application asked.

It speaks to the control endpoints of a simulator that runs in a process of its own; nothing of
`pytest_mlc_server.sim` is imported here.
"""

from __future__ import annotations

from pytest_mlc_server.simulator.control import close_door, open_door
from pytest_mlc_server.simulator.fixture import MLCSim
from pytest_mlc_server.simulator.replies import Reply
from pytest_mlc_server.simulator.requests import SimRequest
from pytest_mlc_server.simulator.rules import Rule, When

__all__ = ["MLCSim", "Reply", "Rule", "SimRequest", "When", "close_door", "open_door"]

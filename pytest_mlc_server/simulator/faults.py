"""Faults of all requests, whatever rule they match: ``mlc_sim.faults.fail(503, rate=0.1)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.simulator.replies import Reply, given
from pytest_mlc_server.simulator.rules import DEADLY, matching

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    from pytest_mlc_server.simulator.fixture import MLCSim

    class Which(TypedDict, total=False):
        """Which requests a fault hits."""

        rate: float
        seed: int
        times: int
        when: Mapping[str, Any]


class Faults:
    """What goes wrong whatever a request asks; several may be set, and the first that hits counts.

    Each method takes `rate` (how likely it is for each request, from 0 to 1, drawn with `seed`),
    or `times` (how many requests it hits), or neither (all of them), and `when`: the keyword
    arguments of `MLCSim.when`, as a dict.

    Parameters
    ----------
    sim
        The simulator.
    """

    def __init__(self, sim: MLCSim) -> None:
        self._sim = sim

    def fail(
        self,
        status: int = 500,
        message: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        **which: Unpack[Which],
    ) -> None:
        """Answer with an HTTP error, with the real server's body unless another is given.

        Parameters
        ----------
        status
            The status, from 400 to 599. Default: 500.
        message
            What the body says.
        headers
            More headers, such as ``{"Retry-After": "1"}``.
        body
            The body, as JSON or as a text, in place of the real server's.
        **which
            `rate` (from 0 to 1) with `seed`, or `times`; and `when`. See the class.
        """
        __tracebackhide__ = True
        self._add(Reply.fail(status, message, headers=headers, body=body), **which)

    def reset(self, after: int | None = None, **which: Unpack[Which]) -> None:
        """Reset the connection, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it. Default: 0, not a byte of the answer.
        **which
            `rate` (from 0 to 1) with `seed`, or `times`; and `when`. See the class.
        """
        __tracebackhide__ = True
        self._add(Reply.reset(after), **which)

    def reset_connections(self, **which: Unpack[Which]) -> None:
        """Reset new connections as soon as they are accepted; `rate` and `times` count those."""
        __tracebackhide__ = True
        self._sim.control.use_side_door()
        self._add(Reply({"fault": {"kind": "reset", "accept": True}}), **which)

    def refuse(self, seconds: float | None = None) -> None:
        """Have nobody listen: new connections are refused, for some seconds or until the end."""
        __tracebackhide__ = True
        self._sim.control.use_side_door()
        self._add(Reply({"fault": {"kind": "refuse", **given(seconds=seconds)}}))

    def disconnect(self, after: int | None = None, **which: Unpack[Which]) -> None:
        """Close the connection in the middle of the answer, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it; an answer in one piece has its headers.
            Default: 0.
        **which
            `rate` (from 0 to 1) with `seed`, or `times`; and `when`. See the class.
        """
        __tracebackhide__ = True
        self._add(Reply.disconnect(after), **which)

    def stall(
        self, after: int | None = None, seconds: float | None = None, **which: Unpack[Which]
    ) -> None:
        """Stop in the middle of the answer, for ever or for some seconds.

        Parameters
        ----------
        after
            How many events of a stream come before it; an answer in one piece has its headers.
            Default: 0.
        seconds
            How long, in seconds. Default: until the client goes away or the test ends.
        **which
            `rate` (from 0 to 1) with `seed`, or `times`; and `when`. See the class.
        """
        __tracebackhide__ = True
        self._add(Reply.stall(after, seconds), **which)

    def malformed(self, after: int | None = None, **which: Unpack[Which]) -> None:
        """Cut an event of a stream off within its JSON, or an answer in one piece.

        Parameters
        ----------
        after
            How many events of a stream come before it; the stream goes on behind it. Default: 0.
        **which
            `rate` (from 0 to 1) with `seed`, or `times`; and `when`. See the class.
        """
        __tracebackhide__ = True
        self._add(Reply.malformed(after), **which)

    def sequence(self, *faults: Reply | None, **which: Unpack[Which]) -> None:
        """Have this happen to the first request, the second, and so on; None is nothing.

        Parameters
        ----------
        *faults
            ``Reply.fail(503)``, ``Reply.disconnect(after=2)`` …, or None.
        **which
            `when`.
        """
        __tracebackhide__ = True
        for number, fault in enumerate(faults, 1):
            lone = isinstance(fault, Reply) and fault.data.keys() == {"fault"}
            if fault is not None and not lone:
                raise ValueError(f"number {number} of the sequence is no fault alone: {fault!r}")
        data = [None if fault is None else fault.data["fault"] for fault in faults]
        self._send(data, {"sequence": data}, which)

    def clear(self) -> None:
        """Have nothing go wrong any more."""
        __tracebackhide__ = True
        self._sim.control.call("DELETE", "/sim/faults")

    def _add(self, reply: Reply, **which: Unpack[Which]) -> None:
        __tracebackhide__ = True
        fault = reply.data["fault"]
        self._send([fault], {"fault": fault}, which)

    def _send(self, faults: list[Any], data: dict[str, Any], which: Which) -> None:
        __tracebackhide__ = True
        unknown = which.keys() - {"rate", "seed", "times", "when"}
        if unknown:
            raise TypeError(
                f"no fault takes {', '.join(sorted(unknown))}; there are rate, seed, times and when"
            )
        which_data: dict[str, Any] = dict(which)
        if "when" in which:
            which_data["when"] = matching(**which["when"])
        if any(fault and fault["kind"] in DEADLY for fault in faults):
            self._sim.expect_death("a fault of mlc_sim")
        self._sim.control.call("POST", "/sim/faults", {**data, **given(**which_data)})

"""A door: a port of the simulator with rules, faults, latency and records of its own."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.calls import Calls
from pytest_mlc_server.sim.matching import RuleState, mismatch
from pytest_mlc_server.sim.records import Records
from pytest_mlc_server.sim.rule_faults import NoFault, RefuseFault, ResetFault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mlc_server.sim.matching import Question
    from pytest_mlc_server.sim.rule_faults import DoorFault, Fault
    from pytest_mlc_server.sim.rules import Default, Latency, Rule, Script


@dataclass
class FaultState:
    """A fault of a door, and how often it was asked for and happened."""

    fault: DoorFault
    asked: int = 0
    happened: int = 0

    def draw(self, question: Question | None) -> Fault | None:
        """Return what happens to a request, or, without one, to a connection."""
        spec = self.fault
        if spec.accepts != (question is None) or isinstance(spec.fault, RefuseFault):
            return None
        if question is not None and mismatch(spec.when, question) is not None:
            return None
        number = self.asked
        self.asked += 1
        if spec.sequence is not None:
            fault = spec.sequence[number] if number < len(spec.sequence) else None
            return None if isinstance(fault, NoFault) else fault
        if spec.times is not None and self.happened >= spec.times:
            return None
        if spec.rate is not None and not _lucky(spec.rate, spec.seed, number):
            return None
        self.happened += 1
        return None if isinstance(spec.fault, NoFault) else spec.fault


def _lucky(rate: float, seed: int, number: int) -> bool:
    """Draw for one request: it follows from the seed and the request's number alone."""
    return random.Random(f"{seed}/{number}").random() < rate  # noqa: S311 (no cipher)


@dataclass
class Epoch:
    """What holds at a door from one reset to the next.

    A request belongs to the epoch in which it came: one that ends later counts there still, and is
    not seen in the next.

    Attributes
    ----------
    number : int
        How many resets there were.
    default, latency : Default, Latency
        As the script file says, until they are changed.
    rules : list of RuleState
        The rules of a test, in their order.
    script_rules : list of RuleState
        Those of the script file, which come after them.
    faults : list of FaultState
        Those of the test and then those of the script file.
    records : Records
        What came in.
    calls : Calls
        What functions have to answer.
    requests : int
        How many requests came.
    """

    number: int
    default: Default
    latency: Latency
    script_rules: list[RuleState]
    faults: list[FaultState]
    rules: list[RuleState] = field(default_factory=list)
    records: Records = field(default_factory=Records)
    calls: Calls = field(default_factory=Calls)
    requests: int = 0

    def all_rules(self) -> Iterator[RuleState]:
        """Return the rules in the order in which they are asked."""
        return itertools.chain(self.rules, self.script_rules)

    def draw_fault(self, question: Question | None) -> Fault | None:
        """Return what happens to a request (or connection) whatever its rule."""
        drawn = (state.draw(question) for state in self.faults)
        return next((fault for fault in drawn if fault is not None), None)


class Door:
    """A port of the simulator.

    Parameters
    ----------
    port : int
        Where it is.
    script : Script
        What holds after a reset.
    """

    def __init__(self, port: int, script: Script) -> None:
        self.port = port
        self._script = script
        self._rule_numbers = itertools.count(1)
        self.request_numbers = itertools.count(1)
        self.epoch = self._new_epoch(0)

    def reset(self) -> int:
        """Begin a new epoch and return its number."""
        self.epoch.calls.close()
        self._rule_numbers = itertools.count(1)
        self.epoch = self._new_epoch(self.epoch.number + 1)
        return self.epoch.number

    def add_rule(self, rule: Rule) -> str:
        """Add a rule behind the others of this epoch, and return its id."""
        state = RuleState(f"rule-{next(self._rule_numbers)}", rule)
        self.epoch.rules.append(state)
        return state.id

    def accepts(self) -> bool:
        """Tell whether a new connection may stay."""
        return not isinstance(self.epoch.draw_fault(None), ResetFault)

    def _new_epoch(self, number: int) -> Epoch:
        script = self._script
        return Epoch(
            number=number,
            default=script.server,
            latency=script.latency,
            script_rules=[
                RuleState(f"script-{position}", rule)
                for position, rule in enumerate(script.rules, start=1)
            ],
            faults=[FaultState(fault) for fault in script.faults],
        )

"""What the simulator serves: requests answered in one piece, and tokens streamed, per second.

Chat completions whose prompt is said again, over connections that are kept open, each with one
request on its way at a time. The client is a process of its own beside the server, on the same
cores. Of a stream every event that has a text counts as one token. `cpu` is the CPU time that the
server took for one request or token, which other programs on the machine change less than they do
the rates; `client` is the part of one core that the client took.

Candidates are measured in turn, round after round, against servers that keep running.
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field

from _measure import _print_rows, report
from _sim import MODELS, TOLD, Simulator, chat, load, simulator

ONE_PIECE, STREAM = "in one piece", "streamed"
GOALS = {ONE_PIECE: 1_000, STREAM: 20_000}


@dataclass
class Candidate:
    """A server, and what is asked of it."""

    name: str
    kind: str
    server: Simulator
    request: bytes
    requests: int
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)

    def measure(self, connections: int) -> None:
        stream = self.kind == STREAM
        before = self.server.cpu()
        got = load(self.server.port, self.request, connections, self.requests, stream=stream)
        cost = self.server.cpu() - before
        units = got.events if stream else got.requests
        self.rates.append(units / got.seconds)
        self.costs.append(cost / units)
        self.clients.append(got.cpu / got.seconds)

    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            str(len(self.rates)),
            f"{statistics.median(self.rates):,.0f}",
            f"{max(self.rates):,.0f}",
            f"{statistics.median(self.costs) * 1e6:.0f} us",
            f"{statistics.median(self.clients):.0%}",
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000, help="in one piece, a round")
    parser.add_argument("--streams", type=int, default=400, help="streamed, a round")
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--short", type=int, default=16, help="tokens of an answer in one piece")
    parser.add_argument("--runs", type=int, default=5, help="rounds")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--told", nargs="+", choices=TOLD, default=list(TOLD))
    return parser.parse_args()


def main() -> None:
    given = arguments()
    sizes = {ONE_PIECE: (given.requests, given.short), STREAM: (given.streams, given.tokens)}
    found: dict[str, list[Candidate]] = {ONE_PIECE: [], STREAM: []}
    with report("throughput of the simulator"), ExitStack() as servers:
        for name in given.models:
            for told in given.told:
                server = servers.enter_context(simulator(MODELS[name], told, given.tokens))
                for kind, (requests, tokens) in sizes.items():
                    request = chat(MODELS[name], tokens, stream=kind == STREAM)
                    title = f"{name}, told {told}"
                    found[kind].append(Candidate(title, kind, server, request, requests))
        for each in found[ONE_PIECE] + found[STREAM]:
            load(each.server.port, each.request, given.connections, 100, stream=each.kind == STREAM)
        for _ in range(given.runs):
            for each in found[ONE_PIECE] + found[STREAM]:
                each.measure(given.connections)
        print(
            f"{given.connections} connections, {given.short} tokens in one piece,"
            f" {given.tokens} streamed; load {os.getloadavg()[0]:.1f}"
        )
        for kind, candidates in found.items():
            unit = "tokens/s" if kind == STREAM else "requests/s"
            head = (f"{kind}: {unit}", "runs", "median", "best", "cpu", "client")
            _print_rows([head, *(each.row() for each in candidates)])
            worst = min(statistics.median(each.rates) for each in candidates)
            word = "met" if worst >= GOALS[kind] else "MISSED"
            print(f"goal: {GOALS[kind]:,} {unit}: {word} (lowest median {worst:,.0f})")


if __name__ == "__main__":
    main()

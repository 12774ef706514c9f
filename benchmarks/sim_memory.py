"""Resident memory of the simulator after 1,000 requests and after many more.

One request of ten is a stream. With a token a door keeps the newest 10,000 requests for the test
that asks for them, unless it is reset before: there memory grows until there are as many. A suite
resets it for each test, which the last candidate does every 100 requests.
"""

from __future__ import annotations

import argparse
import http.client
import itertools

from _measure import _print_rows, report, verdict
from _sim import MODELS, TOKEN, TOLD, Simulator, chat, load, simulator

STEPS = (1_000, 10_000, 20_000, 50_000, 100_000)
CONNECTIONS = 32
EVERY = 100

#: What may come on top between 20,000 requests and the last: heaps are torn, records differ.
SLACK = 4 << 20


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def reset(port: int) -> None:
    """Reset the door, as a suite does for each test."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/sim/reset", headers={"X-MLC-Sim-Token": TOKEN})
    if connection.getresponse().status != 200:
        raise RuntimeError("not reset")
    connection.close()


def send(server: Simulator, model: str, count: int, *, resets: bool) -> None:
    """Send requests, of which one of ten is a stream."""
    streamed, whole = (chat(model, 16, stream=stream) for stream in (True, False))
    batch = EVERY if resets else 1_000
    for size in itertools.repeat(batch, count // batch):
        load(server.port, whole, CONNECTIONS, size - size // 10, stream=False)
        load(server.port, streamed, CONNECTIONS, size // 10, stream=True)
        if resets:
            reset(server.port)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=STEPS[-1])
    parser.add_argument("--told", nargs="+", choices=[*TOLD, "resets"], default=[*TOLD, "resets"])
    given = parser.parse_args()
    steps = [step for step in STEPS if step <= given.requests]
    model = MODELS["model directory"]
    with report("memory of the simulator"):
        rows = [("told", "ready", *(f"{step:,}" for step in steps))]
        growth = []
        for told in given.told:
            resets = told == "resets"
            with simulator(model, "token" if resets else told) as server:
                sizes, sent = [server.rss()], 0
                for step in steps:
                    send(server, model, step - sent, resets=resets)
                    sent = step
                    sizes.append(server.rss())
            rows.append((f"token, {told}" if resets else told, *map(mib, sizes)))
            if 20_000 in steps:
                growth.append(sizes[-1] - sizes[1 + steps.index(20_000)])
        _print_rows(rows)
        if growth:
            verdict("growth from 20,000 requests to the last", max(growth), SLACK, mib)


if __name__ == "__main__":
    main()

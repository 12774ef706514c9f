"""How many workers one server feeds before tests wait for their turn at the engine.

The simulator, with the latency of a small model on one GPU and a batch of `max_num_sequence`. Each
worker does what a test does: it thinks (its own work, the checks), then asks for an answer, again
and again. While there are places in the batch, an answer takes what it takes alone; then answers
queue. The knee is the highest number of workers at which the median answer takes no more than 10 %
longer than that of one worker.

The simulator has the real engine's queue and the times that a script gives it; it has no GPU, which
also gets slower as the batch fills. ``--slowdown`` says by how much for each further sequence.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass

from _measure import _print_rows, ms, report

from pytest_mlc_server import PopenServer

TTFT, ITL, TOKENS = 0.05, 0.01, 50

SCRIPT = """
[latency]
ttft = {ttft}
itl = {itl}
slowdown = {slowdown}

[[rules]]
reply = {{ text = "{text}" }}
"""


@dataclass
class Load:
    """What a number of workers got."""

    workers: int
    answers: list[float]
    seconds: float

    @property
    def median(self) -> float:
        return statistics.median(self.answers)

    @property
    def slow(self) -> float:
        """The answer that one of twenty takes longer than."""
        return sorted(self.answers)[int(0.95 * (len(self.answers) - 1))]

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds


def ask(connection: http.client.HTTPConnection, model: str) -> float:
    """Ask for one answer; return how long it took."""
    messages = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": TOKENS})
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}")
    return time.perf_counter() - began


def load(server: PopenServer, workers: int, think: float, seconds: float) -> Load:
    """Have workers ask for a while."""
    answers: list[float] = []
    begin, problems = threading.Barrier(workers), list[Exception]()
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(server.port), timeout=60)
            begin.wait()
            time.sleep(think * number / workers)  # not all at once: tests do not begin together
            while time.perf_counter() < end:
                answers.append(ask(connection, server.model))
                time.sleep(think)
            connection.close()
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return Load(workers, answers, time.perf_counter() - began)


def measure(places: int, think: float, seconds: float, slowdown: float) -> None:
    """Print what more and more workers get from one server."""
    with tempfile.TemporaryDirectory() as directory:
        script = os.path.join(directory, "script.toml")
        with open(script, "w", encoding="ascii") as file:
            text = "word " * (2 * TOKENS)
            file.write(SCRIPT.format(ttft=TTFT, itl=ITL, slowdown=slowdown, text=text))
        overrides = {"max_num_sequence": places}
        with PopenServer(
            None, engine="sim", port="auto", mode="server", overrides=overrides, sim_script=script
        ) as server:
            ask(http.client.HTTPConnection("127.0.0.1", int(server.port)), server.model)
            loads = [load(server, 1, think, seconds)]
            alone = loads[0].median
            # As many workers keep all places busy as fit into one turn of answer and thought.
            full = places * (alone + think) / alone
            steps = {max(2, round(full * share)) for share in (0.5, 0.65, 0.8, 1, 1.5, 2)}
            loads += [load(server, workers, think, seconds) for workers in sorted(steps)]
    print(
        f"\nmax_num_sequence {places}, an answer takes {ms(alone)} alone, think {ms(think)}: "
        f"{places} places x ({ms(alone)} + {ms(think)}) / {ms(alone)} = {full:.0f} workers"
    )
    rows = [("workers", "answers/s", "median answer", "19 of 20 within", "x alone")]
    rows += [
        (
            str(one.workers),
            f"{one.rate:.1f}",
            ms(one.median),
            ms(one.slow),
            f"{one.median / alone:.2f}",
        )
        for one in loads
    ]
    _print_rows(rows)
    fed = [one.workers for one in loads if one.median <= 1.1 * alone]
    print(f"the knee: {max(fed)} workers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each load")
    parser.add_argument("--slowdown", type=float, default=0.0, help="share per further sequence")
    given = parser.parse_args()
    with report("workers that one server feeds"):
        for places, think in ((4, 0.5), (4, 2.0), (16, 0.5), (16, 2.0)):
            measure(places, think, given.seconds, given.slowdown)


if __name__ == "__main__":
    main()

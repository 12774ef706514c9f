"""The run in Markdown, for the page of a job of GitHub Actions."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.masking import mask_url
from pytest_mlc_server.reporting.summary import incident_line, size

if TYPE_CHECKING:
    import pytest

    from pytest_mlc_server.reporting.summary import Summary

#: What GitHub takes of a step's summary, in bytes; of a longer one it shows nothing.
LIMIT = 1 << 20

#: What one failing test may take of that, in characters, and how many of the expensive ones there
#: are.
LONGEST, EXPENSIVE = 16_000, 10

#: Failing tests that are shown with more than their names, and characters of a name.
MANY, LONGEST_NAME = 500, 300

#: What Markdown might see more in than the character.
_SPECIAL = frozenset("\\`*_{}[]()#+-.!|~<>&$:@\"'=^")

SERVER_COLUMNS = (
    *("server", "model", "device", "ready after", "restarts", "peak memory"),
    *("requests", "tokens"),
)
COST_COLUMNS = ("test", "requests", "prompt tokens", "completion tokens", "first token")

Cost = Mapping[str, Any]


class StepSummary:
    """Writes what happened at the servers to the file that `GITHUB_STEP_SUMMARY` names.

    Parameters
    ----------
    path
        The file.
    summary
        Knows the servers.
    """

    def __init__(self, path: str, summary: Summary) -> None:
        self._path = path
        self._summary = summary
        self._failed: list[tuple[str, str, str]] = []
        self._costs: list[tuple[str, Cost]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what failed and what tests cost."""
        cost = getattr(report, "mlc_cost", None)
        if cost is not None:
            self._costs.append((report.nodeid, cost))
        if report.failed:
            ours = [
                f"{title}\n{text}"
                for title, text in report.sections
                if title.startswith("mlc server")
            ]
            where = f" ({report.when})" if report.when in ("setup", "teardown") else ""
            # A run with very many failures must not keep what the page has no room for.
            room = LIMIT - sum(len(shown) for _, _, shown in self._failed[:MANY])
            shown = "\n\n".join(ours)[-LONGEST:]
            shown = shown if len(self._failed) < MANY and room > 0 else ""
            self._failed.append((report.nodeid + where, _reason(report), shown))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Add what there is to say to the file, if any test used a server."""
        servers = self._summary.servers()
        if not servers and not any(shown for _, _, shown in self._failed):
            return
        try:
            room = LIMIT - (os.path.getsize(self._path) if os.path.exists(self._path) else 0)
            text = markdown(servers, self._costs, self._failed, room - 1)
            with open(self._path, "a", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            terminalreporter.write_line(
                f"WARNING: no summary of the step: {error.strerror}: {self._path} "
                "(GITHUB_STEP_SUMMARY)",
                yellow=True,
            )


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(getattr(crash, "message", "")).partition("\n")[0][:300]


def markdown(
    servers: Sequence[Mapping[str, Any]],
    costs: Sequence[tuple[str, Cost]],
    failed: Sequence[tuple[str, str, str]],
    room: int,
) -> str:
    """Return the page.

    Parameters
    ----------
    servers
        As `describe` returns them.
    costs
        Tests, each with what it cost.
    failed
        Tests that failed: name, reason, and what their servers logged.
    room
        How many bytes there may be.
    """
    parts = []
    if servers:
        parts.append("\n### MLC servers\n\n" + table(SERVER_COLUMNS, map(_server, servers)))
    incidents = [incident for server in servers for incident in server["incidents"]]
    if incidents:
        lines = [f"- {code(incident_line(incident))}\n" for incident in incidents]
        parts.append("\n#### What went wrong\n\n" + "".join(lines))
    if costs:
        rows = sorted(costs, key=lambda one: _weight(one[1]), reverse=True)[:EXPENSIVE]
        title = f"\n#### Most expensive tests ({len(rows)} of {len(costs)})\n\n"
        parts.append(title + table(COST_COLUMNS, (_cost(*one) for one in rows)))
    if failed:
        parts.append(f"\n#### Failed tests ({len(failed)})\n\n")
        parts += [_failure(*one) for one in failed]
    return _fitting(parts, room)


def _fitting(parts: Sequence[str], room: int) -> str:
    """Return as many parts as there is room for, with a word about those left out."""
    note = "\n{} more left out: a summary has room for 1 MiB.\n"
    taken: list[str] = []
    left = room - len(note) - 10
    for number, part in enumerate(parts):
        left -= len(part.encode("utf-8", "replace"))
        if left < 0:
            last = note.format(len(parts) - number)
            return "".join(taken) + (last if len(last) <= room else "")
        taken.append(part)
    return "".join(taken)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: object) -> str:
    """Return a text as Markdown that shows it as it is, whatever it is, on one line."""
    words = str(text)
    words = words if len(words) <= LONGEST_NAME else f"{words[:LONGEST_NAME]}..."
    plain = "".join(char if char.isprintable() else " " for char in words)
    shown = "".join(f"&#{ord(char)};" if char in _SPECIAL else char for char in plain)
    # In code, nothing is a mention, a link to an issue, or an address.
    return f"<code>{shown}</code>" if shown.strip() else ""


def _server(server: Mapping[str, Any]) -> list[str]:
    where = f"{server['worker']}: " if server["worker"] and server["scope"] != "run" else ""
    took, peak = server["startup_seconds"], server["peak_memory"]
    return [
        code(f"{where}{server['engine']} {mask_url(server['base_url'])}"),
        code(server["model"]),
        code(server["device"]),
        "" if took is None else f"{took:.2f} s",
        str(server["restarts"]),
        "" if peak is None else size(peak),
        _number(server["requests"]),
        _pair(server["prompt_tokens"], server["completion_tokens"]),
    ]


def _cost(test: str, cost: Cost) -> list[str]:
    ttft = cost["ttft_s"]
    names = ("requests", "prompt_tokens", "completion_tokens")
    shared = " (shared)" if cost["shared"] else ""
    numbers = [_number(cost[name]) for name in names]
    return [code(test) + shared, *numbers, "" if ttft is None else f"{ttft:.2f} s"]


def _failure(test: str, reason: str, shown: str) -> str:
    line = f"{code(test)} {code(reason)}".strip()
    if not shown:
        return f"- {line}\n\n"
    text = "".join(char if char.isprintable() or char in "\n\t" else " " for char in shown)
    return f"<details><summary>{line}</summary>\n\n<pre>{html.escape(text)}</pre>\n\n</details>\n\n"


def _weight(cost: Cost) -> tuple[int, int]:
    tokens = (cost["prompt_tokens"] or 0) + (cost["completion_tokens"] or 0)
    return tokens, cost["requests"] or 0


def _number(count: int | None) -> str:
    return "" if count is None else str(count)


def _pair(prompt: int | None, completion: int | None) -> str:
    if prompt is None and completion is None:
        return ""
    return f"{_number(prompt) or '?'} + {_number(completion) or '?'}"

"""The ports of the servers of a run."""

from __future__ import annotations

from pytest_mlc_server import preflight
from pytest_mlc_server.doctor.case import Case, with_remedy
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.shared_servers import Found
from pytest_mlc_server.workers import with_port

#: How many workers' ports are tried.
MOST = 256


def section(case: Case, shared: list[Found]) -> Section:
    """Tell whether the port can be had, or those of all workers."""
    result = Section("port")
    config = case.config
    local = config.host in ("localhost", "::1") or config.host.startswith("127.")
    if config.api_key is None and not local:
        result.add(
            "port.host",
            f"{config.describe('host')}: whoever reaches this machine can use the server, and its "
            "debug endpoints",
            "--mlc-api-key auto makes a key (it guards /v1 alone)",
        )
    if config.port == "auto":
        result.add("port.auto", "auto: the server chooses a free one")
        return result
    first = int(config.port)
    result.facts.update(first=first, workers=case.workers)
    before = len(result.findings)
    for offset in range(min(case.workers, MOST)):
        _add_one(result, case, offset, shared)
    if len(result.findings) == before:
        several = (
            f" to {first + case.workers - 1}, one for each worker," if case.workers > 1 else ""
        )
        result.add("port.free", f"{first}{several} can be bound on {config.host}")
    return result


def _add_one(result: Section, case: Case, offset: int, shared: list[Found]) -> None:
    remedy = "choose another one, or use --mlc-port auto"
    try:
        config = with_port(case.config, offset)
    except ConfigError as error:
        if not any("above 65535" in finding.text for finding in result.findings):
            result.add("port.wrong", *with_remedy(error.text, remedy))
        return
    for problem in preflight.port_problems(config):
        ours = next((s for s in shared if _port(s) == int(config.port)), None)
        if ours is not None and ours.status.get("idle") is not None:
            result.add(
                "port.ours",
                f"{config.port} is that of server {ours.id}, which waits for its next user; a "
                "server that wants the port has it stopped",
            )
        else:
            result.add("port.wrong", *with_remedy(problem, remedy))


def _port(server: Found) -> int:
    return int((server.status.get("ready") or {}).get("port") or 0)

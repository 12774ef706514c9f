"""schemathesis against the simulator's own ``/openapi.json``.

It looks for requests that end in a status 500. There are such requests, because there are for the
real server: those are listed here, and any other is a defect of the simulator.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.simulator import Simulator

pytestmark = [pytest.mark.thirdparty, pytest.mark.timeout(1800)]

# The last line of what the real server logs at each status 500 of its own. What its native code
# throws has a type of its own, which the simulator gives to these errors and to the deaths of a
# real engine alone.
REAL_ERRORS = re.compile(
    r"""
    tvm\.error\.InternalError:\ .*
    | AttributeError:\ 'NoneType'\ object\ has\ no\ attribute\ 'disagg_config'
    | AssertionError:\ the\ usage\ has\ no\ prefix_matched_length    # no other server takes part
    | IndexError:\ list\ index\ out\ of\ range                       # an empty prompt
    | TypeError:\ the\ content\ of\ a\ system\ message\ has\ to\ be\ a\ string
    | KeyError:\ '(type|function|name|text)'                         # in tool_choice, in a content
    | TypeError:\ (string\ indices|unhashable|argument\ of\ type|object\ of\ type|'\w+'\ object)\ .*
    | ValueError:\ (Role|Unsupported)\ .*                           # no template can write it
    | ValueError:\ Check\ failed:\ \(opt\.has_value\(\)\)\ is\ .*
    | (\w+:\ )?StopAsyncIteration                                   # a stream without any event
    | UnicodeDecodeError:\ .*                                        # a body of /debug/* in Latin-1
    | AttributeError:\ '\w+'\ object\ has\ no\ attribute\ 'get'     # one that is no object
    | starlette\.requests\.ClientDisconnect                          # one that ends too early
    | RuntimeError:\ The\ request\ id\ .*                            # the user of a running request
    | MemoryError:\ "n"\ is\ \d+                                     # that many choices
    """,
    re.VERBOSE,
)
_ERROR = re.compile(r"[A-Za-z_][\w.]*(: .*)?$")


def errors_of(log: list[str]) -> set[str]:
    """Return the last line of each traceback."""
    errors: set[str] = set()
    within = False
    for line in log:
        if line.startswith("Traceback (most recent call last):"):
            within = True
        elif within and not line.startswith((" ", "\n")) and _ERROR.match(line):
            errors.add(line.rstrip("\n"))
            within = False
    return errors


@pytest.mark.parametrize(
    "flags",
    [
        ("--model-lib", "mock://echo"),
        (
            *("--enable-debug", "--enable-tracing"),
            *("--embedding-model", "embedder", "--embedding-model-lib", "embedder.so"),
        ),
    ],
    ids=["mock", "everything"],
)
def test_no_status_500_but_the_real_servers(tmp_path: Path, flags: tuple[str, ...]) -> None:
    pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    # Installed beside the interpreter or on the way of all programs.
    program = shutil.which("st", path=str(Path(sys.executable).parent)) or shutil.which("st")
    assert program is not None, "schemathesis is installed, and its program st is not"
    with Simulator(*flags) as simulator:
        run = subprocess.run(
            [
                *(program, "run", f"{simulator.base_url}/openapi.json"),
                *("--checks", "not_a_server_error", "--phases", "coverage,fuzzing"),
                *("--max-examples", "25", "--seed", "1", "--continue-on-failure", "--no-color"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert simulator.get("/v1/models").status_code == 200
    # 1 says that it found a status 500, for which there are reasons.
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert len(simulator.stdout) > 100
    unexpected = {error for error in errors_of(simulator.stderr) if not REAL_ERRORS.match(error)}
    assert unexpected == set()

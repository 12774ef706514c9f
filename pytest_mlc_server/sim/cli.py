"""``pytest-mlc-server sim serve MODEL …``: the flags of ``mlc_llm serve``.

Nothing heavy is imported before the flags are parsed, so that a mistake in them
is told at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_mlc_server import overrides
from pytest_mlc_server.sim.flags import add_serve_flags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mlc_server.sim.scripting import Scripting

EX_UNAVAILABLE = 69

_COMMANDS = """\
usage: pytest-mlc-server sim serve MODEL [flags]

Answers like `mlc_llm serve`, without mlc_llm, weights or a GPU. `serve --help` shows the flags.
"""

IMITATIONS = ("wedge", "crash")

# What `--overrides` understands, in the order of the real server's help.
_OVERRIDES = (
    "max_num_sequence", "max_total_seq_length", "prefill_chunk_size", "max_history_size",
    "gpu_memory_utilization", "spec_draft_length", "spec_tree_width", "prefix_cache_mode",
    "prefix_cache_max_num_recycling_seqs", "prefill_mode", "context_window_size",
    "sliding_window_size", "attention_sink_size", "tensor_parallel_shards",
    "pipeline_parallel_stages", "opt",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as ``mlc_llm`` does: the help on stdout, the mistake alone on stderr."""

    #: What is shown behind the help that was asked for, and not behind the help after a mistake,
    #: which is the real server's to the letter.
    notes = ""

    def format_help(self) -> str:
        return super().format_help() + self.notes

    def error(self, message: str) -> NoReturn:
        self.notes = ""
        sys.stdout.write(f"{' Usage ':-^57}\n{self.format_help()}{' Error ':-^57}\n")
        sys.stdout.flush()
        self.exit(2, f"{message}\n")


def parse_overrides(text: str) -> dict[str, Any]:
    """Parse ``"name=value;name=value"``.

    It is argparse's work, as in the real server: names may be abbreviated, and a mistake ends the
    program.
    """
    parser = _Parser("__main__.py", description="Engine config override values")
    for name in _OVERRIDES:
        parser.add_argument(f"--{name}", type=overrides.OVERRIDES.get(name, str), default=None)
    return vars(parser.parse_args([f"--{item}" for item in text.split(";") if item]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of what follows ``serve``."""
    parser = _Parser("MLC LLM Serve CLI")
    add_serve_flags(parser, parse_overrides)
    own = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    _add_own_flags(own.add_argument_group("of the simulator alone"))
    parser.notes = "\n" + own.format_help()
    _add_own_flags(parser, shown=False)
    return parser


def _add_own_flags(parser: argparse._ActionsContainer, *, shown: bool = True) -> None:
    """Add the flags that the real server has not; they are never in its help."""

    def flag(name: str, text: str, **how: Any) -> None:
        parser.add_argument(name, help=text if shown else argparse.SUPPRESS, **how)

    flag(
        "--sim-imitate",
        "which deaths of the real server are imitated, of: wedge, crash; comma between them"
        " (default: none, a request that would kill it is answered with status 500)",
        type=_imitations,
        default=(),
        metavar="DEATHS",
    )
    flag("--script", "rules, latency and faults: a TOML file", metavar="FILE")


def _imitations(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in IMITATIONS:
            raise argparse.ArgumentTypeError(
                f"invalid choice: {name!r} (choose from {', '.join(IMITATIONS)})"
            )
    return names


def main(argv: Sequence[str]) -> int:
    """Run the simulator.

    Parameters
    ----------
    argv : Sequence[str]
        The arguments behind ``sim``: ``serve``, the model, flags.

    Returns
    -------
    int
        The exit code: 0 when it was asked to end, 2 for wrong arguments, 1 for a model directory
        that cannot be used and for a start that the real server would not get through, 3 for an
        address that cannot be bound, 69 where FastAPI or uvicorn is not installed.
    """
    if not argv or argv[0] != "serve":
        asked = bool(argv) and argv[0] in ("-h", "--help")
        (sys.stdout if asked else sys.stderr).write(_COMMANDS)
        return 0 if asked else 2
    try:
        return _serve(build_parser().parse_args(argv[1:]))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _serve(arguments: argparse.Namespace) -> int:
    with _collection_paused():
        problem = _missing_package()
        if problem is not None:
            sys.stderr.write(
                "pytest-mlc-server: the simulator needs its extra: pip install"
                f" 'pytest-mlc-server[sim]' (cannot import {problem})\n"
            )
            return EX_UNAVAILABLE
        from pytest_mlc_server.sim.startup import announce

        try:
            arguments.scripting = _scripting(arguments)
        except ValueError as error:
            sys.stderr.write(f"pytest-mlc-server: {error}\n")
            return 2
        try:
            announce(arguments)
            if arguments.scripting is not None:
                arguments.scripting.load(arguments.model)
        except Exception:
            # Told as the real server tells it: whoever reads its log finds the last line here too.
            traceback.print_exc()
            return 1
        from pytest_mlc_server.sim.serve import build, run

        try:
            app = build(arguments)
        except ValueError as error:
            sys.stderr.write(f"pytest-mlc-server: {_one_line(error)}\n")
            return 1
        # What was loaded stays: a collection that went through it would stop all streams for 50 ms.
        gc.freeze()
    try:
        run(app, arguments.host, arguments.port, arguments.scripting)
    except OverflowError:
        traceback.print_exc()
        return 1
    return 0


def _scripting(arguments: argparse.Namespace) -> Scripting | None:
    """Return what the simulator is told to do. Where nothing can tell it, nothing is imported."""
    # Taken out of the environment: nothing that is started from here needs to know it.
    token = os.environ.pop("PYTEST_MLC_SIM_TOKEN", "")
    if arguments.script is None and not token:
        return None
    from pytest_mlc_server.sim.scripting import Scripting

    scripting = Scripting.from_file(arguments.script, token)
    arguments.sim_imitate = (*arguments.sim_imitate, *scripting.imitated)
    return scripting


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Collect no garbage meanwhile: imports make none, and looking for it takes its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _missing_package() -> str | None:
    """Import what the simulator is built on; tell what cannot be imported, and why."""
    package = "fastapi"
    try:
        import fastapi  # noqa: F401

        package = "uvicorn"
        import uvicorn  # noqa: F401
    except ImportError as error:
        return f"{package}: {_one_line(error)}"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

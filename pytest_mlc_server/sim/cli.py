"""``pytest-mlc-server sim serve MODEL …``: the flags of ``mlc_llm serve``.

Nothing heavy is imported before the flags are parsed, so that a mistake in them
is told at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_mlc_server import values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EX_UNAVAILABLE = 69

#: What `--overrides` understands. The last two are accepted and do nothing: the flags of the same
#: names count.
OVERRIDES: dict[str, type] = {**values.OVERRIDES, **dict.fromkeys(values.IGNORED_OVERRIDES, str)}


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as ``mlc_llm`` does: the help on stdout, the mistake alone on stderr."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stdout)
        sys.stdout.flush()
        self.exit(2, f"{message}\n")


def parse_overrides(text: str) -> dict[str, Any]:
    """Parse ``"name=value;name=value"``.

    It is argparse's work, as in the real server: names may be abbreviated, and a mistake ends the
    program.
    """
    parser = _Parser("--overrides", description="Engine config override values")
    for name, kind in OVERRIDES.items():
        parser.add_argument(f"--{name}", type=kind, default=None)
    return vars(parser.parse_args([f"--{item}" for item in text.split(";") if item]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser("pytest-mlc-server sim", description="A simulator of mlc_llm.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    serve = commands.add_parser(
        "serve",
        help="serve a model that does not exist",
        description="Answer like `mlc_llm serve`, without mlc_llm, weights or a GPU.",
    )
    _add_engine_arguments(serve)
    _add_http_arguments(serve)
    return parser


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    def flag(name: str, text: str, **how: Any) -> None:
        parser.add_argument(name, help=text, **how)

    flag("model", "any name; of a model directory, chat template and tokenizer are used")
    flag("--device", "named in the log (default: %(default)s)", default="auto")
    flag(
        "--model-lib",
        "mock://echo answers as the mock engine of mlc_llm does, anything else like a real one",
    )
    flag(
        "--mode",
        "named in the log (default: %(default)s)",
        choices=["local", "interactive", "server"],
        default="local",
    )
    flag("--enable-debug", "serve /debug/*, heed debug_config", action="store_true")
    flag("--additional-models", "ignored", nargs="*")
    flag("--embedding-model", "ignored: embeddings are not simulated")
    flag("--embedding-model-lib", "ignored: embeddings are not simulated")
    flag(
        "--speculative-mode",
        "ignored",
        choices=["disable", "small_draft", "eagle", "medusa"],
        default="disable",
    )
    flag("--prefix-cache-mode", "ignored", choices=["disable", "radix"], default="radix")
    flag("--prefill-mode", "ignored", choices=["hybrid", "chunked"], default="hybrid")
    flag(
        "--overrides",
        '"name=value;…"; context_window_size and max_total_seq_length are heeded',
        type=parse_overrides,
        default="",
    )
    flag("--enable-tracing", "let /debug/dump_event_trace answer", action="store_true")


def _add_http_arguments(parser: argparse.ArgumentParser) -> None:
    def flag(name: str, text: str, **how: Any) -> None:
        parser.add_argument(name, help=text, **how)

    flag("--host", "where to listen (default: %(default)s)", default="127.0.0.1")
    flag("--port", "0 for any that is free (default: %(default)s)", type=int, default=8000)
    flag("--allow-credentials", "CORS: allow credentials", action="store_true")
    for name in ("origins", "methods", "headers"):
        flag(f"--allow-{name}", f"CORS: {name}, a JSON list", type=json.loads, default=["*"])
    flag("--api-key", "what /v1/* asks for")


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
        that cannot be used, 3 for an address that cannot be bound, 69 where FastAPI or uvicorn is
        not installed.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:
        return _exit_code(end)
    with _collection_paused():
        problem = _missing_package()
        if problem is not None:
            sys.stderr.write(
                "pytest-mlc-server: the simulator needs its extra: pip install"
                f" 'pytest-mlc-server[sim]' (cannot import {problem})\n"
            )
            return EX_UNAVAILABLE
        from pytest_mlc_server.sim.serve import build, run

        try:
            app = build(arguments)
        except ValueError as error:
            sys.stderr.write(f"pytest-mlc-server: {_one_line(error)}\n")
            return 1
    try:
        run(app, arguments.host, arguments.port)
    except SystemExit as end:
        return _exit_code(end)
    return 0


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


def _exit_code(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

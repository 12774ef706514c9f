"""The plain launch: a module is run as ``python -m`` runs it, and nothing else is touched."""

from __future__ import annotations

import importlib.util
import runpy
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str], secret: str) -> None:
    """Run a module.

    Parameters
    ----------
    arguments
        The module, and its command line.
    secret
        The API key that belongs to it; empty for none.
    """
    run(arguments[0], arguments[1:], secret)


def run(module: str, arguments: Sequence[str], secret: str) -> None:
    """Run a module with the command line that it would have had.

    Parameters
    ----------
    module
        Its name.
    arguments
        Its command line.
    secret
        The API key that belongs to it; empty for none.
    """
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        say(f"{sys.executable}: No module named {module}")
        sys.exit(1)
    # One word: a key may begin with a dash.
    sys.argv = [module, *arguments, *([f"--api-key={secret}"] if secret else [])]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def say(line: str) -> None:
    """Add a line to the server's log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

"""The direct launch: upstream's entry point, with the device check done in this very process."""

from __future__ import annotations

from . import plain, upstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str], secret: str) -> None:
    """Run the server.

    Parameters
    ----------
    arguments
        The module, and its command line.
    secret
        The API key that belongs to it; empty for none.
    """
    module, command = arguments[0], arguments[1:]
    if upstream.installed():
        problem = upstream.load(()) or answer(command)
        if problem:
            plain.say(f"pytest-mlc-server: launched plainly: {problem}")
    plain.run(module, command, secret)


def answer(command: Sequence[str]) -> str:
    """Answer the device check of the server that is about to run; needs `upstream.load` before.

    Parameters
    ----------
    command
        The server's command line, which names its device.

    Returns
    -------
    str
        Why the check is left to upstream; empty if it is not.
    """
    device = asked_device(command)
    if device in ("", "auto"):
        return "the command line names no device, so mlc_llm looks for one"
    upstream.answer_device_check(device)
    return ""


def asked_device(command: Sequence[str]) -> str:
    """Return the device that a command line names; empty if it names none."""
    device = ""
    for number, word in enumerate(command):
        if word == "--device" and number + 1 < len(command):
            device = command[number + 1]
        elif word.startswith("--device="):
            device = word.partition("=")[2]
    return device

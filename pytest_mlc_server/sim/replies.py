"""What a reply of a rule comes to: where its text comes from."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.sources import ECHO, Chunks, Random, Text

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mlc_server.sim.matching import Question
    from pytest_mlc_server.sim.rule_replies import Reply, ToolCall
    from pytest_mlc_server.sim.rules import Default
    from pytest_mlc_server.sim.sources import Source


def source_of(reply: Reply, question: Question, default: Default) -> Source:
    """Return where the text of `reply` comes from.

    Parameters
    ----------
    reply : Reply
        A reply whose file was read and whose function was asked.
    question : Question
        The request.
    default : Default
        What answers in the reply's place when it is a fault alone.
    """
    if reply.text is not None:
        return Text(reply.text)
    if reply.chunks is not None:
        return Chunks(tuple(reply.chunks))
    if reply.tool_calls is not None:
        return Text(calls_text(reply.tool_calls))
    if reply.random is not None:
        return random_source(reply.random.seed, question, reply.random.tokens)
    if reply.kind == "json":
        return Text(json.dumps(reply.json_value, ensure_ascii=False))
    return ECHO if reply.echo else default_source(default, question)


def default_source(default: Default, question: Question) -> Source:
    """Return where the text of a reply comes from that no rule gives."""
    return random_source(default.seed, question) if default.default == "random" else ECHO


def random_source(seed: int, question: Question, tokens: int | None = None) -> Random:
    """Return seeded text: the same for the same seed and the same conversation.

    It follows neither from the time nor from the order in which requests come, so that tests which
    run at the same time get the same text each time.
    """
    given = question.member("seed")
    own = given if isinstance(given, int) else seed
    mixed = zlib.crc32(f"{own}\n{question.conversation}".encode("utf-8", "replace"))
    return Random(mixed) if tokens is None else Random(mixed, tokens)


def calls_text(calls: list[ToolCall]) -> str:
    """Write calls as the model writes them down for the real server, which reads them as Python."""
    texts = [_call_text(call) for call in calls]
    return texts[0] if len(texts) == 1 else repr(texts)


def _call_text(call: ToolCall) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def with_file_read(reply: Reply, directory: Path | None) -> Reply:
    """Return `reply` with the text of its file in the file's place.

    Parameters
    ----------
    reply : Reply
        Any reply.
    directory : Path, optional
        What a relative path is relative to; without it, only absolute paths can be used.

    Raises
    ------
    ValueError
        The file cannot be read as UTF-8 text.
    """
    if reply.file is None:
        return reply
    from pathlib import Path

    path = Path(reply.file)
    if not path.is_absolute():
        if directory is None:
            raise ValueError(f"{reply.file} has to be an absolute path here")
        path = directory / path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from None
    given: dict[str, Any] = {"text": text}
    if reply.fault is not None:
        given["fault"] = reply.fault
    return type(reply).model_construct(**given)

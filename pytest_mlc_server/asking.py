"""Asking a server in one line: what `PopenServer` offers without any client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_mlc_server import answers
from pytest_mlc_server import metrics as server_metrics
from pytest_mlc_server.answers import Answer
from pytest_mlc_server.errors import ConfigError, RequestError
from pytest_mlc_server.metrics import Metrics
from pytest_mlc_server.requesting import TIMEOUT, Requesting

#: Time limit of a dump of the event trace, in seconds: the server does nothing else meanwhile, and
#: needs 5 s for 40 requests of 100 tokens.
TRACE_TIMEOUT = 300.0


class Asking(Requesting):
    """A handle whose server can be asked."""

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = TIMEOUT,
        **parameters: Any,
    ) -> Answer:
        """Ask for a chat completion.

        Parameters
        ----------
        messages
            What the user says; or the whole conversation.
        timeout
            Time limit of the answer, in seconds; None for none.
        **parameters
            Further fields of the request: ``max_tokens``, ``temperature`` …

        Returns
        -------
        Answer
            The text of the first choice.

        Raises
        ------
        RequestError
            If there is no answer, or one of another status than 200.
        """
        __tracebackhide__ = True
        body = {"messages": _conversation(messages), **_whole(parameters)}
        return self._answer("/v1/chat/completions", body, timeout)

    def complete(
        self, prompt: str | Sequence[int], *, timeout: float | None = TIMEOUT, **parameters: Any
    ) -> Answer:
        """Ask for the completion of a prompt.

        Parameters
        ----------
        prompt
            A text, or token ids.
        timeout, **parameters
            As of `chat`.

        Returns
        -------
        Answer
            The text of the first choice.

        Raises
        ------
        RequestError
            If there is no answer, or one of another status than 200.
        """
        __tracebackhide__ = True
        body = {"prompt": prompt, **_whole(parameters)}
        return self._answer("/v1/completions", body, timeout)

    def stream_chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = TIMEOUT,
        **parameters: Any,
    ) -> Iterator[str]:
        """Ask for a chat completion, and yield its text piece by piece as it comes.

        The request is sent when the first piece is asked for. The connection is closed when the
        iterator is: at the end of a loop over it, of a generator's ``close()``, or of its life.

        Parameters
        ----------
        messages, **parameters
            As of `chat`.
        timeout
            Time limit of each piece, in seconds; None for none.

        Yields
        ------
        str
            A piece of the first choice, never empty.

        Raises
        ------
        RequestError
            If there is no answer, one of another status than 200, or one that breaks off.
        """
        __tracebackhide__ = True
        body = {
            "messages": _conversation(messages),
            "stream_options": {"include_usage": True},  # for the record of this request
            **parameters,
            "stream": True,
        }
        with self._asked("POST", "/v1/chat/completions", timeout, self._with_model(body)) as answer:
            for event in answers.events(answer):
                piece = answers.piece(event)
                if piece:
                    yield piece

    def metrics(self) -> Metrics:
        """Return what the server counts: ``GET /metrics``, parsed.

        Raises
        ------
        RequestError
            If the server does not tell.
        """
        __tracebackhide__ = True
        with self._asked("GET", "/metrics", TIMEOUT) as answer:
            return server_metrics.parse(answer.text)

    def reset(self) -> None:
        """Reset the state of the engine: its prefix cache is empty, its counters are at zero.

        Requests that are under way are broken off.

        Raises
        ------
        ConfigError
            If the server's debug endpoints are off.
        RequestError
            If the server refuses.
        """
        __tracebackhide__ = True
        self._require("reset", "enable_debug")
        with self._asked("POST", "/debug/reset_engine", TIMEOUT, {"model": self.model}):
            pass

    def dump_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write the engine's event trace since the server's start to a file.

        Perfetto (https://ui.perfetto.dev) and ``chrome://tracing`` open it. The server answers
        nobody else meanwhile, and after many requests that takes seconds.

        Parameters
        ----------
        path
            The file; directories that are missing are made.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ConfigError
            If the server keeps no trace, or its debug endpoints are off.
        RequestError
            If the server does not give it.
        """
        from pytest_mlc_server import traces

        __tracebackhide__ = True
        self._require("dump_trace", "enable_debug", "enable_tracing")
        where = "/debug/dump_event_trace"
        with self._asked("POST", where, TRACE_TIMEOUT, {"model": self.model}) as answer:
            events = answers.parsed(answer)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(traces.perfetto(events)), encoding="utf-8")
        return path

    def _require(self, what: str, *settings: str) -> None:
        __tracebackhide__ = True
        if self.config.engine == "external":
            return  # how it was started, it alone knows: its answer tells
        problems = [
            f"{what} needs {_NEEDED[name]}, and {self.config.describe(name)}; {_FLAGS[name]}"
            for name in settings
            if not getattr(self.config, name)
        ]
        if problems:
            raise ConfigError(problems)

    def _with_model(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, **body}

    def _answer(self, path: str, body: Mapping[str, Any], timeout: float | None) -> Answer:
        __tracebackhide__ = True
        with self._asked("POST", path, timeout, self._with_model(body)) as response:
            answer = answers.parsed(response)
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            return Answer(text or "", answer, choice.get("finish_reason"))
        except (LookupError, TypeError, AttributeError):
            raise RequestError(
                f"POST {path} answers no completion: {response.text[: answers.SHOWN]}",
                status=response.status_code,
                body=response.text,
            ) from None


_NEEDED = {
    "enable_debug": "the server's debug endpoints",
    "enable_tracing": "the event trace",
}

_FLAGS = {
    "enable_debug": "--mlc-debug has them on",
    "enable_tracing": "--mlc-tracing has it kept",
}


def _conversation(messages: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return list(messages)


def _whole(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    if parameters.get("stream"):
        raise TypeError("stream=True: this returns a whole answer; stream_chat yields pieces")
    return parameters

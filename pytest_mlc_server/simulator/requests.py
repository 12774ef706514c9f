"""What an application asked the simulator, parsed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Endpoints by their short names.
ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/models": "models",
}


class Headers(dict[str, str]):
    """Headers of a request; their names are found in any case, as HTTP has it."""

    def __missing__(self, name: str) -> str:
        lower = name.lower()
        if lower == name:
            raise KeyError(name)
        return self[lower]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header's value, or the default."""
        return super().get(name.lower(), default)


@dataclass(frozen=True)
class SimRequest:
    """One request that an application sent to the simulator, and what it was answered.

    Attributes
    ----------
    method, path, query
        As they were sent.
    headers
        Names in lower case, found in any case.
    json
        The parsed body; None without one, or where it is not JSON.
    body
        The text of the body.
    status
        Of the answer; None where there was none (the connection was reset, the server hangs).
    reply
        The text of the answer, as far as it was sent.
    rule
        Id of the rule that matched, None where the default answered.
    fault
        What went wrong on purpose: ``status``, ``disconnect`` …; None for nothing.
    finished
        Whether the answer was sent to its end.
    unmatched
        Why each rule was not for it, by rule, where none was.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=Headers, repr=False)
    json: Any = None
    body: str = field(default="", repr=False)
    status: int | None = None
    reply: str | None = None
    rule: str | None = None
    fault: str | None = None
    finished: bool = False
    unmatched: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SimRequest:
        """Make one from the simulator's JSON."""
        reasons = record.get("unmatched") or ()
        return cls(
            method=record["method"],
            path=record["path"],
            query=record.get("query", ""),
            headers=Headers(record.get("headers", {})),
            json=record.get("body"),
            body=record.get("text", ""),
            status=record.get("status"),
            reply=record.get("reply"),
            rule=record.get("rule"),
            fault=record.get("fault"),
            finished=record.get("finished", False),
            unmatched=tuple((reason["rule"], reason["reason"]) for reason in reasons),
        )

    @property
    def endpoint(self) -> str:
        """``chat``, ``completions``, ``embeddings``, ``models``, or the path of another."""
        return ENDPOINTS.get(self.path, self.path)

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        model: str | None = self._get("model", str)
        return model

    @property
    def messages(self) -> list[Any]:
        """The messages of a chat; empty for other requests."""
        return self._get("messages", list) or []

    @property
    def prompt(self) -> Any:
        """The prompt of a completion, text or tokens; the input of an embedding request."""
        return self._get("prompt", object, self._get("input", object))

    @property
    def tools(self) -> list[str]:
        """Names of the tools that were offered."""
        found = []
        for tool in self._get("tools", list) or []:
            function = tool.get("function") if isinstance(tool, dict) else None
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                found.append(function["name"])
        return found

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self._get("stream", object))

    @property
    def last_message(self) -> str:
        """The text of a chat's last message, or of the prompt; empty where there is none."""
        if self.messages:
            return _text(self.messages[-1])
        prompt = self.prompt
        if isinstance(prompt, list) and all(isinstance(part, str) for part in prompt):
            return "\n".join(prompt)
        return prompt if isinstance(prompt, str) else ""

    @property
    def conversation(self) -> str:
        """All messages, written ``role: text``, one below the other; the prompt without any."""
        if not self.messages:
            return self.last_message
        return "\n".join(
            f"{message.get('role')}: {_text(message)}"
            for message in self.messages
            if isinstance(message, dict)
        )

    def shown(self) -> str:
        """Return one line for an error message."""
        line = f"{self.method} {self.path}"
        if self.last_message:
            line += f" {short(self.last_message)!r}"
        if self.tools:
            line += f", tools {', '.join(self.tools)}"
        if self.json is None and self.body:
            line += f", body {short(self.body)!r}"
        answer = str(self.status) if self.status is not None else "no answer"
        by = self.rule if self.rule is not None else "no rule"
        return f"{line} -> {answer} ({by}{', ' + self.fault if self.fault else ''})"

    def _get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self.json.get(name) if isinstance(self.json, dict) else None
        return value if value is not None and isinstance(value, kind) else default


def _text(message: object) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def short(text: str, length: int = 120) -> str:
    """Return a text, cut where it is too long for one line."""
    return text if len(text) <= length else f"{text[:length]}…"


def names(tools: Iterable[str]) -> list[str]:
    """Return the names of tools; one text is one name, and not as many as it has letters."""
    return [tools] if isinstance(tools, str) else list(tools)

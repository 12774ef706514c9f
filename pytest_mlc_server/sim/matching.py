"""Which rule a request is for, and why the others are not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.rule_base import ANSWERING, ENDPOINTS, GENERATING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_mlc_server.sim.rule_base import Match
    from pytest_mlc_server.sim.rule_replies import Reply
    from pytest_mlc_server.sim.rules import Rule

_SHOWN = 200


@dataclass(frozen=True)
class Question:
    """A request, as rules see it.

    Attributes
    ----------
    method : str
        The HTTP method.
    path : str
        The path, without the query.
    headers : dict
        Names in lower case.
    content : bytes
        The body.
    decode : Callable
        The tokenizer's `decode`, for prompts in token ids.
    """

    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    decode: Callable[[Sequence[int]], str]

    @cached_property
    def body(self) -> Any:
        """The parsed body; None where it is not JSON."""
        try:
            return json.loads(self.content) if self.content else None
        except (ValueError, RecursionError):
            return None

    def forget(self) -> None:
        """Drop what was parsed; it is parsed again when somebody asks."""
        for name in ("body", "messages"):
            self.__dict__.pop(name, None)

    def member(self, name: str) -> Any:
        """Return a member of the body, None where there is none."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    @cached_property
    def messages(self) -> list[tuple[str, str]]:
        """The conversation: roles and texts. A prompt is a conversation of one message."""
        if self.path == ENDPOINTS["chat"]:
            messages = self.member("messages")
            messages = messages if isinstance(messages, list) else []
            return [
                (str(message.get("role")), _text_of(message.get("content")))
                for message in messages
                if isinstance(message, dict)
            ]
        given = self.member("input" if self.path == ENDPOINTS["embeddings"] else "prompt")
        return [] if given is None else [("user", self._prompt(given))]

    @property
    def last_message(self) -> str | None:
        """The text of the last message, None where there is none."""
        return self.messages[-1][1] if self.messages else None

    @property
    def conversation(self) -> str:
        """All messages, one below the other."""
        return "\n".join(f"{role}: {text}" for role, text in self.messages)

    @property
    def tools(self) -> list[str]:
        """The names of the tools on offer."""
        tools = self.member("tools")
        if not isinstance(tools, list) or self.member("tool_choice") == "none":
            return []
        functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
        return [str(function.get("name")) for function in functions if isinstance(function, dict)]

    def _prompt(self, given: Any) -> str:
        if not isinstance(given, list):
            return str(given)
        if all(isinstance(item, int) for item in given):
            return self.decode(given)
        return "\n".join(self._prompt(item) for item in given)


def _text_of(content: Any) -> str:
    """Return the text of a message: of its parts, where it has parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def mismatch(match: Match, question: Question, endpoints: Sequence[str] = ANSWERING) -> str | None:
    """Tell why a request is not one that `match` describes; None if it is.

    The call count is not looked at: see `RuleState`.

    Parameters
    ----------
    match : Match
        What is wanted.
    question : Question
        The request.
    endpoints : Sequence of str
        The paths that are meant where `match` names none.
    """
    reasons = _reasons(match, question, endpoints)
    return next((reason for reason in reasons if reason is not None), None)


def _reasons(match: Match, question: Question, endpoints: Sequence[str]) -> Iterable[str | None]:
    if match.path is not None:
        yield _unequal("the path", match.path, question.path)
    elif question.path not in endpoints:
        yield f"the path is {question.path!r}, not one of {', '.join(endpoints)}"
    if question.path in ANSWERING:
        yield _unequal("the method", "POST", question.method)
    if match.model is not None:
        yield _unequal("the model", match.model, question.member("model"))
    for name, value in (match.headers or {}).items():
        yield _unequal(f"the header {name}", value, question.headers.get(name.lower()))
    for name in match.tools or ():
        if name not in question.tools:
            yield f"the tool {name} is not offered, but {', '.join(question.tools) or 'none'}"
    yield from _reasons_in_texts(match, question)


def _reasons_in_texts(match: Match, question: Question) -> Iterable[str]:
    texts = (
        ("the last message", question.last_message, match.last_message, match.last_message_regex),
        ("the conversation", question.conversation, match.conversation, match.conversation_regex),
    )
    for name, text, part, regex in texts:
        if part is not None and (text is None or part not in text):
            yield f"{part!r} is not in {name}, {_short(text)}"
        if regex is not None and (text is None or re.search(regex, text) is None):
            yield f"the regular expression {regex!r} finds nothing in {name}, {_short(text)}"


def _unequal(what: str, wanted: str, found: Any) -> str | None:
    if found == wanted:
        return None
    return f"{what} is {_short(found)}, not {wanted!r}"


def _short(found: Any) -> str:
    if found is None:
        return "which there is none of"
    text = repr(found)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass
class RuleState:
    """A rule, and how often it was used.

    Attributes
    ----------
    id : str
        How the control endpoints call it.
    rule : Rule
        The rule.
    seen : int
        How many requests fulfilled everything but its call count.
    hits : int
        How many requests it was for.
    """

    id: str
    rule: Rule
    seen: int = 0
    hits: int = 0

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.id} ({self.rule.name})" if self.rule.name else self.id

    def take(self, question: Question) -> Reply | str:
        """Return the reply to a request and count it, or the reason why there is none."""
        if self.rule.times is not None and self.hits >= self.rule.times:
            return f"it is used up (times = {self.rule.times})"
        endpoints = GENERATING if self.rule.gives_text else ANSWERING
        reason = mismatch(self.rule.when, question, endpoints)
        if reason is not None:
            return reason
        self.seen += 1
        call = self.rule.when.call
        if call is not None and self.seen not in (call if isinstance(call, list) else [call]):
            return f"it is for call {call}, and this was call {self.seen}"
        self.hits += 1
        return self.rule.reply_of(self.hits - 1)


@dataclass
class Choice:
    """The rule that a request is for, or why none is.

    Attributes
    ----------
    state : RuleState, optional
        The rule.
    reply : Reply, optional
        Its answer.
    reasons : list of (str, str)
        The rules that were asked in vain, and why.
    """

    state: RuleState | None = None
    reply: Reply | None = None
    reasons: list[tuple[str, str]] = field(default_factory=list)


def choose(rules: Iterable[RuleState], question: Question) -> Choice:
    """Return the first rule that is for the request."""
    choice = Choice()
    for state in rules:
        answer = state.take(question)
        if isinstance(answer, str):
            choice.reasons.append((state.title, answer))
            continue
        choice.state, choice.reply = state, answer
        break
    return choice

"""What the models of rules share: no unknown keys, no converted types."""

# No postponed annotations here: pydantic reads them at run time.

import keyword
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

#: What `Match.endpoint` may name beside a path.
ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "models": "/v1/models",
}

#: The endpoints whose answers are text.
GENERATING = (ENDPOINTS["chat"], ENDPOINTS["completions"])

#: The endpoints that the engine answers: those that are meant where nobody names one.
ANSWERING = (*GENERATING, ENDPOINTS["embeddings"])

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _check_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _check_endpoint(text: str) -> str:
    if text not in ENDPOINTS and not text.startswith("/"):
        raise ValueError(f"has to be one of {', '.join(ENDPOINTS)}, or a path that starts with /")
    return text


def _check_identifier(text: str) -> str:
    # The server reads calls out of the model's text as Python: it can express no other name.
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError(f"{text!r} is no Python identifier: the real server calls no such name")
    return text


Regex = Annotated[str, AfterValidator(_check_regex)]
Identifier = Annotated[str, AfterValidator(_check_identifier)]


class Strict(BaseModel):
    """A model that knows all its keys, and takes no value for another type's."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Match(Strict):
    """Which requests a rule is for: all that is given has to hold.

    Attributes
    ----------
    endpoint : str, optional
        ``chat``, ``completions``, ``embeddings``, ``models``, or a path such as ``/metrics``.
        Without it: chat and completions, and, for a rule of faults alone, embeddings.
    model : str, optional
        The request's ``model``.
    last_message, last_message_regex : str, optional
        Text within the last message, or within the prompt, also one in token ids; found by ``in``,
        or by `re.search`.
    conversation, conversation_regex : str, optional
        The same for all messages, written ``role: text``, one below the other.
    tools : list of str, optional
        Names of tools that the request has to offer, perhaps among others. With ``tool_choice =
        "none"`` it offers none.
    call : int or list of int, optional
        Which of the requests that fulfil everything else, counted from 1 while the rule is asked.
    headers : dict, optional
        Headers and their values; the names in any case.
    """

    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = None
    model: str | None = None
    last_message: str | None = None
    last_message_regex: Regex | None = None
    conversation: str | None = None
    conversation_regex: Regex | None = None
    tools: list[str] | None = None
    call: Count | list[Count] | None = None
    headers: dict[str, str] | None = None

    @property
    def path(self) -> str | None:
        """The path of the endpoint, None where none is named."""
        return None if self.endpoint is None else ENDPOINTS.get(self.endpoint, self.endpoint)

    @model_validator(mode="after")
    def _tools_are_for_chats(self) -> "Match":
        if self.tools is not None and self.path not in (None, ENDPOINTS["chat"]):
            raise ValueError("tools are only offered to the endpoint chat: this can never match")
        return self

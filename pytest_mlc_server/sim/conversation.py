"""From chat messages to the prompt: the ``conv_template`` of an ``mlc-chat-config.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Content = str | list[dict[Any, Any]] | None
Message = tuple[str, Content]

_FUNCTION = "{function_string}"


@dataclass(frozen=True)
class Conversation:
    """A chat template. The fields are those of ``conv_template``.

    Attributes
    ----------
    system_template, system_message : str
        How the system message is written, and the one used when a request brings none.
    system_prefix_token_ids : list of int or None
        Token ids put before the prompt.
    roles, role_templates : dict
        What introduces each role, and how its message is written.
    seps : list of str
        What ends a message; the second one, if any, ends the assistant's.
    role_content_sep, role_empty_sep : str
        What stands between a role and its message, and behind a role without a message.
    add_role_after_system_message : bool
        Whether the first message after a system message is introduced by its role.
    strip_reasoning_in_history : bool
        Whether the thinking of earlier turns is left out.
    stop_str, stop_token_ids : list
        What ends a reply.
    """

    roles: dict[str, str]
    seps: list[str]
    system_template: str = "{system_message}"
    system_message: str = ""
    system_prefix_token_ids: list[int] | None = None
    role_templates: dict[str, str] = field(default_factory=dict)
    role_content_sep: str = ""
    role_empty_sep: str = ""
    add_role_after_system_message: bool = True
    strip_reasoning_in_history: bool = False
    stop_str: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)

    @classmethod
    def from_config(cls, template: dict[str, Any]) -> Conversation:
        """Read a ``conv_template``; fields that rendering does not need are ignored."""
        known = {name: template[name] for name in cls.__dataclass_fields__ if name in template}
        return cls(**known)

    def render(self, messages: Sequence[Message], function_string: str = "") -> str:
        """Write `messages` as a prompt that ends where the assistant has to go on.

        Parameters
        ----------
        messages : Sequence[Message]
            Roles and contents, without the system's.
        function_string : str
            The tools on offer, for templates that have a place for them.

        Raises
        ------
        ValueError
            A role that the template does not know, or content other than text.
        """
        if self.strip_reasoning_in_history:
            messages = _without_reasoning(messages)
        system = self.system_template.replace("{system_message}", self.system_message)
        parts = [system]
        for index, message in enumerate([*messages, ("assistant", None)]):
            follows_system = index == 0 and system != ""
            introduced = self.add_role_after_system_message or not follows_system
            parts.append(self._render_message(message, introduced))
        head, placeholder, tail = "".join(parts).rpartition(_FUNCTION)
        prompt = head + (function_string if placeholder else "") + tail
        return prompt.replace(_FUNCTION, "")

    def _render_message(self, message: Message, introduced: bool) -> str:
        role, content = message
        if role not in self.roles:
            raise ValueError(f'Role "{role}" is not a supported role in {self.roles.keys()}')
        if content is None:
            return self.roles[role] + self.role_empty_sep
        placeholder = f"{{{role}_message}}"
        template = self.role_templates.get(role, placeholder)
        body = "".join(template.replace(placeholder, text) for text in _texts(content))
        prefix = self.roles[role] + self.role_content_sep if introduced else ""
        return prefix + body + self.seps[-1 if role == "assistant" else 0]


def _texts(content: str | list[dict[Any, Any]]) -> list[str]:
    if isinstance(content, str):
        return [content]
    for item in content:
        if item["type"] != "text":
            raise ValueError(f"Unsupported content type: {item['type']}")
    return [item["text"] for item in content]


def _without_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Leave out what the assistant thought before the last message of the user."""
    last_user = max((i for i, (role, _) in enumerate(messages) if role == "user"), default=-1)
    stripped: list[Message] = []
    for index, (role, content) in enumerate(messages):
        if index < last_user and role == "assistant" and isinstance(content, str):
            _, mark, answer = content.rpartition("</think>")
            content = answer.lstrip("\n") if mark else content
        stripped.append((role, content))
    return stripped

"""The model that is served: its name, tokenizer, chat template and context window."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mlc_server.sim.conversation import Conversation
from pytest_mlc_server.sim.tokenizer import ByteLevelBPE, Tokenizer, load_tokenizer

_BUILT_IN = Path(__file__).resolve().parent.parent / "data" / "mock-model"


@dataclass(frozen=True)
class ServedModel:
    """What requests are answered with.

    Attributes
    ----------
    name : str
        The id in ``/v1/models``: the MODEL argument, as it was given.
    tokenizer : Tokenizer
        Of the model directory, or the built-in one.
    conversation : Conversation
        The chat template.
    context_window_size : int
        How many tokens a prompt and its reply may have together.
    defaults : dict
        The model's sampling defaults.
    """

    name: str
    tokenizer: Tokenizer
    conversation: Conversation
    context_window_size: int
    defaults: dict[str, float]


def load_model(name: str, limits: dict[str, int | None] | None = None) -> ServedModel:
    """Read the model directory `name`, or take the built-in model where there is none.

    Parameters
    ----------
    name : str
        The MODEL argument.
    limits : dict, optional
        ``context_window_size`` and ``max_total_seq_length`` as given by ``--overrides``.

    Raises
    ------
    ValueError
        The directory's ``mlc-chat-config.json`` or ``tokenizer.json`` cannot be used.
    """
    directory = Path(name)
    config_path, tokenizer_path = directory / "mlc-chat-config.json", directory / "tokenizer.json"
    if config_path.is_file() and tokenizer_path.is_file():
        try:
            return _build(name, _read_config(config_path), load_tokenizer(tokenizer_path), limits)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{config_path} is not a chat config: {error!r}") from error
    tokenizer = ByteLevelBPE.from_file(_BUILT_IN / "tokenizer.json")
    return _build(name, _read_config(_BUILT_IN / "mlc-chat-config.json"), tokenizer, limits)


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _build(
    name: str,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    limits: dict[str, int | None] | None,
) -> ServedModel:
    limits = limits or {}
    window = limits.get("context_window_size") or config.get("context_window_size") or 2048
    total = limits.get("max_total_seq_length") or window
    sampling = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
    return ServedModel(
        name=name,
        tokenizer=tokenizer,
        conversation=Conversation.from_config(config["conv_template"]),
        context_window_size=min(window, total),
        defaults={key: config[key] for key in sampling if config.get(key) is not None},
    )

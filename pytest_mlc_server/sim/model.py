"""The model that is served: its name, tokenizer, chat template and context window."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.conversation import Conversation
from pytest_mlc_server.sim.limits import EngineLimits, infer_limits
from pytest_mlc_server.sim.tokenizer import ByteLevelBPE, Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    limits : EngineLimits
        How much its engine takes on at once.
    vocabulary_size : int
        How many tokens there are.
    defaults : dict
        The model's sampling defaults.
    """

    name: str
    tokenizer: Tokenizer
    conversation: Conversation
    limits: EngineLimits
    vocabulary_size: int
    defaults: dict[str, float]


def load_model(
    name: str, overrides: Mapping[str, Any] | None = None, mode: str = "local"
) -> ServedModel:
    """Read the model directory `name`, or take the built-in model where there is none.

    Parameters
    ----------
    name : str
        The MODEL argument.
    overrides : Mapping, optional
        What ``--overrides`` says.
    mode : str
        What ``--mode`` says.

    Raises
    ------
    ValueError
        The directory's ``mlc-chat-config.json`` or ``tokenizer.json`` cannot be used.
    """

    def limit(config: dict[str, Any]) -> EngineLimits:
        return infer_limits(config, mode, overrides)

    directory = Path(name)
    config_path, tokenizer_path = directory / "mlc-chat-config.json", directory / "tokenizer.json"
    if not config_path.is_file():
        tokenizer = ByteLevelBPE.from_file(_BUILT_IN / "tokenizer.json")
        return _build(name, _read_config(_BUILT_IN / "mlc-chat-config.json"), tokenizer, limit)
    # Other tokenizer files are not read: the tokens are other ones then, but the rest is right.
    own = tokenizer_path if tokenizer_path.is_file() else _BUILT_IN / "tokenizer.json"
    try:
        return _build(name, _read_config(config_path), load_tokenizer(own), limit)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config_path} is not a chat config: {error!r}") from error


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _build(
    name: str,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    limit: Callable[[dict[str, Any]], EngineLimits],
) -> ServedModel:
    sampling = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
    return ServedModel(
        name=name,
        tokenizer=tokenizer,
        conversation=Conversation.from_config(config["conv_template"]),
        limits=limit(config),
        vocabulary_size=config.get("vocab_size") or tokenizer.vocabulary_size,
        defaults={key: config[key] for key in sampling if config.get(key) is not None},
    )

"""A start as the real server's: the same steps and lines, and the same ways to fail."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, Field

from pytest_mlc_server.sim.capacity import (
    WEIGHTS,
    announce_capacity,
    native_line,
    weight_files,
)
from pytest_mlc_server.sim.devices import BOLD, GREEN, PLAIN, announce_device
from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.logs import log

if TYPE_CHECKING:
    from argparse import Namespace

MOCK_LIBRARY = "mock://"

_BUILT_IN = Path(__file__).resolve().parent.parent / "data" / "mock-model"

_CONFIG = "mlc-chat-config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_model", "vocab.json")
_ELF = b"\x7fELF"
_SMALLEST_ELF = 64

_MODES = {
    "local": "We choose small max batch size and KV cache capacity to use less GPU memory.",
    "interactive": "We fix max batch size to 1 for interactive single sequence use.",
    "server": (
        "We use as much GPU memory as possible (within the limit of gpu_memory_utilization)."
    ),
}

_OTHER_MODES = {
    "local": (209, "If you have low concurrent requests and want to use less GPU memory, "),
    "interactive": (
        214,
        "If you don't have concurrent requests and only use the engine interactively, ",
    ),
    "server": (
        219,
        "If you have high concurrent requests and want to maximize the GPU memory utilization, ",
    ),
}

_DEFAULT_INFO = "The default tokenizer info will be used."

#: The starts that a real server never ends, by name, and what its engine's thread dies of.
FAILURES = {
    "hang": "Check failed: (!fs.fail()) is false: Cannot open {model}/params_shard_0.bin",
    "out-of-memory": "std::bad_alloc",
    "bad-library": (
        "Check failed: (lib_handle_ != nullptr) is false: Failed to load dynamic shared library"
        " {library} {library}: file too short"
    ),
}


class MLCChatConfig(BaseModel):
    """What is read of ``mlc-chat-config.json``; the name is in the real server's errors."""

    conv_template: dict[str, Any]
    context_window_size: int | None = None
    field_model_config: dict[str, Any] = Field(default_factory=dict, alias="model_config")


def announce(arguments: Namespace) -> None:
    """Go through the steps of a start before the port is bound.

    A MODEL that is a path is held to be a model directory, and missing files are the mistakes that
    they are for the real server. A path is what exists, what begins with ``/``, ``./``, ``../`` or
    ``~``, and what would lie in a directory that exists. Any other name is served by the built-in
    model.

    Parameters
    ----------
    arguments : Namespace
        The parsed command line.

    Raises
    ------
    ValueError, FileNotFoundError, InternalError
        As the real server ends with them.
    SystemExit
        The engine's thread died. The real server would stay, and never listen.
    """
    log("INFO", "simulator", "This is the simulator of pytest-mlc-server: no model is loaded.")
    announce_device(arguments.device)
    directory = _model(arguments.model, arguments.model_lib)
    for additional in arguments.additional_models or []:
        name, _, library = additional.partition(",")
        _model(name, library or None)
    _announce_mode(arguments.mode)
    _check_tokenizer(directory)
    if not (arguments.model_lib or "").startswith(MOCK_LIBRARY):
        try:
            _load(arguments, directory)
        except InternalError as error:
            _die(error, imitate="wedge" in arguments.sim_imitate)
    if arguments.embedding_model is not None:
        _announce_embedding(arguments.embedding_model, arguments.embedding_model_lib)


def fail(kind: str, model: str = "model", library: str = "model.so") -> NoReturn:
    """Let the start fail as a real one does that never ends: a traceback, and then nothing.

    Parameters
    ----------
    kind : str
        A key of `FAILURES`.
    model, library : str
        What the message names.
    """
    error = InternalError(FAILURES[kind].format(model=model, library=library))
    _die(error, imitate=True)


def model_directory(name: str) -> Path | None:
    """Return the directory that `name` means, None for a name that is no path."""
    path = Path(name)
    looks_like_one = name.startswith(("/", "./", "../", "~")) or (
        os.sep in name and not name.startswith("HF://") and path.parent.is_dir()
    )
    return path if path.exists() or looks_like_one else None


def _model(name: str, library: str | None) -> Path | None:
    """Look for a model and its library."""
    directory = model_directory(name)
    if directory is not None:
        if not directory.is_dir():
            raise FileNotFoundError(f"Cannot find model {name}, directory does not exist")
        config = directory / _CONFIG
        if not config.is_file():
            raise FileNotFoundError(f"Cannot find {config} in the model directory provided")
        MLCChatConfig.model_validate_json(config.read_text(encoding="utf-8"))
    if library is None:
        _announce_jit(name)
    elif library.startswith(MOCK_LIBRARY):
        log("INFO", "engine_base.py:146", f"[DEBUG] mock test: {library}")
    else:
        _check_library(library, directory)
        log("INFO", "engine_base.py:149", f"Using library model: {library}")
    return directory


def _check_library(library: str, directory: Path | None) -> None:
    """Miss a library only where one can be expected.

    Where nothing is compiled the library of a model directory is missing for good reason, and so is
    the whole directory that libraries are in elsewhere. A file that is missing in another directory
    that exists is a mistake.
    """
    path = Path(library)
    if path.is_file() or not path.parent.is_dir() or directory is None:
        return
    if directory.resolve() not in path.resolve().parents:
        raise FileNotFoundError(f"The `model_lib` you passed in is not a file: {library}.\n")


def _load(arguments: Namespace, directory: Path | None) -> None:
    """Do what the real engine's thread does, of which it may die."""
    library = Path(arguments.model_lib or "")
    if library.is_file():
        with library.open("rb") as file:
            start_of_it = file.read(_SMALLEST_ELF)
        if len(start_of_it) < _SMALLEST_ELF or not start_of_it.startswith(_ELF):
            short = len(start_of_it) < _SMALLEST_ELF
            raise InternalError(
                "Check failed: (lib_handle_ != nullptr) is false: Failed to load dynamic shared"
                f" library {library} {library}:"
                f" {'file too short' if short else 'invalid ELF header'}"
            )
    listed = directory is not None and any((directory / name).is_file() for name in WEIGHTS)
    path = (directory or _BUILT_IN) / _CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    announce_capacity(config, arguments.mode, arguments.overrides, directory if listed else None)
    if directory is None or not library.is_file():
        # A copy without a library is one for the simulator, and has no weights for good reason.
        return
    for file_of_weights in weight_files(directory):
        if not file_of_weights.exists():
            raise InternalError(
                f"Check failed: (!fs.fail()) is false: Cannot open {file_of_weights}"
            )


def _announce_embedding(name: str, library: str | None) -> None:
    """Do what the start of the embedding model does, behind that of the engine."""
    if library is None:
        raise ValueError("--embedding-model-lib is required when --embedding-model is specified.")
    _check_tokenizer(model_directory(name))
    log("INFO", "serve.py:101", f"Embedding model {name} loaded successfully.")


def _check_tokenizer(directory: Path | None) -> None:
    if directory is None or (directory / "tokenizer.json").is_file():
        return
    if directory.is_dir():
        warning = "Tokenizer info is not detected as tokenizer.json is not found."
        native_line("cpp/tokenizers/tokenizers.cc:205", f"Warning: {warning} {_DEFAULT_INFO}")
    if not any((directory / name).exists() for name in _TOKENIZERS):
        raise InternalError(f"Cannot find any tokenizer under: {directory}")
    message = "Only tokenizer.json is read: tokens are those of the built-in tokenizer."
    log("WARNING", "simulator", message)


def _die(error: InternalError, *, imitate: bool) -> NoReturn:
    """Let the engine's thread end with `error`, and the program stay or not."""

    def load() -> None:
        raise error

    if imitate:
        # The main thread of the real server waits in native code, where only SIGTERM reaches it.
        # Ignored before the error is told: who reads it may send the signal at once.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    thread = threading.Thread(target=load, name="Thread-1")
    thread.start()
    thread.join()
    if imitate:
        while True:
            signal.pause()
    log(
        "ERROR",
        "simulator",
        "The real server stays like this, and never listens. The simulator ends instead; to have it"
        " stay as well, start it with --sim-imitate wedge.",
    )
    raise SystemExit(1)


def _announce_jit(name: str) -> None:
    policy = os.environ.get("MLC_JIT_POLICY", "ON")
    log(
        "INFO",
        "jit.py:43",
        f"{BOLD}MLC_JIT_POLICY{PLAIN} = {policy}. Can be one of: ON, OFF, REDO, READONLY",
    )
    key = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    home = os.environ.get("MLC_LLM_HOME", str(Path.home() / ".cache" / "mlc_llm"))
    library = f"{BOLD}{home}/model_lib/{key}.so{PLAIN}"
    log("INFO", "jit.py:168", f"Using cached model lib: {library}")


def _announce_mode(mode: str) -> None:
    chosen = f"{GREEN}{mode}{PLAIN}"
    log("INFO", "engine_base.py:189", f"The selected engine mode is {chosen}. {_MODES[mode]}")
    for other, (number, reason) in _OTHER_MODES.items():
        if other != mode:
            log("INFO", f"engine_base.py:{number}", f'{reason}please select mode "{other}".')

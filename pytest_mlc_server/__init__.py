"""A live MLC LLM server for tests: the `PopenServer` core and a pytest plugin around it.

Every name is loaded when it is first used: a project that merely has the plugin installed imports
this module at each start of pytest, and pays for nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_mlc_server.accounts import MLCUsage
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.engine_config import EngineConfig
    from pytest_mlc_server.errors import (
        ConfigError,
        EngineUnavailableError,
        MLCServerError,
        RequestError,
        SimulatorError,
        StartError,
        UsageUnknownError,
    )
    from pytest_mlc_server.factory import ServerFactory
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.simulator import MLCSim, Reply, Rule, SimRequest, When
    from pytest_mlc_server.usage import Usage

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "errors",
    "EngineConfig": "engine_config",
    "EngineUnavailableError": "errors",
    "MLCServerError": "errors",
    "MLCSim": "simulator",
    "MLCUsage": "accounts",
    "PopenServer": "server",
    "Reply": "simulator",
    "RequestError": "errors",
    "Rule": "simulator",
    "ServerConfig": "config",
    "ServerFactory": "factory",
    "SimRequest": "simulator",
    "SimulatorError": "errors",
    "StartError": "errors",
    "Usage": "usage",
    "UsageUnknownError": "errors",
    "When": "simulator",
}

__all__ = [
    "ConfigError",
    "EngineConfig",
    "EngineUnavailableError",
    "MLCServerError",
    "MLCSim",
    "MLCUsage",
    "PopenServer",
    "Reply",
    "RequestError",
    "Rule",
    "ServerConfig",
    "ServerFactory",
    "SimRequest",
    "SimulatorError",
    "StartError",
    "Usage",
    "UsageUnknownError",
    "When",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

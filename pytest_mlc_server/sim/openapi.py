"""``/openapi.json`` with the descriptions that the real server's has.

FastAPI takes a description from a docstring. The docstrings of this package say what the simulator
does; what a client reads about the API has to be what the real server says, so that code that is
generated from either description is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

_DESCRIPTIONS = Path(__file__).resolve().parent.parent / "data" / "openapi-descriptions.json"


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return what is to be `app`'s method ``openapi``.

    Parameters
    ----------
    app : FastAPI
        The application, complete with its routes.
    """

    def openapi() -> dict[str, Any]:
        # Only who asks for it pays for it: no client of an LLM does.
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _described(schema)
        return app.openapi_schema

    return openapi


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    texts = json.loads(_DESCRIPTIONS.read_text(encoding="utf-8"))
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            operation["description"] = texts["operations"][f"{method.upper()} {path}"]
    for name, model in schema["components"]["schemas"].items():
        model.pop("description", None)
        if name in texts["schemas"]:
            model["description"] = texts["schemas"][name]
    return schema

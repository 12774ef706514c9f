"""Attaches to a server that is already there."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import requests

from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, StartError
from pytest_mlc_server.masking import mask_url


def attach(config: ServerConfig) -> str:
    """Check that the server at a URL is there and works.

    Parameters
    ----------
    config
        A configuration with a `url`.

    Returns
    -------
    str
        The model's id: the configured one, else the first that the server lists.

    Raises
    ------
    StartError
        If it does not answer as an MLC server does.
    ConfigError
        If it serves another model than the configured one.
    """
    with session(config) as http:
        models = _list(http, config)
        if config.model is not None and config.model not in models:
            raise ConfigError(
                f"{config.describe('model')}: the server at {mask_url(config.url or '')} has "
                f"{', '.join(models) or 'no model'}; leave the model out to use what it has"
            )
        model = config.model or models[0]
        if config.ready == "generate":
            _ask(
                http,
                config,
                "POST",
                "/v1/completions",
                json={"model": model, "prompt": "Hello", "max_tokens": 1},
            )
    return model


def session(config: ServerConfig) -> requests.Session:
    """Return an HTTP session with the server's key, which no proxy keeps from a local server."""
    http = requests.Session()
    http.trust_env = not is_local(config.url or "")
    http.headers["User-Agent"] = "pytest-mlc-server-probe"
    if config.api_key:
        http.headers["Authorization"] = f"Bearer {config.api_key}"
        http.auth = as_it_is
    return http


def as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request alone: else a netrc's entry for the host takes the key's place."""
    return request


def is_local(url: str) -> bool:
    """Tell whether a URL is this machine's: then no proxy belongs in between."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _list(http: requests.Session, config: ServerConfig) -> list[str]:
    answer = _ask(http, config, "GET", "/v1/models")
    try:
        models = [str(item["id"]) for item in answer["data"]]
    except (KeyError, TypeError):
        models = []
    if not models:
        raise StartError(f"{config.describe('url')}: GET /v1/models lists no models: {answer!r}")
    return models


def _ask(
    http: requests.Session, config: ServerConfig, method: str, path: str, json: object = None
) -> Any:
    what = f"{config.describe('url')}: {method} {path}"
    try:
        response = http.request(
            method, f"{config.url}{path}", json=json, timeout=config.startup_timeout
        )
    except requests.Timeout:
        raise StartError(f"{what} was not answered within {config.startup_timeout:g} s") from None
    except requests.RequestException as error:
        raise StartError(f"{what}: {error}\nIs the server running, and the URL right?") from None
    if response.status_code in (401, 403):
        raise StartError(f"{what} answers {response.status_code}: set its key with --mlc-api-key")
    if response.status_code != 200:
        raise StartError(f"{what} answers {response.status_code}: {response.text[:500]}")
    try:
        return response.json()
    except ValueError:
        raise StartError(f"{what} answers no JSON: {response.text[:500]}") from None

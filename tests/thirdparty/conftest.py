"""Other people's programs against the simulator: run with ``-m thirdparty`` alone."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "thirdparty: other people's programs against the simulator; minutes, and only on demand",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "thirdparty" in str(config.option.markexpr):
        return
    skip = pytest.mark.skip(reason="takes minutes: run it with -m thirdparty")
    for item in items:
        if item.get_closest_marker("thirdparty") is not None:
            item.add_marker(skip)

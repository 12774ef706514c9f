from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support_plugin import Suite, make_suite


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, model_dir: str
) -> Iterator[Suite]:
    """An empty test suite whose ``mlc_llm`` is the stand-in; at the end, no server may be left."""
    suite = make_suite(pytester, monkeypatch, model_dir)
    yield suite
    suite.close()

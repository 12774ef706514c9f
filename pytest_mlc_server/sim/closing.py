"""Iterators within iterators, of which none is left open."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close `iterator` at the end of the block.

    A generator that another one stopped to iterate over ends only when its memory is collected;
    until then it would keep what it holds, such as a place in the engine.
    """
    try:
        yield iterator
    finally:
        close: Any = getattr(iterator, "aclose", None)
        if close is not None:
            await close()

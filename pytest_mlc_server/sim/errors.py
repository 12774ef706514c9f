"""What can be wrong with a request that has the right form."""

from __future__ import annotations


class BadRequestError(ValueError):
    """A request that is answered with status 400 and a message."""


class InternalError(RuntimeError):
    """What the real engine throws from its native code: answered with a plain status 500."""


# The traceback in the log then ends in the same line as the real server's, for those who read it.
InternalError.__module__ = "tvm.error"

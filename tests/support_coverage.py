"""Have guardians counted too: a plugin of the session `coverage` (``-p tests.support_coverage``).

A guardian starts without site-packages, and so without what coverage has put there for processes
of its own. It is started with them here, and is slower and larger for it.
"""

from __future__ import annotations

from typing import Any

from pytest_mlc_server import guardian_process


class _Counted(guardian_process._Guardian):
    def __init__(self, command: list[str], **how: Any) -> None:
        super().__init__([word for word in command if word != "-S"], **how)


guardian_process._Guardian = _Counted  # type: ignore[assignment,misc]

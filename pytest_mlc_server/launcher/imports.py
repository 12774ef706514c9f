"""What a warm parent has imported, and whether a server may still be forked from it."""

from __future__ import annotations

import gc
import os
import sys
import time

from . import installed, kernel, plain, safety, upstream

#: How long a comparison with what is installed counts for whoever asked for it, in seconds: a fork
#: is asked for next, and looking at some thousand files takes a tenth of a start.
COMPARED_FOR = 0.25


class Imports:
    """Imports everything that a server imports before it reads its command line.

    Parameters
    ----------
    module
        The package.

    Attributes
    ----------
    problem
        Why nothing can be forked; empty if the imports went well.
    inherited
        Descriptors that a server has as well: the standard streams, and what imports have opened.
    children
        Processes that imports have started.
    """

    def __init__(self, module: str) -> None:
        self.children: set[int] = set()
        self._known_threads: set[str] = set()
        self._compared_at = float("-inf")
        before, began = safety.descriptors(), time.time()
        self.problem = self._load(module)
        self.inherited = (safety.descriptors() - before) | {0, 1, 2}
        if self.problem:
            plain.say(self.problem)  # last: the guardian may come too late to be told
            return
        self._installed = installed.Installed(began)
        self.children = set(kernel.below(os.getpid()))
        gc.collect()
        gc.freeze()  # a collection in a server would write to every page that is shared

    def _load(self, module: str) -> str:
        if not upstream.installed():
            return f"there is no module {module}"
        pools = safety.Pools()
        try:
            with pools:
                surprise = upstream.load()
        except BaseException as error:
            sys.excepthook(*sys.exc_info())
            text = f"importing {module} failed: {type(error).__name__}: {error}"
            return text.partition("\n")[0]
        self._known_threads = pools.threads
        if surprise:
            plain.say(f"pytest-mlc-server: {surprise}")  # each server says it, and runs plainly
        return ""

    def compare(self) -> None:
        """Compare with what is installed at the next look, however fresh the last one is."""
        self._compared_at = float("-inf")

    def compared(self) -> None:
        """Take the last look for fresh: a fork is asked for next."""
        self._compared_at = time.monotonic()

    def trouble(self) -> tuple[str, bool]:
        """Return why nothing can be forked any more, and whether something was installed since."""
        if time.monotonic() - self._compared_at > COMPARED_FOR:
            change = self._installed.change()
            if change:
                return change, True
        reason = safety.of_threads(self._known_threads) or safety.of_devices()
        return reason or safety.of_descriptors(self.inherited - {0, 1, 2}), False

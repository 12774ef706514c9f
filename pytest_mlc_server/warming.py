"""The warm parent of one server: had before each of its starts, and let go of afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engines import LaunchPlan
from pytest_mlc_server.finding import Finding

if TYPE_CHECKING:
    from pytest_mlc_server.warm import Parents, Place


class Warming(Finding):
    """A handle whose server may be forked."""

    parents: Parents | None = None
    """The warm parents of this process, which it holds for longer than a server's start."""

    _own_parents: Parents | None = None

    def _parent(self, plan: LaunchPlan, config: ServerConfig, log: str) -> Place | None:
        """Return the warm parent that is to fork the server; say in the log why there is none."""
        if config.launch != "warm":
            return None
        from pytest_mlc_server import warm

        if not warm.wanted(config):
            return None
        parents = self.parents
        if parents is None:
            parents = self._own_parents = self._own_parents or warm.Parents()
        place = parents.place(plan, config)
        if not isinstance(place, str):
            return place
        line = f"--- not forked from a warm parent: {place}; launched directly ---\n"
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            file.write(line)
        return None

    def _let_parents_go(self) -> None:
        """Hold no warm parent beside the server's keeper, which does for as long as it must."""
        if self._own_parents is not None:
            self._own_parents.close()
            self._own_parents = None

    def _end(self) -> None:
        self._let_parents_go()
        super()._end()

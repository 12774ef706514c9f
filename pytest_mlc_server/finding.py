"""The device of one server, where it was asked for as ``auto``: found before each start."""

from __future__ import annotations

import contextlib
import os

from pytest_mlc_server import auto_device, diagnosis, preflight
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.errors import StartError
from pytest_mlc_server.handle import Handle


class Finding(Handle):
    """A handle that knows what ``auto`` means for its server."""

    found: Answer | None = None
    """What ``auto`` meant at the last start; None where the device was named."""

    _distrusts = False

    def _find_device(self, config: ServerConfig) -> str:
        """Return the device for the server's command line; empty leaves it as it was asked for."""
        self.found = auto_device.find(config, self._extra_env, ask=False)
        # A mistake that the preflight finds is told at once: asking takes a second.
        if self.found is None and auto_device.applies(config):
            if preflight.problems(config, self._extra_env):
                return ""
            self.found = auto_device.find(config, self._extra_env)
        return self.found.device if self.found is not None else ""

    def _note_device(self, log: str) -> None:
        """Say in the log why the server has to find its device by itself."""
        found = self.found
        if found is None or found.device or not found.asked_at:
            return
        line = f"pytest-mlc-server: mlc_llm finds its device by itself: {found.problem}\n"
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            file.write(line)

    def _device_is_gone(self, error: BaseException) -> bool:
        """Tell whether a start failed for a device that was remembered and is not there any more.

        Then another answer has been had, and the start is to be repeated: once.
        """
        found, gone = self.found, isinstance(error, StartError) and diagnosis.no_device(error)
        if self._distrusts or not gone or found is None or not found.device:
            return False
        self._distrusts = True
        auto_device.forget(self.config, self._extra_env, found)
        if self._find_device(self.config) == found.device:
            return False  # TVM sees it, and mlc_llm does not: there is nothing to try
        if self.share is not None and self.share.failure:
            # Others of the run would not try again, either.
            with contextlib.suppress(OSError):
                os.unlink(self.share.failure)
        self.keep_log = False
        return True

"""A stand-in for `mlc_llm` whose imports and device check are as the real ones, in small.

Nothing of it is upstream's text: the names and the ways are.
"""

import importlib
import sys

from mlc_llm import importing, orders

importing.obey()

from mlc_llm.libinfo import __version__  # noqa: E402
from mlc_llm.support import auto_device, constants  # noqa: E402

if "moved" in orders.read():
    # As if the module of the device check had another name.
    importlib.import_module("mlc_llm.cli.serve")
    del sys.modules["mlc_llm.support.auto_device"]
    sys.modules["mlc_llm.support"].__path__ = []

__all__ = ["__version__", "auto_device", "constants"]

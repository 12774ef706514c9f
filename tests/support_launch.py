"""For the tests of the launcher and of the warm parent: the stand-in of `mlc_llm` in its shape."""

from __future__ import annotations

import os

from tests.conftest import STANDIN

#: A stand-in with upstream's entry point, imports and device check; see its ``orders.py``. It
#: serves as the one in `STANDIN` does, which also has a stand-in for `tvm`.
STANDIN_LAUNCH = STANDIN / "launch"


def launch_env(*words: str, server: str = "", tvm: str = "") -> dict[str, str]:
    """Return the environment in which `mlc_llm` is the stand-in of this shape.

    Parameters
    ----------
    words
        Orders for its imports, its shape and its check.
    server
        Orders for what serves.
    tvm
        Devices that there are, and other orders for the stand-in of `tvm`.
    """
    return {
        "PYTHONPATH": os.pathsep.join((str(STANDIN_LAUNCH), str(STANDIN))),
        "STANDIN_LAUNCH": " ".join(words),
        "STANDIN": server,
        "TVM_STANDIN": tvm,
    }

"""A stand-in for `tvm`: devices that exist where ``TVM_STANDIN`` says so.

Words separated by spaces: ``cuda=2`` (how many of a kind there are; without any word, one cpu),
``there=FILE`` (such words are in a file), ``asked=FILE`` (a line for each question, with the
process), ``gate=FILE`` (each question waits for it), ``crash=KIND`` (asking for it ends the
process), ``import-fails``, ``import-exits=CODE``, ``noisy`` (prints at import).
"""

import os
import sys

ORDERS = dict(word.partition("=")[::2] for word in os.environ.get("TVM_STANDIN", "").split())

if "import-fails" in ORDERS:
    raise OSError("libtvm.so: cannot open shared object file")
if "import-exits" in ORDERS:
    os._exit(int(ORDERS["import-exits"]))
if "noisy" in ORDERS:
    print("tvm: a word on standard output")
    print("tvm: a word on standard error", file=sys.stderr)

__version__ = ORDERS.get("version", "0.26.0")

from . import runtime  # noqa: E402
from .runtime import Device, device  # noqa: E402

__all__ = ["Device", "device", "runtime"]

import importlib
import os

from mlc_llm import orders

if "check-gone" in orders.read():
    importlib.import_module("mlc_llm.cli.serve")
    __path__ = [os.path.join(os.path.dirname(__file__), "nowhere")]

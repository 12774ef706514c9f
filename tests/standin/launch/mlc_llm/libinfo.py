from mlc_llm import orders

__version__ = orders.read().get("version", "0.20.0.dev0")

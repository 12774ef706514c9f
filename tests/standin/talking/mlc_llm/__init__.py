"""A stand-in for `mlc_llm` that answers like a model: what the documents' examples run with."""

__version__ = "0.20.0.dev0"

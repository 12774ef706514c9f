"""A stand-in for `mlc_llm`, made for the tests: the real one is on no package registry."""

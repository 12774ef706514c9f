"""A simulator of ``mlc_llm serve``: the same HTTP interface, without mlc_llm, weights or a GPU.

Nothing is imported here: the command line has to parse its flags, and to complain about them,
before FastAPI is loaded.
"""

"""Variables that are read when this is imported, and not again."""

import os

MLC_JIT_POLICY = os.environ.get("MLC_JIT_POLICY", "ON")
MLC_LLM_HOME = os.environ.get("MLC_LLM_HOME", "")

if MLC_JIT_POLICY not in ("ON", "OFF", "REDO", "READONLY"):
    raise ValueError(f"MLC_JIT_POLICY must be one of ON, OFF, REDO, READONLY: {MLC_JIT_POLICY}")

"""The code blocks that no test runs: each is a decision. Why, says the comment before the block."""

from __future__ import annotations

COLD_START, SCALE = "docs/explanation/cold-start.md", "docs/explanation/scale.md"

#: Page, and how its block begins.
NOT_RUN = frozenset(
    {
        ("CONTRIBUTING.md", ".venv/bin/pip install -e"),
        ("README.md", "pip install --pre -U -f https://mlc.ai/wheels"),
        (COLD_START, "watcher → keeper → warm parent → reaper"),
        (COLD_START, "--- not forked from the warm parent: the thread"),
        (COLD_START, "pytest-mlc-server: launched plainly: mlc_llm 0.21.0"),
        (COLD_START, "python benchmarks/cold_start.py"),
        (SCALE, "controller ── pytest-xdist"),
        (SCALE, "workers = max_num_sequence"),
        ("docs/how-to/share-one-server.md", "pytest --mlc-advertise gpu-1.lan"),
        ("docs/tutorial/real-model.md", "pip install --pre -U -f https://mlc.ai/wheels"),
    }
)

"""The benchmarks are scripts that import each other as scripts do."""

from __future__ import annotations

import sys
from pathlib import Path

# Last: a script must not hide another module of its name.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from __future__ import annotations

from tests.support_plugin import suite as suite

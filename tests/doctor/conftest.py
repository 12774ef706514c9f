from __future__ import annotations

from tests.support_doctor import doctor as doctor
from tests.support_doctor import handlers as handlers
from tests.support_gpus import gpus as gpus

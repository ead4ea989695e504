"""How long faults are tried: ``GRADUNC_SOAK=10`` tries ten times as many as a change has to pass."""

from __future__ import annotations

import os

SOAK = int(os.environ.get("GRADUNC_SOAK", "1"))

"""The training loop, its checkpoints and its records."""

from __future__ import annotations

import sys

from lowregret import CallablePackage

sys.modules[__name__].__class__ = CallablePackage

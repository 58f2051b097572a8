"""Answers before anything is trained: shapes, capacity, learning rate, memory, time, advice. Torch-free."""

from __future__ import annotations

import sys

from lowregret import CallablePackage

sys.modules[__name__].__class__ = CallablePackage

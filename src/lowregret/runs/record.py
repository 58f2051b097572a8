"""The common ground of all records: what a run has found, as its files keep it."""

from __future__ import annotations

from lowregret.spec import Frozen


class Record(Frozen):
    """A frozen shape of what a run found, strict about unknown keys. Its lists are as long as what was asked for makes
    them: one that could be written can be read. How large a file may be is `limits.JSON_BYTES`.
    """

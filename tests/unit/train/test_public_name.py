"""`lowregret.train` is a function to users and a package to us; both must work, in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

import lowregret
from lowregret.errors import SpecError
from lowregret.train import sft


def test_it_is_called_like_a_function_and_imported_like_a_package(tmp_path: Path) -> None:
    for _ in range(2):  # the first use binds the package's name
        with pytest.raises(SpecError, match="unknown method 'nonsense'"):
            lowregret.train("tiny", "builtin:arithmetic", method="nonsense", out=tmp_path)
    assert lowregret.train.sft is sft

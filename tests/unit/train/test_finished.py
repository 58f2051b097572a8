"""Which run `lowregret eval` is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import LowregretError
from lowregret.runs.atomic import write_json
from lowregret.train.finished import trained_spec

ASKED = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "method": {"kind": "lora", "rank": 4}}


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (None, "is no run of `lowregret train`"),
        ({"spec": {"model": "tiny"}}, "is no run of `lowregret train`"),
        ({"spec": ASKED | {"of_another_version": 1}}, r"spec\.json: unknown key 'of_another_version'"),
        ({"spec": ASKED}, "has no adapter/ yet"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(
    tmp_path: Path, stored: dict[str, object] | None, words: str
) -> None:
    if stored is not None:
        write_json(tmp_path / "spec.json", stored)
    with pytest.raises(LowregretError, match=words):
        trained_spec(tmp_path)

"""replies.json belongs to the winners that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_json
from lowregret.runs.records import TrialRecord
from lowregret.runs.replies import Answered, Replies, Reply, Speaker, read_replies, speaker, winners
from lowregret.spec import FullFT, LoRA, Method, TrialSpec


def record(method: Method, **changed: Any) -> TrialRecord:
    spec = TrialSpec(method=method, learning_rate=1e-3)
    fields = {
        "id": spec.id,
        "method": method.name,
        "learning_rate": 1e-3,
        "seed": 0,
        "status": "finished",
        "spec": spec,
    }
    return TrialRecord(**{**fields, "shipped": {"a.safetensors": "0" * 64}, **changed})


def write(folder: Path, *speakers: Speaker) -> Replies:
    replies = {one.name: Reply(text="4", tokens=2, cut=False) for one in speakers}
    found = Replies(
        asked=1,
        held_out="0" * 16,
        choice="the first",
        max_tokens=8,
        speakers=speakers,
        rows=(Answered(place=0, prompt="2 + 2", reference="4", replies=dict(replies)),),
    )
    write_json(folder / "replies.json", found)
    return found


def test_the_replies_of_other_winners_are_not_read(tmp_path: Path) -> None:
    lora, full = record(LoRA(rank=2)), record(FullFT())
    base = Speaker(name="base")
    for kind, one in (("lora", lora), ("full", full)):
        (tmp_path / "best" / kind).mkdir(parents=True)
        write_json(tmp_path / "best" / kind / "trial.json", one)
    assert read_replies(tmp_path) is None
    found = write(tmp_path, base, speaker(lora), speaker(full))
    assert read_replies(tmp_path) == found
    other = record(LoRA(rank=2), shipped={"a.safetensors": "1" * 64})
    assert speaker(other) != speaker(lora)
    write_json(tmp_path / "best" / "lora" / "trial.json", other)
    assert read_replies(tmp_path) is None


def test_a_training_has_its_own_result(tmp_path: Path) -> None:
    write_json(tmp_path / "trial.json", record(FullFT()))
    assert [(path.name, speaker(one).name) for path, one in winners(tmp_path).items()] == [("model", "full")]
    write_json(tmp_path / "trial.json", record(LoRA(rank=2), status="diverged"))
    assert winners(tmp_path) == {}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "replies.json").write_text('{"asked": 1}')
    with pytest.raises(RecordsError, match=r"replies\.json: field"):
        read_replies(tmp_path)


def test_whose_and_how_many_are_told_apart(tmp_path: Path) -> None:
    base = Speaker(name="base")
    found = write(tmp_path, base)
    assert found.is_for(1, "0" * 16, [base])
    assert not found.is_for(2, "0" * 16, [base])
    assert not found.is_for(1, "1" * 16, [base])
    assert not found.is_for(1, "0" * 16, [base, speaker(record(FullFT()))])

"""What is asked of a run: files of strangers that may say anything, and answers that are given once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from lowregret.errors import RecordsError
from lowregret.runs import requests
from lowregret.runs.requests import Order, Request, answer, ask, is_paused, now, pause, read_orders, stamp, waiting
from lowregret.spec import LoRA, TrialSpec

TRIAL = TrialSpec(method=LoRA(rank=4), learning_rate=1e-3, seed=1)


def order(name: str, request: Request | None, **changed: object) -> Order:
    return Order.model_validate({"id": name, "when": now(), "request": request, "taken": True, "said": "", **changed})


def test_what_is_asked_is_read_in_its_order_and_goes_once_answered(tmp_path: Path) -> None:
    before = stamp(tmp_path)
    first, second = ask(tmp_path, Request(kind="stop", trial="a")), ask(tmp_path, Request(kind="trial", spec=TRIAL))
    assert stamp(tmp_path) != before
    assert waiting(tmp_path) == {first: Request(kind="stop", trial="a"), second: Request(kind="trial", spec=TRIAL)}
    answer(tmp_path, order(first, Request(kind="stop", trial="a"), steps={"a": 3}))
    assert list(waiting(tmp_path)) == [second]
    assert [(found.id, found.steps) for found in read_orders(tmp_path)] == [(first, {"a": 3})]


@pytest.mark.parametrize(
    "fields",
    [{"kind": "stop"}, {"kind": "seed", "trial": "a"}, {"kind": "trial"}, {"kind": "stop", "trial": "../a"},
     {"kind": "erase"}, {"kind": "seed", "path": "/etc"}],
)  # fmt: skip
def test_a_request_names_what_its_kind_needs_and_no_more(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate(fields)


def test_what_strangers_leave_is_refused_or_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "requests"
    home.mkdir()
    name = "1" * 19
    (home / "notes.txt").write_text("not a request")
    (home / f"{name}-{'a' * 16}.json").write_text("{")
    (home / f"{name}-{'b' * 16}.json").write_text('{"kind":"stop","trial":"' + "x" * 5000 + '"}')
    (tmp_path / "elsewhere").write_text('{"kind":"seed"}')
    (home / f"{name}-{'c' * 16}.json").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(home / f"{name}-{'d' * 16}.json")
    found = waiting(tmp_path)
    assert [key[-1] for key in found] == list("abcd")
    assert all(isinstance(said, str) for said in found.values())


def test_a_folder_of_requests_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    ask(other, Request(kind="seed"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "requests").symlink_to(other / "requests")
    assert waiting(tmp_path / "run") == {}
    with pytest.raises(RecordsError, match="is a link"):
        ask(tmp_path / "run", Request(kind="seed"))
    assert len(waiting(other)) == 1


def test_more_than_are_read_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MOST_WAITING", 2)
    ask(tmp_path, Request(kind="seed"))
    ask(tmp_path, Request(kind="seed"))
    with pytest.raises(RecordsError, match="2 requests wait"):
        ask(tmp_path, Request(kind="seed"))


def test_half_an_order_goes_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    answer(tmp_path, order("1" * 19 + "-" + "a" * 16, None))
    path = tmp_path / "orders.jsonl"
    with path.open("ab") as file:
        file.write(b'{"id": "2')
    assert len(read_orders(tmp_path)) == 1
    assert path.read_bytes().endswith(b"}\n"), "the next order must not be glued to it"
    with path.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(RecordsError, match=r"orders\.jsonl:2: damaged"):
        read_orders(tmp_path)


def test_a_study_that_is_paused_pauses_its_groups(tmp_path: Path) -> None:
    group = tmp_path / "study" / "groups" / "a.lora"
    group.mkdir(parents=True)
    pause(tmp_path / "study")
    assert is_paused(group)
    assert not is_paused(tmp_path)

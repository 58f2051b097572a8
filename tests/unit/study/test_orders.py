"""What a run takes on while it trains, and what it refuses in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowregret.runs import requests
from lowregret.runs.files import ORDERS
from lowregret.runs.records import TrialRecord
from lowregret.runs.requests import Request, ask, read_orders
from lowregret.spec import CompareSpec, DataSpec, FullFT, GroupSpec, LoRA, TrialSpec
from lowregret.study import orders as module
from lowregret.study.orders import Orders

LORA, FULL = LoRA(rank=4), FullFT()
DATA: dict[str, Any] = {"model": "tiny", "data": DataSpec(train="builtin:arithmetic"), "steps": 8}
COMPARE = CompareSpec(**DATA, methods=(LORA, FULL), seeds=2)
GROUP = GroupSpec(**DATA, condition="a", methods=(LORA,), seeds=2)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)


def more(method: Any = LORA, rate: float = 1e-3, seed: int = 0) -> Request:
    return Request(kind="trial", spec=TrialSpec(method=method, learning_rate=rate, seed=seed))


def answered(folder: Path, spec: CompareSpec | GroupSpec, request: Request, steps: dict[str, int] | None = None) -> str:
    """ "" for what is taken, else why not."""
    ask(folder, request)
    Orders(folder, spec, lambda line: None).look(steps or {}, [], lambda method: None)
    found = read_orders(folder)[-1]
    return "" if found.taken else found.said


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (more(), ""),
        (more(rate=1.1e-3), "the nearest is 0.001"),
        (more(rate=6.1e-8), "the nearest is 6.103515625e-08"),
        (more(FULL), "other methods"),
        (more(seed=2), "fewer seeds"),
        (Request(kind="seed"), "--seeds"),
        (Request(kind="stop", trial="x"), "not in training"),
    ],
)
def test_a_group_of_a_study_keeps_to_its_lattice_and_its_seeds(tmp_path: Path, request_: Request, words: str) -> None:
    said = answered(tmp_path, GROUP, request_)
    assert said == "" if not words else words in said


def test_a_trial_of_an_id_that_is_there_is_refused(tmp_path: Path) -> None:
    """Rates of the same six digits share a folder."""
    orders = Orders(tmp_path, COMPARE, lambda line: None)
    for rate in (1.1e-3, 1.10000001e-3):
        ask(tmp_path, more(rate=rate))
    orders.look({}, [], lambda method: None)
    first, second = read_orders(tmp_path)
    assert first.taken
    assert not second.taken
    assert "is there already" in second.said


@pytest.mark.parametrize("request_", [more(rate=1.1e-3), more(FULL, seed=9), more(LoRA(rank=64)), Request(kind="seed")])
def test_a_comparison_takes_what_its_spec_could_say(tmp_path: Path, request_: Request) -> None:
    assert answered(tmp_path, COMPARE, request_) == ""


def test_what_the_spec_would_refuse_is_refused_in_its_words(tmp_path: Path) -> None:
    said = answered(
        tmp_path, COMPARE.model_copy(update={"micro_batch_size": 2}), more(FullFT.model_validate(_in_backward()))
    )
    assert "in-backward" in said or "micro_batch_size" in said


def test_what_this_session_would_promise_and_not_train_is_refused(tmp_path: Path) -> None:
    asked = [ask(tmp_path, more(rate=4e-3)), ask(tmp_path, Request(kind="seed"))]
    found = Orders(tmp_path, COMPARE, lambda line: None, {"seed": "pilots are of one seed"})
    assert found.look({"a": 3}, [], lambda method: None)
    assert [(order.id, order.taken, order.said) for order in read_orders(tmp_path)][1] == (
        asked[1], False, "pilots are of one seed"
    )  # fmt: skip
    assert found.grown(COMPARE).seeds == COMPARE.seeds
    assert len(found.trials()) == 1


def test_a_request_is_seen_where_times_are_kept_to_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stamp", lambda folder: 1)
    found = Orders(tmp_path, COMPARE, lambda line: None)
    for count in (1, 2):
        ask(tmp_path, Request(kind="seed"))
        found.look({}, [], lambda method: None)
        assert len(read_orders(tmp_path)) == count


def test_a_request_too_many_leaves_a_file_that_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, requests):
        monkeypatch.setattr(place, "MOST_ORDERS", 2)
    for _ in range(4):
        ask(tmp_path, Request(kind="seed"))
    said: list[str] = []
    Orders(tmp_path, COMPARE, said.append).look({}, [], lambda method: None)
    assert len(read_orders(tmp_path)) == 2
    assert not list((tmp_path / "requests").iterdir())
    assert "not answered" in said[-1]


def test_a_seed_that_was_added_counts_among_those_of_a_larger_command(tmp_path: Path) -> None:
    """Two seeds and two more are four; a command of three goes on to four, one of six to six."""
    for _ in range(2):
        ask(tmp_path, Request(kind="seed"))
    first = Orders(tmp_path, COMPARE, lambda line: None)
    first.look({}, [], lambda method: None)
    assert first.grown(COMPARE).seeds == 4
    for asked, seeds in ((2, 4), (3, 4), (6, 6)):
        later = COMPARE.model_copy(update={"seeds": asked})
        again = Orders(tmp_path, later, lambda line: None)
        again.look({}, [], lambda method: None)
        assert again.grown(later).seeds == seeds


def _in_backward() -> Any:
    from lowregret.spec.method import parse_method

    return parse_method("full:in-backward")


def test_an_order_is_in_force_where_its_trials_stand_again(tmp_path: Path) -> None:
    ask(tmp_path, more(rate=4e-3))
    first = Orders(tmp_path, COMPARE, lambda line: None)
    assert first.look({"a": 3, "b": 1}, [], lambda method: None)
    assert [trial.learning_rate for trial in first.trials()] == [4e-3]
    again = Orders(tmp_path, COMPARE, lambda line: None)
    for steps, there in (({"a": 2, "b": 1}, 0), ({"a": 3}, 0), ({"a": 3, "b": 1}, 1), ({"a": 7, "b": 2, "c": 0}, 1)):
        again.see(steps, [])
        assert len(again.trials()) == there, steps
    ended = TrialRecord.of(TrialSpec(method=LORA, learning_rate=1e-3), id="b", status="finished")
    again.see({"a": 3}, [ended])
    assert len(again.trials()) == 1, "what has ended has come as far"


def test_what_is_asked_as_the_last_of_a_pack_end_is_not_in_force_before(tmp_path: Path) -> None:
    ask(tmp_path, more(rate=4e-3))
    Orders(tmp_path, COMPARE, lambda line: None).look({}, [], lambda method: None, {"a": 8})
    again = Orders(tmp_path, COMPARE, lambda line: None)
    again.see({"a": 5}, [])
    assert again.trials() == [], "from a checkpoint in the middle of the pack"
    again.see({}, [TrialRecord.of(TrialSpec(method=LORA, learning_rate=1e-3), id="a", status="finished")])
    assert len(again.trials()) == 1


def test_a_kill_between_the_answer_and_its_end_answers_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ask(tmp_path, Request(kind="seed"))
    request = (tmp_path / "requests" / f"{name}.json").read_bytes()
    Orders(tmp_path, COMPARE, lambda line: None).look({}, [], lambda method: None)
    (tmp_path / "requests" / f"{name}.json").write_bytes(request)
    again = Orders(tmp_path, COMPARE, lambda line: None)
    again.look({}, [], lambda method: None)
    assert (tmp_path / ORDERS).read_bytes().count(b"\n") == 1
    assert again.grown(COMPARE).seeds == 3
    assert not list((tmp_path / "requests").iterdir())

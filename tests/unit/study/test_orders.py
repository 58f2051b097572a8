"""What a run takes on while it trains, and what it refuses in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
        (more(FULL), "other methods"),
        (more(seed=2), "fewer seeds"),
        (Request(kind="seed"), "--seeds"),
        (Request(kind="stop", trial="x"), "not in training"),
    ],
)
def test_a_group_of_a_study_keeps_to_its_lattice_and_its_seeds(tmp_path: Path, request_: Request, words: str) -> None:
    said = answered(tmp_path, GROUP, request_)
    assert said == "" if not words else words in said


@pytest.mark.parametrize("request_", [more(rate=1.1e-3), more(FULL, seed=9), more(LoRA(rank=64)), Request(kind="seed")])
def test_a_comparison_takes_what_its_spec_could_say(tmp_path: Path, request_: Request) -> None:
    assert answered(tmp_path, COMPARE, request_) == ""


def test_what_the_spec_would_refuse_is_refused_in_its_words(tmp_path: Path) -> None:
    said = answered(
        tmp_path, COMPARE.model_copy(update={"micro_batch_size": 2}), more(FullFT.model_validate(_in_backward()))
    )
    assert "in-backward" in said or "micro_batch_size" in said


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


@pytest.mark.parametrize("request_", [more(rate=4e-3), Request(kind="seed")])
def test_where_trials_are_chosen_elsewhere_none_is_added_and_one_may_be_stopped(
    tmp_path: Path, request_: Request
) -> None:
    ask(tmp_path, request_)
    ask(tmp_path, Request(kind="stop", trial="a"))
    Orders(tmp_path, COMPARE, lambda line: None, fixed=True).look({"a": 1}, [], lambda method: None)
    added, stopped = read_orders(tmp_path)
    assert (added.taken, stopped.taken) == (False, True)
    assert "--until-decided" in added.said

"""The ledger, the order of what it holds, and what is too much to be taken: without a base."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lowregret.engine.engine import Engine
from lowregret.errors import RecordsError
from lowregret.serve.problems import Problem
from lowregret.serve.tinker.catalogue import Catalogue
from lowregret.serve.tinker.drawing import Drawing
from lowregret.serve.tinker.futures import Futures
from lowregret.serve.tinker.ledger import Answer, Kept, Kind, Ledger, failure
from lowregret.serve.tinker.passing import together
from lowregret.serve.tinker.reading import passing
from lowregret.serve.tinker.samplers import Samplers
from lowregret.serve.tinker.tensors import BATCH_CELLS, CELLS, Datum, Passing, check
from lowregret.serve.tinker.trainer import Trainer
from lowregret.serve.tinker.work import Create, Score, Task

DONE = Answer({}, {})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    found.add_session("s", {})
    return found


def kept(seq: int, kind: Kind = "pass", owner: str = "m", form: str = "json") -> Kept:
    return Kept(f"{owner}:{seq}", owner, seq, kind, b"body", form, float(seq))


def trainer_on(ledger: Ledger) -> Trainer:
    return Trainer(
        cast(Engine, None),
        ledger,
        pass_tokens=9,
        most_models=1,
        change=lambda run: run(),
        tell=lambda told: None,
        wake=lambda: None,
        log=lambda what, trace: None,
    )


def test_what_was_given_up_is_not_waited_for_by_the_next_server(ledger: Ledger) -> None:
    """0 was done, 1 never came, 2 was given up, 3 was refused."""
    for each in (kept(0, "create"), kept(2), kept(3, "void"), kept(5, "void")):
        ledger.accept(each)
        ledger.keep({each.id: DONE})
    assert ledger.following("m") == 4
    assert not trainer_on(ledger).put(Task(kept(1), Create())), "nobody would ever do it"


def test_waiting_for_one_that_is_missing_begins_when_something_waits(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_on(ledger)
    assert trainer.following("m") == 0
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    trainer.put(Task(kept(1), Create()))
    assert trainer.stuck("m") == 0
    monkeypatch.setattr(time, "monotonic", lambda: now + 1010)
    trainer.put(Task(kept(2), Create()))
    assert trainer.stuck("m") == 10


def test_who_asks_is_told_beside_one_who_trains_without_a_pause(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, order = trainer_on(ledger), list[str]()

    def pass_all(engine: Any, asked: Mapping[str, Any], tokens: int) -> dict[str, Answer]:
        order.extend(asked)
        return dict.fromkeys(asked, DONE)

    monkeypatch.setattr("lowregret.serve.tinker.trainer.pass_all", pass_all)
    ignored = lambda *_, **__: None  # noqa: E731
    monkeypatch.setattr(trainer, "operations", SimpleNamespace(ensure=ignored, after=ignored, forget=ignored))

    def put(owner: str, seq: int, *, forward_only: bool) -> None:
        own = kept(seq, owner=owner)
        ledger.accept(own)
        trainer.put(Task(own, Passing(owner, seq, "cross_entropy", {}, [], forward_only)))

    put("trains", 0, forward_only=False)
    put("asks", 0, forward_only=True)
    for seq in range(1, 5):
        put("trains", seq, forward_only=False)
        trainer.turn()
    assert "asks" in order


def test_a_failed_commit_does_not_end_the_ledger(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.Error), ledger._all_or_nothing() as file:
        file.execute("ROLLBACK")  # as SQLite does by itself where the disk is full
    assert ledger.accept(kept(0))


def test_bodies_go_when_nothing_has_to_be_done_again_by_them(ledger: Ledger) -> None:
    ledger.add_model("m", "s", "{}", 0, {})
    for number, form in enumerate(("json", "json-forward", "proto-forward", "json", "json")):
        ledger.accept(kept(number, form=form))
    said = dict.fromkeys((f"m:{number}" for number in range(3)), DONE)
    ledger.keep({**said, "m:3": failure("no", "user")})
    bodies = [row["body"] for row in ledger._rows("SELECT body FROM requests ORDER BY seq")]
    assert bodies == [b"body", None, None, None, b"body"]
    ledger.state_saved("m", "file", 9)
    assert ledger.close_model("m") == "file"
    assert ledger.files() == set()
    (left,) = ledger.waiting("pass")
    assert left.body == b"body", "the next server reads it"


def test_an_answer_that_one_asker_finds_is_told_to_the_others(ledger: Ledger) -> None:
    async def ask() -> Any:
        futures = Futures(ledger)
        first = asyncio.ensure_future(futures.answer("m:0"))
        await asyncio.sleep(0)
        ledger.keep({"m:0": DONE})
        await futures.answer("m:0")
        return await asyncio.wait_for(first, 5)

    ledger.accept(kept(0))
    assert isinstance(asyncio.run(ask()), Answer)


def test_what_was_drawn_is_told_once_a_full_disk_has_room_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, logged, refusals = list[str](), list[str](), iter([sqlite3.OperationalError("database or disk is full")] * 2)
    keep = ledger.keep

    def full(answers: Mapping[str, Answer]) -> None:
        if refusal := next(refusals, None):
            raise refusal
        keep(answers)

    async def draw(asked: Any, seed: int) -> Answer:
        return DONE

    monkeypatch.setattr("lowregret.serve.tinker.drawing.AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("lowregret.serve.tinker.drawing.parse", lambda kind, body: None)
    monkeypatch.setattr(ledger, "keep", full)
    drawing = Drawing(
        cast(Any, SimpleNamespace(draw=draw)),
        ledger,
        cast(Any, SimpleNamespace(tell=told.extend)),
        "tiny",
        lambda what, trace: logged.append(what),
    )
    asked = kept(0, "sample", form="1")
    ledger.accept(asked)
    asyncio.run(drawing._drawn(asked))
    assert ledger.answer("m:0") == DONE
    assert told == ["m:0"]
    assert len(logged) == 2


def test_data_that_are_little_and_one_batch_of_too_much_are_refused() -> None:
    """A long one, a deep one, and many: as one batch, beyond any memory."""
    long, short = np.zeros(8192, np.int64), np.zeros(1, np.int64)
    deep = Datum(short, {"target_tokens": np.zeros((1, 256), np.int64)})
    data = [Datum(long, {"target_tokens": long}), deep, *[Datum(short, {"target_tokens": short})] * 1000]
    asked = Passing("m", 1, "cross_entropy", {}, data, forward_only=False)
    with pytest.raises(Problem, match=f"{BATCH_CELLS:,} targets"):
        check(asked, 10, None)
    asked.data = data[1:]
    check(asked, 10, None)


def test_prompts_are_scored_together_as_far_as_they_fit() -> None:
    small = Score("base", [1] * 100, 0)
    deep = Score("base", [1] * 2000, 0, np.zeros((1999, 255), np.int64))
    assert together([]) == 0
    assert together([small] * 50) == 50
    assert together([deep]) == 1
    assert together([small, *[deep] * 99]) == CELLS // (2000 * 256)


def test_a_pass_without_gradients_is_one_in_either_form() -> None:
    assert passing(b"\x0a\x01m", "proto", forward_only=True).forward_only
    assert not passing(b"\x0a\x01m", "proto").forward_only


def test_a_folder_belongs_to_its_base(ledger: Ledger) -> None:
    ledger.bind({"b": "1", "a": "2"})
    ledger.bind({"a": "2", "b": "1"})
    with pytest.raises(RecordsError, match=r"another base \(b, c differ\)"):
        ledger.bind({"a": "2", "b": "3", "c": "4"})


def test_an_adapter_that_is_loaded_again_is_another_policy(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it may be on the engine still, as long as a row is drawn by it."""
    there, retired = list[str](), list[str]()

    async def change(run: Any) -> None:
        run()

    worker = SimpleNamespace(
        change=change,
        retire=lambda policy, remove: retired.append(policy),
        sampler=SimpleNamespace(engine=None),
    )
    monkeypatch.setattr("lowregret.serve.tinker.samplers.load_adapter", lambda engine, name, place: there.append(name))
    samplers = Samplers(cast(Any, worker), cast(Any, None), ledger, cast(Any, None), 0)

    async def use() -> None:
        for _ in range(2):
            async with samplers._using("folder") as policy:
                assert policy == there[-1]

    asyncio.run(use())
    assert retired == there
    assert len(set(there)) == 2


def test_a_checkpoint_that_was_replaced_meanwhile_is_not_removed(ledger: Ledger) -> None:
    path = "tinker://m/weights/last"
    ledger.add_checkpoint(path, "m", "weights", "old", 1, {})
    (seen,) = ledger.checkpoints()
    assert ledger.add_checkpoint(path, "m", "weights", "new", 1, {}) == "old"
    Catalogue(ledger, "tiny", None).remove(seen)
    assert [row["file"] for row in ledger.checkpoints()] == ["new"]
    Catalogue(ledger, "tiny", None).remove(ledger.checkpoints()[0])
    assert ledger.checkpoints() == []


def test_a_sampler_that_was_drawn_by_meanwhile_is_not_removed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing the first takes a while, in which the second is used."""
    samplers = Samplers(cast(Any, None), cast(Any, None), ledger, cast(Any, None), 0)
    for number in range(2):
        (ledger.folder / "checkpoints" / str(number)).mkdir(parents=True)
        ledger.add_sampler(f"s:sample:{number}", "s", str(number), None)
    monkeypatch.setattr(
        "lowregret.serve.tinker.samplers.remove_folder", lambda folder: ledger.use_sampler("s:sample:1")
    )
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    asyncio.run(samplers.remove_idle(now + 50))
    assert ledger.samplers("s") == ["s:sample:1"]


def test_what_a_folder_held_before_a_server_is_left_alone(ledger: Ledger) -> None:
    """Of a killed server only what it had named itself goes."""
    own, others = ("checkpoints", "states"), ("step-1000", "f" * 31, f"{'f' * 32}.txt")
    for folder in own:
        for name in ("a" * 32, "b" * 32, *others):
            (ledger.folder / folder / name).mkdir(parents=True)
            (ledger.folder / folder / name / "weights").write_text("of somebody")
    ledger.add_checkpoint("tinker://m/weights/kept", "m", "sampler_weights", "b" * 32, 1, {})
    trainer_on(ledger)
    for folder in own:
        assert {found.name for found in (ledger.folder / folder).iterdir()} == {"b" * 32, *others}
        assert (ledger.folder / folder / "step-1000" / "weights").read_text() == "of somebody"

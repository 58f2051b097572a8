"""What a page is told: everything, then what changes, each once, whatever is killed or written anew meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks.watch import METHODS, finish, grow, line, make_compare, make_many, trial

from lowregret.questions.judge import Claims
from lowregret.questions.registry import make_question
from lowregret.runs.atomic import write_json
from lowregret.runs.files import CLAIMS, FORECAST, METRICS, STUDY, TRIAL, group_log
from lowregret.runs.forecast import Forecast
from lowregret.runs.lock import lock_run
from lowregret.runs.tail import Tail
from lowregret.spec import LoRA
from lowregret.watch import feed as feeds
from lowregret.watch.feed import Feed
from lowregret.watch.group import Group

LORA = LoRA(rank=4)


class Clock:
    """Hands that are moved: every look is at everything."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Reader:
    """A page, as far as its data go: what store.js does."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.trials: dict[tuple[int, str], dict[str, Any]] = {}
        self.heads: dict[int, Any] = {}
        self.asked = 0
        self.seen = ""

    def catch_up(self) -> None:
        news = self.feed.since(self.seen)
        if news is None:
            state = json.loads(self.feed.everything())
            self.asked += 1
            self.seen = state["id"]
            self.trials = {(group["number"], row["id"]): row for group in state["groups"] for row in group["trials"]}
            self.heads = {group["number"]: group["state"] for group in state["groups"] if "state" in group}
            return
        for self.seen, text in news:
            self.take(json.loads(text))

    def take(self, told: dict[str, Any]) -> None:
        for group, name in told.get("gone", []):
            self.trials.pop((group, name), None)
        for head in told.get("groups", []):
            self.heads[head["number"]] = head["state"]
        for row in told.get("trials", []):
            key = row["group"], row["id"]
            before = {} if row.get("again") else self.trials.get(key, {})
            curves = {name: [*before.get(name, []), *row.get(name, [])] for name in ("train", "held")}
            assert all(len({step for step, _ in curve}) == len(curve) for curve in curves.values()), "a step came twice"
            self.trials[key] = {k: v for k, v in row.items() if k not in ("group", "again")} | curves


def looked(feed: Feed, clock: Clock) -> None:
    clock.now += 100
    while feed.look():
        clock.now += 100


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_news_and_a_fresh_start_tell_the_same_whatever_happens_to_the_folder(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials begin, grow, end, are written anew from a checkpoint, and go; two readers are away now and then."""
    draw = random.Random(1)
    folder = tmp_path / "run"
    make_compare(folder)
    feed = Feed([folder], clock)
    readers = [Reader(feed), Reader(feed)]
    at: dict[tuple[Any, float], int] = {}
    for _ in range(120):
        method, rate = draw.choice(METHODS), draw.choice((1e-3, 2e-3, 4e-3))
        key = method, rate
        what = draw.random()
        home = folder / "trials" / f"x{METHODS.index(method)}"
        if key not in at:
            home = trial(folder, method, rate)
            at[key] = 0
        home = trial(folder, method, rate)
        if what < 0.55:
            more = draw.randint(1, 9)
            grow(home, range(at[key] + 1, at[key] + 1 + more), rate)
            at[key] += more
        elif what < 0.65:  # torn, then whole
            text = line(at[key] + 1, rate)
            with (home / METRICS).open("ab") as file:
                file.write(text[: len(text) // 2])
            looked(feed, clock)
            with (home / METRICS).open("ab") as file:
                file.write(text[len(text) // 2 :])
            at[key] += 1
        elif what < 0.8:  # killed, and gone on from a checkpoint
            at[key] = draw.randint(0, at[key])
            (tmp_path / "anew").write_bytes(b"".join(line(step, rate) for step in range(1, at[key] + 1)))
            os.replace(tmp_path / "anew", home / METRICS)
        elif what < 0.9:
            shutil.rmtree(home)
            del at[key]
        else:
            trial(folder, method, rate, status="pruned", test_nll=2.0, steps=at[key])
        looked(feed, clock)
        for reader in readers:
            if draw.random() < 0.6:
                reader.catch_up()
    fresh = Reader(again := Feed([folder], clock))
    looked(again, clock)
    for reader in (*readers, fresh):
        reader.catch_up()
    assert [reader.asked for reader in readers] == [1, 1], "nobody had to ask for everything twice"

    def known(reader: Reader) -> dict[str, Any]:
        """What is kept of a long curve may be thinner than what was told of it."""
        return {
            name: {k: v for k, v in row.items() if k not in ("train", "held", "pace")} | {"held": row["held"][-1:]}
            for (_, name), row in reader.trials.items()
        }

    assert known(readers[0]) == known(readers[1]) == known(fresh)
    assert {name: row["train"] for (_, name), row in readers[0].trials.items()} == {
        name: row["train"] for (_, name), row in fresh.trials.items()
    }, "curves of fewer points than are kept are the same"


def test_of_another_process_or_of_too_long_ago_everything_is_asked_for_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_compare(tmp_path)
    home = trial(tmp_path, LORA, 2e-3)
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    reader = Reader(feed)
    reader.catch_up()
    assert feed.since(feed.last) == []
    assert Feed([tmp_path], clock).since(feed.last) is None
    for odd in ("", "x", f"{feed.last}9", feed.last.partition(":")[0] + ":-1", feed.last.replace(":", ":²")):
        assert feed.since(odd) is None
    monkeypatch.setattr(feeds, "_KEPT_BYTES", 2000)
    before = feed.last
    for step in range(1, 40):
        grow(home, [step])
        looked(feed, clock)
    assert feed.since(before) is None
    reader.catch_up()
    assert reader.trials[next(iter(reader.trials))]["step"] == 39


def test_a_run_that_begins_later_and_one_that_goes(tmp_path: Path, clock: Clock) -> None:
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    assert json.loads(feed.everything())["runs"] == []
    make_compare(tmp_path / "one")
    make_compare(tmp_path / "two")
    looked(feed, clock)
    assert [run["name"] for run in json.loads(feed.everything())["runs"]] == ["one", "two"]
    seen = feed.last
    shutil.rmtree(tmp_path / "one")
    looked(feed, clock)
    assert [run["name"] for run in json.loads(feed.everything())["runs"]] == ["two"]
    news = feed.since(seen)
    assert news is not None
    assert json.loads(news[0][1])["lost"] == [0]


def test_who_trains_is_who_holds_the_lock(tmp_path: Path, clock: Clock) -> None:
    make_compare(tmp_path / "run")
    feed = Feed([tmp_path], clock)

    def head() -> dict[str, Any]:
        looked(feed, clock)
        found: dict[str, Any] = json.loads(feed.everything())["groups"][0]
        return found

    assert head()["state"] == "stopped"
    with lock_run(tmp_path / "run"):
        assert head()["state"] == "training"
        assert head()["worker"]["pid"] == os.getpid()
    assert head()["worker"] is None


def test_the_regret_ends_at_the_verdict_s_own(tmp_path: Path, clock: Clock) -> None:
    spec = make_compare(tmp_path)
    for method in METHODS:
        for rate in (1e-3, 2e-3, 4e-3):
            finish(tmp_path, method, rate, lag=0.03 if method.name == "lora:4" else 0.0)
        finish(tmp_path, method, 2e-3, 1, lag=0.02 if method.name.startswith("lora") else 0.0)
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    looked(feed, clock)
    points = json.loads(feed.everything())["runs"][0]["regret"]
    from lowregret.analysis.regret import judge
    from lowregret.runs.study import read_examples, read_trials, start_loss

    records = read_trials(tmp_path)
    losses = {record.id: read_examples(tmp_path / "trials" / record.id / "examples.json") for record in records}
    verdict = judge(spec, records, losses, start_loss(tmp_path), {})
    assert points[-1]["trials"] == len(records)
    assert points[-1]["regret"] == pytest.approx(verdict.regret_nats, rel=1e-5)
    assert [points[-1]["low"], points[-1]["high"]] == pytest.approx(list(verdict.ci95 or ()), rel=1e-5)
    assert points[-1]["verdict"] == verdict.verdict
    assert verdict.lora is not None
    assert points[-1]["method"] == verdict.lora.name
    assert [point["trials"] for point in points] == sorted({point["trials"] for point in points})


def test_every_forecast_is_told_by_its_method_and_one_that_says_nothing_without_numbers(
    tmp_path: Path, clock: Clock
) -> None:
    make_compare(tmp_path)
    known: dict[str, Any] = {
        "method": "lora:4", "share": 0.1, "share_interval": (0.0, 0.2), "regret_nats": 0.05,
        "nats_interval": (0.0, 0.1), "chance_low": 0.4, "at_pilot": 0.1, "lag": 1.1,
        "far": False,
    }  # fmt: skip
    wide = {**known, "method": "lora:16", "share_interval": (-3.0, 3.0)}
    free = {**known, "method": "lora:1", "regret_nats": None, "nats_interval": None}
    found = Forecast(
        forecasts=(wide, known, free), tolerance=0.05, learned=0.5, step=8, steps=40, cost=0.2, bank="a bank"
    )
    write_json(tmp_path / FORECAST, found)
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    told = json.loads(feed.everything())["runs"][0]["forecast"]
    share = [0.1, 0.0, 0.2]
    assert told["of"] == [
        {"method": "lora:16"},
        {"method": "lora:4", "share": share, "regret": 0.05, "low": 0.0, "high": 0.1},
        {"method": "lora:1", "share": share},
    ]


def test_a_study_has_its_groups_their_logs_and_its_claims(tmp_path: Path, clock: Clock) -> None:
    question = make_question({"kind": "rank"}, quick=True, flags={})
    first = question.groups()[0]
    write_json(tmp_path / STUDY, {"lowregret": "0.3.0", "command": "x", "question": question.model_dump(mode="json")})
    log = group_log(tmp_path, first.key)
    log.parent.mkdir()
    log.write_text("one\ntwo\nhal")
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    state = json.loads(feed.everything())
    assert [group["key"] for group in state["groups"]] == [group.key for group in question.groups()]
    assert state["groups"][0]["log"] == ["one", "two"]
    assert state["groups"][0]["state"] == "waiting"
    seen = feed.last
    with log.open("a") as file:
        file.write("f\n")
    looked(feed, clock)
    (news,) = feed.since(seen) or []
    assert json.loads(news[1])["log"] == [[state["groups"][0]["number"], ["half"]]]


def test_what_a_folder_of_somebody_else_says_of_places_is_not_told(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "run"
    make_compare(folder)
    home = trial(
        folder, LORA, 2e-3, status="failed", error=f"{tmp_path}/secret/file.txt: \x1b[31mgone, token=hunter22hunter"
    )
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    shutil.copy(home / TRIAL, tmp_path / "elsewhere" / "x" / TRIAL)
    (folder / "trials" / "x").symlink_to(tmp_path / "elsewhere" / "x")
    feed = Feed([folder], clock)
    looked(feed, clock)
    text = feed.everything()
    assert str(tmp_path) not in text
    assert "hunter22" not in text
    assert "\\u001b" not in text
    assert len(json.loads(text)["groups"][0]["trials"]) == 1, "a link is no trial"


def test_damaged_records_are_told_and_do_no_harm(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "run"
    make_compare(folder)
    home = trial(folder, LORA, 2e-3)
    grow(home, [1, 2, 3])
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    (home / TRIAL).write_text("{")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "spec.json").write_text("[]")
    looked(feed, clock)
    state = json.loads(feed.everything())
    (row,) = state["groups"][0]["trials"]
    assert row["step"] == 3
    assert "damaged" in row["problem"]
    assert "damaged" in next(run for run in state["runs"] if run["name"] == "odd")["problem"]


def test_numbers_of_hundreds_of_digits_are_no_steps(tmp_path: Path, clock: Clock) -> None:
    make_compare(tmp_path)
    home = trial(tmp_path, LORA, 2e-3)
    grow(home, [1])
    huge = b"1" + b"0" * 400
    with (home / METRICS).open("ab") as file:
        for said in ((huge, b"1.0"), (b"1", huge), (b"1", b'1.0,"train_nll":' + huge)):
            file.write(b'{"step":2,"tokens":%b,"seconds":%b}\n' % said)
    grow(home, [3])
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    (row,) = json.loads(feed.everything())["groups"][0]["trials"]
    assert [step for step, _ in row["train"]] == [1, 3]


def test_what_nobody_has_thought_of_in_one_run_stops_the_page_of_no_other(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        make_compare(tmp_path / name)
    home = trial(tmp_path / "good", LORA, 2e-3)
    real = Group.look

    def look(group: Group) -> bool:
        return bool(1 / 0) if group.folder.name == "bad" else real(group)

    monkeypatch.setattr(Group, "look", look)
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    grow(home, [1])
    looked(feed, clock)
    state = json.loads(feed.everything())
    assert "cannot be followed" in state["runs"][0]["problem"]
    assert [row["step"] for group in state["groups"] for row in group["trials"]] == [1]
    seen = feed.last
    looked(feed, clock)
    assert feed.last == seen, "it is told once"


def test_on_a_slow_disk_all_have_their_turn(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    make_compare(tmp_path)
    homes = [trial(tmp_path, LORA, 1e-3 * (1 + number)) for number in range(12)]
    real = Tail.read

    def read(tail: Tail) -> Any:
        clock.now += 0.1
        return real(tail)

    monkeypatch.setattr(Tail, "read", read)
    feed = Feed([tmp_path], clock)
    for _ in range(12):
        feed.look()
    late = trial(tmp_path, LORA, 5e-4)
    for home in homes:
        grow(home, [1])
    for _ in range(20):
        clock.now += 0.25
        feed.look()
    rows = {row["id"]: row for row in json.loads(feed.everything())["groups"][0]["trials"]}
    assert late.name in rows
    assert {row.get("step") for name, row in rows.items() if name != late.name} == {1}


def test_a_pack_of_many_in_training_is_told_by_steps(tmp_path: Path, clock: Clock) -> None:
    make_compare(tmp_path)
    homes = [trial(tmp_path, LORA, 1e-3 * (1 + number)) for number in range(64)]
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    reader = Reader(feed)
    reader.catch_up()
    for step in (1, 2, 3):
        for home in homes:
            grow(home, [step])
        looked(feed, clock)
        reader.catch_up()
    assert reader.asked == 1
    assert {row["step"] for row in reader.trials.values()} == {3}


def test_claims_that_are_taken_back_are_shown_no_more(tmp_path: Path, clock: Clock) -> None:
    question = make_question({"kind": "rank"}, quick=True, flags={})
    write_json(tmp_path / STUDY, {"lowregret": "0.3.0", "command": "x", "question": question.model_dump(mode="json")})
    write_json(tmp_path / CLAIMS, Claims(kind="rank", claims=(), noise_nats=None, trials={}, seconds=0.0))
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    assert json.loads(feed.everything())["runs"][0]["claims"] == []
    (tmp_path / CLAIMS).unlink()
    looked(feed, clock)
    assert "claims" not in json.loads(feed.everything())["runs"][0]


def test_of_thousands_of_trials_only_those_in_training_are_looked_at(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_many(tmp_path, 300, steps=10)
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    looked(feed, clock)
    opened: list[Any] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    clock.now += 0.3
    feed.look()
    assert 0 < sum(METRICS in path for path in opened) <= 3
    assert not any(TRIAL in path for path in opened)


def test_a_step_that_stands_twice_counts_once(tmp_path: Path, clock: Clock) -> None:
    make_compare(tmp_path)
    home = trial(tmp_path, LORA, 2e-3)
    grow(home, [1, 2, 3])
    grow(home, [2, 3, 4])
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    (row,) = json.loads(feed.everything())["groups"][0]["trials"]
    assert [step for step, _ in row["train"]] == [1, 2, 3, 4]


def test_the_regret_is_told_in_the_order_in_which_trials_ended(tmp_path: Path, clock: Clock) -> None:
    """Full fine-tuning last, whose name comes first: before it there is no regret."""
    make_compare(tmp_path)
    for at, (method, rate) in enumerate((*((METHODS[1], r) for r in (1e-3, 2e-3, 4e-3)), (METHODS[2], 2e-3))):
        home = finish(tmp_path, method, rate)
        os.utime(home / TRIAL, ns=(at * 10**9, at * 10**9))
    feed = Feed([tmp_path], clock)
    looked(feed, clock)
    looked(feed, clock)
    assert [point["trials"] for point in json.loads(feed.everything())["runs"][0]["regret"]] == [4]

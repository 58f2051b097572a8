"""replies.json: made once, of the winners that are there, the same again after a kill, and no number changes by it."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from lowregret.engine import Engine
from lowregret.runs.replies import Replies
from lowregret.train.inputs import RunInputs
from lowregret.train.replies import Replying

TRAIN = (
    "--model tiny --batch-size 4 --max-length 64 --evals 1 --steps 2 --max-train 16 --max-eval 6 --replies 8".split()
)
SFT = [*TRAIN, "--data", "builtin:arithmetic:size=32"]


def stored(folder: Path) -> Replies:
    return Replies.model_validate(json.loads((folder / "replies.json").read_text()))


def without_replies(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in contents.items() if name not in ("replies.json", "report.html")}


def test_base_and_winners_answer_the_same_held_out_prompts(study: Path) -> None:
    found = stored(study)
    assert [one.name for one in found.speakers] == ["base", "lora", "full"]
    assert [one.method for one in found.speakers] == [None, "lora:4", "full"]
    assert len(found.rows) == 8
    assert len({row.place for row in found.rows}) == 8
    assert max(row.place for row in found.rows) < 12
    winner = json.loads((study / "best" / "lora" / "trial.json").read_text())
    examples = json.loads((study / "trials" / winner["id"] / "examples.json").read_text())
    for row in found.rows:
        assert row.prompt.endswith("<|im_start|>assistant\n")
        assert row.reference is not None
        assert "Answer: " in row.reference
        assert row.replies["base"].text.startswith(row.reference[:1])
        nll = examples["nll_sums"][row.place] / examples["tokens"][row.place]
        assert row.replies["lora"].nll == pytest.approx(nll, rel=1e-4)
    assert "What they say" in (study / "report.html").read_text(encoding="utf-8")


def test_after_a_kill_before_the_replies_the_same_command_makes_them(
    run: Any, snapshot: Any, study: Path, study_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(study, tmp_path / "out")
    before = snapshot(out)
    (out / "replies.json").unlink()
    assert run("report", out).exit_code == 0
    assert "What they say" not in (out / "report.html").read_text(encoding="utf-8")

    def killed(self: Replying, *_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Replying, "_ask", killed)
        assert run("compare", *study_arguments, "--out", out).exit_code == 130
    assert not (out / "replies.json").exists()
    ended = run("compare", *study_arguments, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    after = snapshot(out)
    assert without_replies(after) == without_replies(before)
    assert after["replies.json"] == before["replies.json"]


def test_what_is_there_is_left_and_what_is_not_wanted_goes(
    run: Any, snapshot: Any, study: Path, study_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(study, tmp_path / "out")
    before = snapshot(out)

    def loaded(self: RunInputs) -> Engine:
        raise AssertionError("a base was loaded")

    with monkeypatch.context() as patched:
        patched.setattr(RunInputs, "loaded_engine", loaded)
        assert run("compare", *study_arguments, "--out", out).exit_code == 0
        assert snapshot(out)["replies.json"] == before["replies.json"]
        assert run("compare", *study_arguments, "--out", out, "--replies", "0").exit_code == 0
    after = snapshot(out)
    assert "replies.json" not in after
    assert without_replies(after) == without_replies(before)
    assert run("compare", *study_arguments, "--out", out, "--replies", "3").exit_code == 0
    assert stored(out).rows == stored(study).rows[:3]


def test_one_base_is_in_memory_at_a_time(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one trained is FullFT's, alone on a base; then the base is loaded, then what it became."""
    models: list[Any] = []
    together: list[int] = []
    begin = Engine.__init__

    def counted(engine: Engine, base: Any, **options: Any) -> None:
        models.append(weakref.ref(base.model))
        together.append(sum(model() is not None for model in models))
        begin(engine, base, **options)

    monkeypatch.setattr(Engine, "__init__", counted)
    rates = ["--learning-rates", "1e-4", "--seeds", "1", "--methods", "lora:2,full"]
    assert run("compare", *SFT, *rates, "--out", tmp_path / "out").exit_code == 0
    assert [one.name for one in stored(tmp_path / "out").speakers] == ["base", "lora", "full"]
    assert together[-2:] == [1, 1]


@pytest.mark.parametrize(("method", "name"), [("lora:2", "lora"), ("full", "full")])
def test_a_training_has_its_own(run: Any, tmp_path: Path, method: str, name: str) -> None:
    out = tmp_path / "out"
    ended = run("train", *SFT, "--method", method, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    first = (out / "replies.json").read_bytes()
    assert [one.name for one in stored(out).speakers] == ["base", name]
    assert len(stored(out).rows) == 6
    (out / "replies.json").unlink()
    assert run("train", *SFT, "--method", method, "--out", out).exit_code == 0
    assert (out / "replies.json").read_bytes() == first


def test_text_without_prompts_is_continued(run: Any, tmp_path: Path) -> None:
    rows = [{"text": f"The house {n} is old, and the garden behind it is wide and green."} for n in range(24)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run("train", *TRAIN, "--data", tmp_path / "text.jsonl", "--method", "lora:2", "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.stderr
    for row in stored(tmp_path / "out").rows:
        assert row.prompt.startswith("The house")
        whole = next(each["text"] for each in rows if each["text"].startswith(row.prompt))
        assert row.reference == whole.removeprefix(row.prompt)


def test_rewards_are_those_of_the_replies(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    task = "--objective rl --task builtin:arithmetic:difficulty=2,size=16,test_size=8 --max-tokens 24 --group-size 2"
    arguments = "--model tiny --method lora:2 --steps 1 --batch-size 2 --replies 4".split()
    ended = run("train", *arguments, *task.split(), "--out", out)
    assert ended.exit_code == 0, ended.stderr
    found = stored(out)
    assert (found.max_tokens, len(found.rows)) == (24, 4)
    for row in found.rows:
        for reply in row.replies.values():
            assert reply.nll is None
            assert row.reference is not None
            right = reply.text.splitlines()[-1:] == row.reference.splitlines()[-1:]
            assert reply.reward == float(right)
    assert "What they say" in (run("report", out).exit_code == 0 and (out / "report.html").read_text(encoding="utf-8"))


def test_too_little_memory_is_said_and_costs_nothing_else(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Replying, *_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Replying, "_ask", short)
    ended = run("train", *SFT, "--method", "lora:2", "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.stderr
    assert "replies: left out, for want of memory (no room)" in ended.stdout + ended.stderr
    assert not (tmp_path / "out" / "replies.json").exists()

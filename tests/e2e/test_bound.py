"""A run is bound to its base, tokenizer, template, data and reward by content: a change is told, never taken over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import lowregret.models
from lowregret.train.loop import Pack

TINY = Path(lowregret.models.__file__).parent / "bundled" / "tiny"
FEW = "--steps 4 --batch-size 4 --max-length 64 --learning-rate 1e-3 --checkpoint-seconds 0 --quiet".split()
RULES = "--learning-rates 1e-3 --steps 3 --batch-size 4 --max-length 64 --max-eval 4 --quiet".split()


class Stopped(BaseException):
    """What nothing in the program catches."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of the user's own."""
    return Path(shutil.copytree(TINY, tmp_path / "base"))


@pytest.fixture
def interrupted(run: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`interrupted("train", …)`: the command, stopped after its second round, with a checkpoint."""

    def call(*arguments: object) -> None:
        rounds, take = [0], Pack.round

        def stops(pack: Pack) -> Any:
            rounds[0] += 1
            if rounds[0] == 3:
                raise Stopped
            return take(pack)

        with monkeypatch.context() as patch:
            patch.setattr(Pack, "round", stops)
            with pytest.raises(Stopped):
                run(*arguments)

    return call


def refused(ended: Any, *words: str) -> None:
    assert ended.exit_code == 2, ended
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in " ".join(ended.stderr.split()), ended.stderr


def other_weights(base: Path) -> None:
    """One number of one weight is another."""
    file = base / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    next(iter(weights.values())).view(-1)[5] += 0.5
    safetensors.torch.save_file(weights, file, {"format": "pt"})


def other_settings(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))


def other_template(base: Path) -> None:
    file = base / "chat_template.jinja"
    file.write_text(file.read_text() + " ")


def other_tokenizer(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_text(file.read_text() + "\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, "the base's model.safetensors"),
        (other_settings, "the base's config.json"),
        (other_template, "the base's chat_template.jinja"),
        (other_tokenizer, "the base's tokenizer.json"),
        (lambda base: (base / "generation_config.json").unlink(), "the base's generation_config.json (it is gone)"),
    ],
    ids=["weights", "settings", "template", "tokenizer", "a file less"],
)
def test_a_run_goes_on_only_on_its_own_base(
    run: Any, interrupted: Any, base: Path, rows: Path, tmp_path: Path, change: Any, named: str
) -> None:
    command = ["train", "--model", base, "--data", rows / "rows.jsonl", *FEW, "--out", tmp_path / "out"]
    interrupted(*command)
    kept = Path(shutil.copytree(base, tmp_path / "kept"))
    change(base)
    refused(run(*command), named, "changed since", "Bring back what was there, or use another --out")
    shutil.rmtree(base)
    kept.rename(base)
    assert run(*command).exit_code == 0


def test_no_compare_of_two_bases(run: Any, base: Path, rows: Path, tmp_path: Path) -> None:
    """Extended after the base was changed, and told by verify where nothing is trained any more."""
    command = ["compare", "--model", base, "--data", rows / "rows.jsonl", "--methods", "lora:1,full", *RULES]
    out = tmp_path / "out"
    assert run(*command, "--seeds", "1", "--out", out).exit_code == 0
    agreed = run("verify", out)
    assert agreed.exit_code == 0, agreed.stdout
    assert "inputs: base, tokenizer and data are those of the run" in agreed.stdout
    before = (out / "verdict.json").read_bytes()
    other_weights(base)
    told = run("verify", out)
    assert told.exit_code == 1
    assert "DIFFERS: the base's model.safetensors changed since the run" in told.stdout
    refused(run(*command, "--seeds", "2", "--out", out), "the base's model.safetensors")
    assert (out / "verdict.json").read_bytes() == before
    shutil.rmtree(base)
    absent = run("verify", out)
    assert absent.exit_code == 0
    assert f"inputs: not checked: the base {base} is not here" in absent.stdout


def test_a_base_that_changes_between_two_trials_of_a_compare(
    run: Any, base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a FullFT trial, which has changed the base in memory, it is loaded afresh."""
    taken = Pack.round

    def changes(pack: Pack) -> Any:
        done = taken(pack)
        if done.ended and pack.trains_base:
            other_weights(base)
        return done

    monkeypatch.setattr(Pack, "round", changes)
    command = ["compare", "--model", base, "--data", rows / "rows.jsonl", "--methods", "lora:1,full", *RULES]
    ended = run(*command, "--seeds", "2", "--out", tmp_path / "out")
    refused(ended, "model.safetensors changed while the run was going on", "two bases")
    assert len(list(tmp_path.glob("out/trials/full*/trial.json"))) == 1


def test_the_data_are_told_by_verify_and_refused_by_the_run(
    run: Any, interrupted: Any, rows: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copy(rows / "rows.jsonl", tmp_path / "rows.jsonl"))
    command = ["compare", "--model", "tiny", "--data", data, "--methods", "lora:1,full", *RULES, "--seeds", "1"]
    assert run(*command, "--out", tmp_path / "out").exit_code == 0
    data.write_text(data.read_text().replace("What is 3 + 4", "What is 4 + 3"))
    told = run("verify", tmp_path / "out")
    assert told.exit_code == 1
    assert f"DIFFERS: the data of {data} changed since the run" in told.stdout
    refused(run(*command, "--out", tmp_path / "out"), "the training data changed since")
    other = [*command[:4], rows / "held_out.jsonl", *command[5:]]
    refused(run(*other, "--out", tmp_path / "out"), "belongs to another spec", "spec.data.train")


@pytest.mark.parametrize("column", ["answer", "hint"])
def test_with_rewards_the_whole_row_counts(run: Any, interrupted: Any, tmp_path: Path, column: str) -> None:
    """The gold answer, and a column that only a reward of the user's own would read."""
    made = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}", "hint": str(n)} for n in range(12)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in made))
    command = "train --model tiny --objective rl --task math --batch-size 2 --group-size 2 --steps 3 --max-tokens 4"
    rest = ["--data", data, "--learning-rate", "1e-3", "--checkpoint-seconds", "0", "--out", tmp_path / "out"]
    interrupted(*command.split(), *rest)
    data.write_text("".join(json.dumps(row | {column: "#### 77"}) + "\n" for row in made))
    refused(run(*command.split(), *rest), "data", tmp_path.name)
    data.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run(*command.split(), *rest).exit_code == 0


def test_the_checkpoint_of_another_run(run: Any, interrupted: Any, rows: Path, tmp_path: Path) -> None:
    """It fits to the bit in shape: only its base, data or spec are others."""
    command = ["train", "--model", "tiny", "--method", "lora:2", *FEW]
    for out, data in (("one", rows / "rows.jsonl"), ("other", rows / "held_out.jsonl")):
        interrupted(*command, "--data", data, "--out", tmp_path / out)
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", tmp_path / "one" / "checkpoint.safetensors")
    again = [*command, "--data", rows / "rows.jsonl", "--out", tmp_path / "one"]
    refused(run(*again), "is the checkpoint of another run", "Put back")
    (tmp_path / "one" / "checkpoint.safetensors").unlink()
    assert run(*again).exit_code == 0


@pytest.mark.parametrize("damage", ["a line less", "nothing left", "torn before the checkpoint"])
def test_curves_that_lack_lines(run: Any, interrupted: Any, rows: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    command = ["train", "--model", "tiny", "--data", rows / "rows.jsonl", *FEW, "--out", out]
    interrupted(*command)
    file = out / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    less = {"a line less": b"".join(lines[1:]), "nothing left": b"", "torn before the checkpoint": lines[0] + b"{"}
    file.write_bytes(less[damage])
    refused(run(*command), "metrics.jsonl: lacks the line of step", "Bring the file back")
    file.write_bytes(b"".join(lines) + b"\0" * 500)  # what a power cut leaves beyond the checkpoint
    assert run(*command).exit_code == 0
    assert len(file.read_bytes().splitlines()) == 4


def test_what_was_shipped_is_still_there(run: Any, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["train", "--model", "tiny", "--data", rows / "rows.jsonl", "--method", "lora:1", *FEW, "--out", out]
    assert run(*command).exit_code == 0
    weights = out / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(run(*command), "adapter_model.safetensors: is not what the trial", "has shipped", "trial.json")
    refused(run("eval", out), "is not what the trial")
    refused(run("export", out, "--out", tmp_path / "shipped"), "is not what the trial")
    weights.unlink()
    refused(run(*command), "adapter_model.safetensors: is gone", "has shipped")
    (out / "trial.json").unlink()
    assert run(*command).exit_code == 0
    assert weights.read_bytes() == whole


def test_verify_sees_lost_lines_and_other_weights(run: Any, study: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(study, tmp_path / "out"))
    assert run("verify", out).exit_code == 0
    home = next(file.parent for file in sorted(out.glob("trials/lora*/adapter")))
    curve, weights = home / "metrics.jsonl", home / "adapter" / "adapter_model.safetensors"
    lines, whole = curve.read_bytes().splitlines(keepends=True), weights.read_bytes()
    curve.write_bytes(b"".join(lines[:1] + lines[2:]))
    told = run("verify", out)
    assert told.exit_code == 1
    assert "lacks the line of step" in told.stdout
    curve.write_bytes(b"".join(lines))
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    told = run("verify", out)
    assert told.exit_code == 1
    assert "is not what the trial" in told.stdout
    weights.write_bytes(whole)
    assert run("verify", out).exit_code == 0

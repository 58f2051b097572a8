"""Bad input: exit code 2, one clear message on standard error that names the place and the remedy, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

TRAIN = "train --model tiny --method lora:2 --steps 2 --batch-size 4 --max-length 64".split()
GOOD = [{"question": f"What is {n} + 1?", "answer": f"{n + 1}"} for n in range(12)]
ASKED_ONLY = {"messages": [{"role": "user", "content": "Hello?"}]}


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def refused(ended: Any, *words: str) -> None:
    """Exit code 2 and a message, not a traceback, that holds these words."""
    assert ended.exit_code == 2, ended
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
    assert "held-out loss" not in ended.stdout
    for word in words:
        assert word in ended.stderr, ended.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["rows.jsonl: is empty", "at least one"]),
        (lines(*GOOD[:6], '{"question": "What', *GOOD[6:]), ["rows.jsonl:7: broken JSON", "--skip-bad-rows"]),
        (lines(*GOOD[:3], {"question": "What?"}, *GOOD[3:]), ["rows.jsonl:4: field 'answer'", "--skip-bad-rows"]),
        (lines({"ask": "What?", "reply": "That."}), ["rows.jsonl:1: no known columns", "ask, reply", "--prompt-field"]),
        (lines(ASKED_ONLY), ["rows.jsonl:1: field 'messages': no assistant turn"]),
        (lines(GOOD[0]), ["rows.jsonl: one example cannot be split", "--eval-data"]),
    ],
)
def test_broken_data(run: Any, tmp_path: Path, content: str, words: list[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    refused(run(*TRAIN, "--data", "rows.jsonl", "--out", "out"), *words)
    assert not (tmp_path / "out" / "spec.json").exists()
    assert (tmp_path / "rows.jsonl").read_text() == content


def test_an_example_longer_than_the_base_has_positions(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(*GOOD, {"question": "What?", "answer": "7 " * 600}))
    long = ["--max-length", "1024", "--data", "rows.jsonl"]
    words = ["--max-length 1024", "the base has 512 positions", "Use --max-length 512"]
    refused(run(*TRAIN, *long, "--out", "out"), *words)
    scored = run("eval", "--model", "tiny", *long)
    assert scored.exit_code == 2
    assert all(word in scored.stderr for word in words)


def test_broken_rows_may_be_skipped_and_are_counted_and_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(*GOOD[:6], '{"question": "What', *GOOD[6:], {"question": "What?"}))
    ended = run(*TRAIN, "--data", "rows.jsonl", "--skip-bad-rows", "--out", "out")
    assert ended.exit_code == 0, ended.stderr
    for words in ("bad rows skipped: 2", "line 7: broken JSON", "line 14: field 'answer'"):
        assert words in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "rows.jsnl"], ["rows.jsnl: neither an existing file", "rows.jsonl"]),
        (["--data", "builtin:arithmetics"], ["arithmetics", "Did you mean 'arithmetic'?"]),
        (["--data", "nobody/nothing"], ["nobody/nothing", "local cache"]),
        (["--prompt-field", "questio", "--completion-field", "answer"], ["questio", "Did you mean 'question'?"]),
        (["--model", "tinny"], ["tinny", "Did you mean 'tiny'?"]),
        (["--model", "nobody/nothing"], ["nobody/nothing", "not in the local cache", "Download it first"]),
        (["--model", "./nothing"], ["./nothing: no such folder"]),
        (["--model", "nothing.gguf"], ["nothing.gguf: no such file"]),
        (["--model", "rows.jsonl"], ["rows.jsonl: is a file"]),
        (["--model", "."], ["holds no config.json"]),
        (["--method", "lroa:2"], ["unknown method 'lroa:2'", "lora:RANK"]),
        (["--method", "lora:2:atention"], ["unknown target 'atention'", "Did you mean 'attention'?"]),
        (["--method", "lora:2:re:nothing"], ["re:nothing", "q_proj"]),
        (["--learning-rate", "fast"], ["learning_rate", "'fast'", "'auto'"]),
        (["--learning-rate", "-1"], ["learning_rate"]),
        (["--max-length", "2"], ["--max-length"]),
        (["--device", "cuda:7"], ["cuda:7", "cpu"]),
        (["--schedule", "linaer"], ["optimizer.schedule", "'linear'"]),
        (["--config", "nothing.toml"], ["nothing.toml: cannot be read"]),
        (["--config", "unknown.toml"], ["unknown.toml: unknown key 'batchsize'", "Did you mean 'batch_size'?"]),
        (["--out", "rows.jsonl"], ["rows.jsonl: a file stands where a folder is needed", "--out"]),
        (["--out", "rows.jsonl/below"], ["a file stands where a folder is needed"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments(run: Any, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(*GOOD))
    (tmp_path / "unknown.toml").write_text("batchsize = 3\n")
    refused(run(*TRAIN, "--data", "rows.jsonl", "--out", "out", *arguments), *words)
    assert (tmp_path / "rows.jsonl").read_text() == lines(*GOOD)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overlong", "cutt"], ["data.overlong", "'cut' or 'drop'"]),
        (["--precision", "float8"], ["precision", "bfloat16"]),
        (["--max-length", "1"], ["data.max_length"]),
        (["--adapter", "nothing"], ["adapter_config.json: not found"]),
        (["--adapter", "."], ["adapter_config.json: not found"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments_of_eval(run: Any, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(*GOOD))
    ended = run("eval", "--model", "tiny", "--data", "rows.jsonl", *arguments, "--json")
    assert ended.exit_code == 2
    assert ended.stdout == ""
    for word in words:
        assert word in ended.stderr


@pytest.fixture(scope="module")
def adapter(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter of `tiny`, to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "rows.jsonl").write_text(lines(*GOOD))
    ended = run(*TRAIN, "--data", folder / "rows.jsonl", "--out", folder / "out")
    assert ended.exit_code == 0, ended.stderr
    return folder / "out" / "adapter"


def _other_names(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: {name.replace("layers.0", "layers.77"): t for name, t in tensors.items()})


def _other_shapes(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: {name: t[:, :-1].contiguous() for name, t in tensors.items()})


def _half_a_pair(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: dict(list(tensors.items())[1:]))


def _no_tensors(folder: Path) -> None:
    _change_tensors(folder, lambda tensors: {})


def _change_tensors(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def _cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _config(**fields: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        known = {**json.loads(file.read_text()), **fields}
        file.write_text(json.dumps({name: value for name, value in known.items() if value != "gone"}))

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_names, "layers.77"),
        (_other_shapes, "this base needs"),
        (_half_a_pair, "adapter_model.safetensors"),
        (_no_tensors, "no LoRA matrices"),
        (_cut, "cannot be read"),
        (_config(r=3), "adapter_config.json: r is 3"),
        (_config(r=0), "adapter_config.json: r is 0"),
        (_config(r="gone"), "adapter_config.json: r is missing"),
        (_config(lora_alpha="big"), "lora_alpha is 'big'"),
        (_config(peft_type="IA3"), "only LORA can be read"),
        (_config(use_dora=True), "no lora_magnitude_vector"),
    ],
)
def test_an_adapter_that_does_not_fit(run: Any, tmp_path: Path, adapter: Path, spoil: Any, words: str) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    (tmp_path / "rows.jsonl").write_text(lines(*GOOD))
    ended = run("eval", "--model", "tiny", "--data", "rows.jsonl", "--adapter", "adapter")
    assert ended.exit_code == 2
    assert words in ended.stderr, ended.stderr
    assert "error: adapter" in ended.stderr


def test_an_adapter_of_another_base(run: Any, tmp_path: Path, adapter: Path, bases: Any) -> None:
    model = tmp_path / "other"
    small = bases.small_model("qwen3")
    small.resize_token_embeddings(1024)  # as many rows as tiny's tokenizer has tokens
    small.save_pretrained(model)
    from lowregret.models.load import load_tokenizer, resolve

    load_tokenizer(resolve("tiny")).save_pretrained(model)
    (tmp_path / "rows.jsonl").write_text(lines({"text": "a"}, {"text": "b"}))
    ended = run("eval", "--model", model, "--data", "rows.jsonl", "--adapter", adapter)
    assert ended.exit_code == 2
    assert f"error: {adapter}" in ended.stderr
    assert "this base" in ended.stderr

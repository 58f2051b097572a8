"""Bases as people have them, by the command line: scaled positions, numbers that are none, tokens without a row."""

from __future__ import annotations

import json
import math
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

BUNDLED = Path(str(resources.files("lowregret.models"))) / "bundled" / "tiny"
SHAPE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1023,
    "pad_token_id": 1021,
    "initializer_range": 0.2,
}
SHORT = [("What is 2 + 3?", "5"), ("Name a colour.", "Green."), ("Say hello.", "Hello to you.")]
LONG = [(" ".join(f"Word {n} is here." for n in range(6)), "So it is.")]
ROPES = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + n / 8 for n in range(8)],
        "long_factor": [4.0 + n for n in range(8)],
        "original_max_position_embeddings": 40,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 40},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
}
SFT = ("--method", "lora:2", "--learning-rate", "1e-3", "--steps", "2", "--batch-size", "2")


def make(folder: Path, kind: str) -> Path:
    rope, longer = ROPES[kind], 256 if kind == "longrope" else 40
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, max_position_embeddings=longer, rope_parameters=rope)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(folder)
    return folder


def rows(file: Path, pairs: list[tuple[str, str]]) -> Path:
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in turns), encoding="utf-8")
    return file


def truth(folder: Path, pairs: list[tuple[str, str]]) -> tuple[float, int]:
    """Nats per supervised token and their number: transformers on each row alone, by a model that saw no other."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for question, answer in pairs:
        asked = [{"role": "user", "content": question}]
        head, whole = (
            tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opens))["input_ids"]
            for chat, opens in ((asked, True), ([*asked, {"role": "assistant", "content": answer}], False))
        )
        ends = whole.index(tokenizer.eos_token_id, len(head)) + 1
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        total -= sum(float(logprobs[place - 1, whole[place]]) for place in range(len(head), ends))
        count += ends - len(head)
    return total / count, count


@pytest.mark.parametrize("kind", ROPES)
def test_a_scaled_base_scores_each_row_as_if_it_were_alone(run: Any, tmp_path: Path, kind: str) -> None:
    """Shorter and longer than its original positions, apart and together; longer ones are there."""
    model = make(tmp_path / kind, kind)
    for pairs in (SHORT, LONG, SHORT + LONG):
        ended = run("eval", "--model", model, "--data", rows(tmp_path / "rows.jsonl", pairs), "--json")
        assert ended.exit_code == 0, ended.stderr
        found, (nll, tokens) = json.loads(ended.stdout), truth(model, pairs)
        assert (found["nll"], found["tokens"]) == (pytest.approx(nll, abs=2e-6), tokens)


def test_positions_that_are_not_there_are_refused(run: Any, tmp_path: Path) -> None:
    model, data = make(tmp_path / "yarn", "yarn"), rows(tmp_path / "rows.jsonl", [LONG[0], (LONG[0][0] * 5, "No.")])
    ended = run("eval", "--model", model, "--data", data)
    assert ended.exit_code == 2
    assert "the base has 160 positions. Use --max-length 160." in ended.stderr
    assert "the base 160 positions" in run("plan", "--model", model, "--data", data, "--max-length", 400).stdout


def bundled(folder: Path) -> Path:
    shutil.copytree(BUNDLED, folder)
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_base_with_numbers_that_are_none_ends_every_verb(run: Any, tmp_path: Path, value: float) -> None:
    model, data = bundled(tmp_path / "broken"), rows(tmp_path / "rows.jsonl", SHORT * 2 + LONG)
    run("train", "--model", "tiny", "--data", data, *SFT, "--out", tmp_path / "good")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = value
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    adapter = tmp_path / "good" / "adapter"
    asked = ("--model", model, "--data", data)
    for command in (
        ("eval", *asked, "--json"),
        ("train", *asked, *SFT, "--out", tmp_path / "run"),
        ("compare", *asked, "--methods", "lora:2,full", "--steps", 2, "--out", tmp_path / "both"),
        ("export", adapter, "--model", model, "--out", tmp_path / "copy"),
    ):
        ended = run(*command)
        assert ended.exit_code == 2, command
        assert "model.layers.0.mlp.down_proj holds numbers that are not finite" in ended.stderr
        assert "fetch it again" in ended.stderr
        assert "NaN" not in ended.stdout


def with_new_tokens(folder: Path) -> Path:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|call|>"]})
    tokenizer.save_pretrained(folder)
    return folder


def test_a_token_without_a_row_is_named_with_its_place(run: Any, tmp_path: Path) -> None:
    model = with_new_tokens(tmp_path / "added")
    data = rows(tmp_path / "new.jsonl", [*SHORT, ("Call it.", "<|call|>f()"), *LONG, SHORT[0]])
    asked = ("--model", model, "--data", data)
    said = "new.jsonl:4: has the token <|call|> (id 1025), and the base's embedding has 1,024 rows."
    for command in (
        ("eval", *asked),
        ("train", *asked, *SFT, "--out", tmp_path / "run"),
        ("compare", *asked, "--methods", "lora:2,full", "--steps", 2, "--out", tmp_path / "both"),
        ("plan", *asked),
    ):
        ended = run(*command)
        assert ended.exit_code == 2, command
        assert said in ended.stderr
        assert "resize_token_embeddings(1026)" in ended.stderr
        assert "take the token out" in ended.stderr
    plain = rows(tmp_path / "plain.jsonl", SHORT * 2 + LONG)
    for command in (("eval", "--model", model, "--data", plain), ("plan", "--model", model, "--data", plain)):
        assert run(*command).exit_code == 0
    others = rows(tmp_path / "others.jsonl", [(f"What is {n}?", "A number.") for n in range(4)])
    judged = run("train", "--model", model, "--data", others, "--eval-data", data, *SFT, "--out", tmp_path / "judged")
    assert said in judged.stderr


def test_a_token_that_the_template_writes_is_no_rows_fault(run: Any, tmp_path: Path) -> None:
    model = with_new_tokens(tmp_path / "added")
    template = model / "chat_template.jinja"
    template.write_text("<|tool|>" + template.read_text(encoding="utf-8"), encoding="utf-8")
    ended = run("eval", "--model", model, "--data", rows(tmp_path / "rows.jsonl", SHORT))
    assert ended.exit_code == 2
    assert "what the chat template or the tokenizer adds to every row has the token <|tool|> (id 1024)" in ended.stderr


def test_a_prompt_with_a_token_without_a_row_is_named(run: Any, tmp_path: Path) -> None:
    model, data = with_new_tokens(tmp_path / "added"), tmp_path / "sums.jsonl"
    asked = [f"What is {n} + 1?" + " <|call|>" * (n == 2) for n in range(6)]
    lines = [json.dumps({"question": text, "answer": str(n + 1)}) for n, text in enumerate(asked)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ("train", "--model", model, "--data", data, "--objective", "rl", "--task", "math", *SFT)
    ended = run(*command, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "sums.jsonl:3: has the token <|call|> (id 1025)" in ended.stderr


@pytest.mark.parametrize("where", ["tokenizer", "config"])
def test_a_padding_token_without_a_row_does_no_harm(run: Any, tmp_path: Path, where: str) -> None:
    """With Gemma 2, whose rows are padded."""
    torch.manual_seed(0)
    capped = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "max_position_embeddings": 256}
    config = transformers.Gemma2Config(**SHAPE, **capped, num_key_value_heads=2)
    folder = tmp_path / "padded"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.save_pretrained(folder)
    data = rows(tmp_path / "rows.jsonl", SHORT * 2 + LONG)
    expected = json.loads(run("eval", "--model", folder, "--data", data, "--json").stdout)
    if where == "tokenizer":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id == 1024
        tokenizer.save_pretrained(folder)
    else:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**values, "pad_token_id": 1024}), encoding="utf-8")
    ended = run("eval", "--model", folder, "--data", data, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == expected
    trained = run("train", "--model", folder, "--data", data, *SFT, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.stderr

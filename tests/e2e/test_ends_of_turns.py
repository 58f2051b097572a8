"""A base whose tokenizer ends texts otherwise than its chat template ends turns: a base model with a chat template."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lowregret.data.chat.asking import prompt_ids
from lowregret.data.chat.template import chat_format

SAMPLED = "--task builtin:arithmetic:difficulty=2,size=64,test_size=12 --max-tokens 60".split()


@pytest.fixture
def other_end(tmp_path: Path) -> Path:
    """`tiny` with <|endoftext|> as the end of texts; its chat template still writes <|im_end|>."""
    folder = tmp_path / "other_end"
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny"), folder)
    for name, values in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("generation_config.json", {"eos_token_id": 1021}),
        ("config.json", {"eos_token_id": 1021}),
    ):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))
    return folder


def test_the_same_weights_get_the_same_reward(run: Any, other_end: Path) -> None:
    tiny, other = (json.loads(run("eval", "--model", m, *SAMPLED, "--json").stdout) for m in ("tiny", other_end))
    assert other == tiny
    assert tiny["tokens"] < 12 * 60


@pytest.mark.parametrize("method", ["full", "lora:2"])
def test_what_is_shipped_stops_when_it_is_served(run: Any, other_end: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    done = run(
        *"train --data builtin:arithmetic --steps 1 --batch-size 4 --learning-rate 1e-5 --max-eval 4".split(),
        *("--model", other_end, "--method", method, "--out", out),
    )
    assert done.exit_code == 0, done.stderr
    shipped = out / ("model" if method == "full" else "adapter")
    config = transformers.GenerationConfig.from_pretrained(shipped)
    assert config.eos_token_id == [1021, 1023]
    assert ("does not name <|im_end|>" in done.stdout) == (method != "full")
    model = transformers.AutoModelForCausalLM.from_pretrained(shipped if method == "full" else other_end)
    tokenizer = transformers.AutoTokenizer.from_pretrained(other_end)
    prompt = torch.tensor([prompt_ids("What is 2 + 3?", tokenizer, chat_format(tokenizer))])
    asked = {"max_new_tokens": 60, "do_sample": False, **({} if method == "full" else {"generation_config": config})}
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), **asked)
    assert answer[0, -1] == 1023
    assert (answer[0] == 1023).sum() == 2  # the user's turn, and the answer's


def test_a_text_that_ends_turns_is_in_the_record_for_whoever_serves(run: Any, tmp_path: Path) -> None:
    base, out = tmp_path / "texts", tmp_path / "run"
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny"), base)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ##\n{% endfor %}"
    (base / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}assistant:{% endif %}")
    done = run(
        *"train --data builtin:arithmetic --steps 1 --batch-size 4 --learning-rate 1e-5 --max-eval 4".split(),
        *("--model", base, "--method", "lora:2", "--out", out),
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads((out / "trial.json").read_text())["stop_texts"] == [" ##"]

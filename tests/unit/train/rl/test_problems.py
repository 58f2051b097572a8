"""Rows and tasks → prompts: what is held out, what is left out, and the same tokens as in a training example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lowregret.data.chat.asking import prompt_ids
from lowregret.data.chat.encoding import encode
from lowregret.data.chat.template import chat_format
from lowregret.data.sources import Row
from lowregret.errors import DataError
from lowregret.models.load import load_tokenizer, resolve
from lowregret.spec import RL, DataSpec
from lowregret.train.rl.problems import prepare_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MATH = RL(task="math")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(resolve("tiny"))


def rows_file(folder: Path, count: int, name: str = "rows.jsonl", start: int = 0) -> str:
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(start, start + count)]
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_prompt_is_the_beginning_of_a_training_example(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = ({"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "Answer: 5"})
    for template in (tokenizer.chat_template, None):
        tokenizer.chat_template, kept = template, tokenizer.chat_template
        example = encode(Row(turns, None, "rows", 1), tokenizer).example
        found = prompt_ids("What is 2 + 3?", tokenizer, chat_format(tokenizer))
        tokenizer.chat_template = kept
        assert example is not None
        assert example.token_ids[: len(found)] == found
        assert not any(example.supervised[: len(found)])
        assert example.supervised[len(found)]


def test_own_problems_are_split_and_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    objective = RL(task="builtin:arithmetic:size=50,test_size=20")
    found = prepare_problems(DataSpec(train=objective.task, max_train=30, max_eval=10), objective, tokenizer)
    assert (len(found.train), len(found.test)) == (30, 10)
    assert not {p.problem.prompt for p in found.train} & {p.problem.prompt for p in found.test}


def test_an_instruction_follows_the_problem_and_is_no_part_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    objective = RL(task="builtin:arithmetic:size=4,test_size=2", instruction="Sort these words.")
    found = prepare_problems(DataSpec(train=objective.task), objective, tokenizer)
    for prompt in (*found.train, *found.test):
        assert f"{prompt.problem.prompt}\n\nSort these words." in tokenizer.decode(list(prompt.token_ids))
        assert "Sort" not in prompt.problem.prompt


def test_rows_are_split_by_the_seed_or_judged_by_others(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    said: list[str] = []
    file = rows_file(tmp_path, 40)
    split = prepare_problems(DataSpec(train=file, eval_fraction=0.25), MATH, tokenizer, said.append)
    assert (len(split.train), len(split.test)) == (30, 10)
    assert any("10 of 40 problems held out by seed 0" in line for line in said)
    assert split == prepare_problems(DataSpec(train=file, eval_fraction=0.25), MATH, tokenizer)
    other = prepare_problems(DataSpec(train=file, eval_fraction=0.25, split_seed=1), MATH, tokenizer)
    assert other.test != split.test
    judge = rows_file(tmp_path, 10, "judge.jsonl", start=35)
    found = prepare_problems(DataSpec(train=file, eval=judge), MATH, tokenizer, said.append)
    assert (len(found.train), len(found.test)) == (35, 10), "what is held out is not trained on"
    assert any("5 training problems are also held out" in line for line in said)


def test_bad_rows_name_file_and_line_or_are_skipped(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    file = Path(rows_file(tmp_path, 10))
    file.write_text(file.read_text() + '{"question": "no answer"}\n{"question": \n')
    with pytest.raises(DataError, match=r"rows.jsonl:11: .*no column answer"):
        prepare_problems(DataSpec(train=str(file)), MATH, tokenizer)
    said: list[str] = []
    found = prepare_problems(DataSpec(train=str(file), skip_bad_rows=True), MATH, tokenizer, said.append)
    assert len(found.train) + len(found.test) == 10
    assert any("2 bad rows skipped; the first, line 11" in line for line in said)


def test_long_prompts_are_dropped_and_said(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    said: list[str] = []
    file = rows_file(tmp_path, 40)
    longest = max(len(p.token_ids) for p in prepare_problems(DataSpec(train=file), MATH, tokenizer).train)
    found = prepare_problems(DataSpec(train=file, max_length=longest - 1), MATH, tokenizer, said.append)
    assert 0 < len(found.train) < 36
    assert any(f"are over {longest - 1} tokens: dropped" in line for line in said)
    with pytest.raises(DataError, match="no training problem is left"):
        prepare_problems(DataSpec(train=file, max_length=2), MATH, tokenizer)

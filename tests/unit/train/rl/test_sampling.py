"""Completions within memory, their texts, and samples that cannot be graded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.engine import Engine
from lowregret.spec import RL
from lowregret.tasks import Grade, Problem
from lowregret.train.members import TrialOutcome
from lowregret.train.rl.problems import Prompt
from lowregret.train.rl.rollout import Sample
from lowregret.train.rl.sampling import Sampling, sampling_params

PROMPTS = [Prompt((2 + n, 3), Problem(f"problem {n}")) for n in range(9)]
SEEDS = {"a": 1, "base": 2}


def sampling(engine: Engine, grade: Any = None, say: Any = None, **objective: Any) -> Sampling:
    asked = RL(**{"task": "math", "max_tokens": 6, **objective})
    return Sampling(engine, asked, grade or (lambda samples: [Grade(1.0)] * len(samples)), say or print, 8)


def small_memory(engine: Engine, most: int) -> list[int]:
    """Sampling breaks off beyond so many rows."""
    whole, sizes = engine.sample, []

    def sample(prompts: Any, params: Any, seeds: Any, rows: int) -> Any:
        sizes.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(prompts, params, seeds, rows)

    engine.sample = sample  # type: ignore[method-assign,assignment]
    return sizes


def test_fewer_rows_are_tried_until_they_fit_and_nothing_else_changes(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    bases.adapted(engine, "a")
    prompts = {"a": PROMPTS, "base": PROMPTS}
    expected = sampling(engine).draw(prompts, SEEDS)
    sizes = small_memory(engine, 5)
    draws = sampling(engine)
    found = draws.draw(prompts, SEEDS)
    assert sizes == [18, 9, 4]
    for name in prompts:
        ours, theirs = found[name], expected[name]
        assert not isinstance(ours, TrialOutcome)
        assert not isinstance(theirs, TrialOutcome)
        assert [sample.text for sample in ours] == [sample.text for sample in theirs]
    draws.draw(prompts, SEEDS)
    assert sizes == [18, 9, 4, 4], "what is learnt is kept"


def test_what_does_not_fit_at_all_fails_and_says_so(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    small_memory(engine, 0)
    found = sampling(engine).draw({"base": PROMPTS}, SEEDS)["base"]
    assert isinstance(found, TrialOutcome)
    assert found.status == "failed"
    assert "out of memory while sampling" in (found.error or "")


def test_graders_see_no_special_tokens_and_no_stop_text(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    free = sampling(engine).draw({"base": PROMPTS}, SEEDS)["base"]
    assert not isinstance(free, TrialOutcome)
    stop = free[0].text.split()[2]
    cut = sampling(engine, stop=(stop, "w2 w2 w2")).draw({"base": PROMPTS}, SEEDS)["base"]
    assert not isinstance(cut, TrialOutcome)
    assert cut[0].completion.finished
    assert cut[0].text == free[0].text[: free[0].text.find(stop)]
    assert all("<eos>" not in sample.text for sample in free)


def test_ends_are_those_of_tokenizer_and_generation(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    for configured, expected in ((None, (1,)), (5, (1, 5)), ([7, 1], (1, 7))):
        engine.model.generation_config.eos_token_id = configured  # type: ignore[union-attr]
        assert sorted(sampling_params(engine, RL(task="math")).stop_ids) == list(expected)


def test_what_ends_a_turn_is_not_graded(bases: ModuleType) -> None:
    """Neither an end that is no special token nor the text by which a chat template ends turns."""
    engine = Engine(bases.small_base("qwen3"))
    free = sampling(engine).draw({"base": PROMPTS}, SEEDS)["base"]
    assert not isinstance(free, TrialOutcome)
    words = free[0].text.split()
    last = words.index(words[2])
    engine.model.generation_config.eos_token_id = int(words[2][1:])  # type: ignore[union-attr]
    by_token = sampling(engine).draw({"base": PROMPTS}, SEEDS)["base"]
    engine.model.generation_config.eos_token_id = 1  # type: ignore[union-attr]
    engine.base.tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content }}}} {words[2]}\n{{% endfor %}}"
    by_text = sampling(engine).draw({"base": PROMPTS}, SEEDS)["base"]
    for found in (by_token, by_text):
        assert not isinstance(found, TrialOutcome)
        assert found[0].completion.finished
        assert len(found[0].completion.token_ids) == last + 1
        assert found[0].text.split() == words[:last]


def test_failures_are_written_and_said_once(bases: ModuleType, tmp_path: Path) -> None:
    said: list[str] = []

    def grade(samples: Sequence[tuple[str, Problem]]) -> list[Grade]:
        return [Grade(-1.0, "raised X: https://me:pass@judge/") if n % 2 else Grade(1.0) for n in range(len(samples))]

    draws = sampling(Engine(bases.small_base("qwen3")), grade, said.append, failure_reward=-1.0)
    found = draws.draw({"base": PROMPTS[:4]}, SEEDS)["base"]
    assert not isinstance(found, TrialOutcome)
    samples: list[Sample] = found
    for step in (1, 2):
        assert [g.reward for g in draws.graded(tmp_path, samples, 2, step).grades] == [1.0, -1.0, 1.0, -1.0]
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"], line["reward"], line["error"]) for line in lines] == [
        (step, f"problem {n}", -1.0, "raised X: https://***@judge/") for step in (1, 2) for n in (1, 3)
    ]
    assert len(said) == 1
    assert "2 of 4 samples of step 1: number 2 raised X" in said[0]


@pytest.mark.parametrize("members", [1, 4])
def test_a_pack_has_room_for_as_many_as_decode_together(bases: ModuleType, members: int) -> None:
    from lowregret.spec import DataSpec, TrainingSpec
    from lowregret.train.rl import work as rl

    spec = TrainingSpec(
        model="small", data=DataSpec(train="small"), objective=RL(task="math", group_size=8), batch_size=32, steps=1
    )
    work = rl.RLWorkload(Engine(bases.small_base("qwen3")), spec, PROMPTS, PROMPTS, lambda samples: [])
    assert work.has_room(members, [])
    assert not work.has_room(rl.DECODE_ROWS // (32 * 8) + 1, [])

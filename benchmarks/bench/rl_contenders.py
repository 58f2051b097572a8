"""Contenders of the figure on reinforcement learning."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bench.peers import TRL_COMMON, Enough, peer_model, train_on_request
from benchmarks.bench.rl import read_problems
from benchmarks.bench.worker import clock

from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from benchmarks.bench.worker import Channel

    from lowregret.tasks import Grade, Problem
    from lowregret.train.rl.problems import Prompt


def reward(text: str) -> float:
    """0, ¼, ½, ¾ or 1, which of them as good as by chance."""
    return zlib.crc32(text.encode()) % 5 / 4


def prepare(channel: Channel, *, model: str, data: str | None, folder: str, count: int) -> None:
    """Chat prompts of GSM8K, or of the built-in arithmetic, whose text has the same tokens for both sides."""
    from lowregret.models.load import load_tokenizer, resolve
    from lowregret.spec import RL, DataSpec
    from lowregret.train.rl.problems import prepare_problems

    tokenizer = load_tokenizer(resolve(model))
    task = "builtin:arithmetic:difficulty=5" if data is None else "math"
    spec = DataSpec(train=task if data is None else f"{data}/train.jsonl", max_length=256)
    rows = []
    for prompt in prepare_problems(spec, RL(task=task), tokenizer).train:
        text = tokenizer.decode(prompt.token_ids)
        if tuple(tokenizer(text)["input_ids"]) == prompt.token_ids:
            rows.append({"ids": list(prompt.token_ids), "text": text})
        if len(rows) == count:
            break
    if len(rows) < count:
        raise ValueError(f"{len(rows)} prompts are read the same by both sides; {count} are needed.")
    (Path(folder) / "rl.json").write_text(to_json(rows))
    channel.ready()


def ours(
    channel: Channel,
    *,
    model: str,
    folder: str,
    problems: int,
    group: int,
    max_tokens: int,
    learning_rate: float,
    adapter: str,
    policies: Sequence[str],
) -> None:
    """The trainer's own steps, of all policies `together` or of one after the other; each goes through the problems."""
    import tempfile

    from lowregret.engine import Engine
    from lowregret.export.peft import load_adapter
    from lowregret.models.load import load_base, resolve
    from lowregret.spec import RL, DataSpec, LoRA, TrainingSpec, TrialSpec
    from lowregret.train.checkpoint import Progress
    from lowregret.train.members import StepResult
    from lowregret.train.rl.work import RLWorkload

    engine = Engine(load_base(resolve(model)), device="cpu", precision="float32")
    engine.base.tokenizer.eos_token_id = None  # no row ends early
    engine.model.generation_config.eos_token_id = None
    for name in policies:
        load_adapter(engine, name, Path(folder) / adapter)
    prompts = _prompts(folder)
    spec = TrainingSpec(
        model=model,
        data=DataSpec(train="none"),
        objective=RL(task="math", group_size=group, max_tokens=max_tokens),
        batch_size=problems,
        steps=10**6,
        device="cpu",
        precision="float32",
    )
    work = RLWorkload(engine, spec, prompts, prompts[:1], _grade).work()
    sampling = _Watched(engine)
    with tempfile.TemporaryDirectory() as out:
        trials = {
            name: TrialSpec(method=LoRA(rank=16), learning_rate=learning_rate, seed=seed)
            for seed, name in enumerate(policies)
        }
        members = [work.enter(name, trial, Path(out) / name, Progress()) for name, trial in trials.items()]
        channel.ready()
        while (request := channel.wait()) is not None:
            sampling.reset()
            began = clock()
            for some in [members] if request["together"] else [[member] for member in members]:
                for taken in work(some)[0].values():
                    assert isinstance(taken, StepResult), taken
            seconds = clock() - began
            for member in members:
                member.progress = member.progress.model_copy(update={"step": member.progress.step + 1})
            channel.answer(seconds=seconds, sampling_seconds=sampling.seconds, tokens=sampling.tokens)


class _Watched:
    """How long an engine samples, and how many tokens it draws."""

    def __init__(self, engine: Any) -> None:
        self._sample = engine.sample
        engine.sample = self
        self.reset()

    def reset(self) -> None:
        self.seconds, self.tokens = 0.0, 0

    def __call__(self, *arguments: Any) -> Any:
        began = clock()
        found = self._sample(*arguments)
        self.seconds += clock() - began
        self.tokens += sum(len(completion.token_ids) for own in found.values() for completion in own)
        return found


def _prompts(folder: str) -> list[Prompt]:
    from lowregret.tasks import Problem
    from lowregret.train.rl.problems import Prompt

    return [Prompt(tuple(row["ids"]), Problem(row["text"])) for row in read_problems(folder)]


def _grade(samples: Sequence[tuple[str, Problem]]) -> list[Grade]:
    from lowregret.tasks import Grade

    return [Grade(reward(text)) for text, _ in samples]


def trl(
    channel: Channel,
    *,
    model: str,
    folder: str,
    scratch: str,
    problems: int,
    group: int,
    max_tokens: int,
    learning_rate: float,
    adapter: str,
    steps: int,
) -> None:
    """TRL's GRPOTrainer on a PEFT model, one optimizer step for each batch of samples, its loop halted between steps.

    As ours: no KL, advantages that are not divided, one pass over all completions of a step where memory allows it.
    """
    import trl as library
    from datasets import Dataset
    from transformers import AutoTokenizer

    drawn: list[int] = []

    def rewards(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        drawn.append(sum(map(len, completion_ids)))
        return [reward(text) for text in completions]

    config = library.GRPOConfig(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=problems * group,
        num_generations=group,
        max_completion_length=max_tokens,
        generation_kwargs={"min_new_tokens": max_tokens},  # no row ends early
        temperature=1.0,
        beta=0.0,
        scale_rewards="none",
        learning_rate=learning_rate,
        shuffle_dataset=False,
        logging_steps=1,
        **TRL_COMMON,
    )
    trainer = library.GRPOTrainer(
        model=peer_model(model, folder, adapter, "sdpa"),
        args=config,
        reward_funcs=rewards,
        train_dataset=Dataset.from_list([{"prompt": row["text"]} for row in read_problems(folder)]),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[_turns(channel, drawn)],
    )
    train_on_request(trainer, channel)


def _turns(channel: Channel, drawn: list[int]) -> Any:
    """A callback that waits for a request before each step and answers with the step's time and sampled tokens."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if channel.wait() is None:
                raise Enough
            self.began = clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            channel.answer(seconds=clock() - self.began, tokens=drawn.pop())

    return Turns()

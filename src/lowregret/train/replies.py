"""replies.json: greedy replies of the base and of what was trained on it to the same held-out prompts."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from lowregret.activity import doing
from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData
from lowregret.engine import Completion, Engine, SamplingParams
from lowregret.engine.device import out_of_memory
from lowregret.engine.footprint import max_decode_rows
from lowregret.engine.sampling.stream import completion_text
from lowregret.export.peft import load_adapter
from lowregret.models.context import positions_of
from lowregret.models.stops import stops
from lowregret.runs.atomic import read_record, remove_file, write_json
from lowregret.runs.files import REPLIES
from lowregret.runs.replies import BASE_SPEAKER, FULL, Answered, Name, Replies, Reply, Speaker, speaker, winners
from lowregret.spec import RL, ShownSpec
from lowregret.tasks import Problem
from lowregret.train.inputs import RunInputs, Say, grading, trained_engine

REPLY_TOKENS = 128
"""Longest reply, where no reward says how long one may be."""
TEXT_TOKENS = 32
"""Read of a row that has no prompt, all of which is supervised."""
CHOICE_SEED = 0


@dataclass(frozen=True)
class Question:
    """A held-out prompt."""

    place: int
    """Among the held-out examples."""
    token_ids: tuple[int, ...]
    reference: tuple[int, ...] | str | None
    """The answer that the data have: tokens, or text of a task."""
    judged: Example | Problem
    """By what its replies are judged."""


Answers = Mapping[Name, Sequence[Reply]]


class Replying:
    """What a finished run, whose engine is gone, keeps of replies; `inputs` are the run's."""

    def __init__(self, folder: Path, inputs: RunInputs, say: Say) -> None:
        assert isinstance(inputs.spec, ShownSpec)
        self._file, self._spec, self._inputs, self._say = folder / REPLIES, inputs.spec, inputs, say
        self._weights = winners(folder)
        self._speakers = (Speaker(name=BASE_SPEAKER), *map(speaker, self._weights.values()))

    def write(self) -> None:
        """See that what is wanted is there: nothing is done where it is, and what is there of another result goes.

        Too little memory for it is said, and leaves no file.
        """
        wanted = self._spec.replies, self._inputs.resolved["test_data"], self._speakers
        if self._spec.replies and self._file.is_file() and read_record(Replies, self._file).is_for(*wanted):
            return
        remove_file(self._file)
        if self._spec.replies and self._weights:
            self._make()

    def _make(self) -> None:
        """Ask all speakers, one base in memory at a time."""
        began = time.perf_counter()
        max_tokens, questions = _choose(self._spec, self._inputs)
        if not questions:
            self._say("replies: no held-out prompt leaves room for one in the base's positions")
            return
        try:
            rows = self._ask(questions, max_tokens)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self._say(f"replies: left out, for want of memory ({str(error).splitlines()[0]})")
            return
        record = Replies(
            asked=self._spec.replies,
            held_out=self._inputs.resolved["test_data"],
            choice=f"the first {len(questions)} with different prompts, in an order shuffled by seed {CHOICE_SEED}, of "
            f"{len(self._inputs.data.test):,} held-out examples",
            max_tokens=max_tokens,
            speakers=self._speakers,
            rows=rows,
        )
        write_json(self._file, record)
        self._say(
            f"replies: {len(rows)} held-out prompts answered by {', '.join(one.name for one in self._speakers)} "
            f"({time.perf_counter() - began:.1f} s; --replies 0 leaves them out)"
        )

    def _ask(self, questions: Sequence[Question], max_tokens: int) -> tuple[Answered, ...]:
        found: dict[Name, Sequence[Reply]] = {}
        gc.collect()  # an engine and its model know each other: one base in memory, not the run's too
        stored = self._inputs.as_stored
        base = self._inputs.loaded_engine(stored)
        texts = [_texts(base, question) for question in questions]
        found |= self._answers(base, [BASE_SPEAKER, *self._adapted(base)], questions, max_tokens)
        del base
        gc.collect()
        quantised = {record.spec.method.quantisation for record in self._weights.values()} - {stored}
        for quantisation in quantised:
            base = self._inputs.loaded_engine(quantisation)
            found |= self._answers(base, self._adapted(base), questions, max_tokens)
            del base
            gc.collect()
        for folder, record in self._weights.items():
            if speaker(record).name == FULL:
                answers = self._answers(trained_engine(self._spec, folder), [BASE_SPEAKER], questions, max_tokens)
                found[FULL] = answers[BASE_SPEAKER]
        return tuple(
            Answered(
                place=question.place,
                prompt=prompt,
                reference=reference,
                replies={one.name: found[one.name][rank] for one in self._speakers},
            )
            for rank, (question, (prompt, reference)) in enumerate(zip(questions, texts, strict=True))
        )

    def _adapted(self, base: Engine) -> list[Name]:
        """The adapters that were trained on such a base, put on it."""
        own = {
            folder: speaker(record).name
            for folder, record in self._weights.items()
            if record.spec.method.quantisation == base.base.quantisation and speaker(record).name != FULL
        }
        for folder, name in own.items():
            load_adapter(base, name, folder)
        return list(own.values())

    def _answers(
        self, engine: Engine, names: Sequence[Name], questions: Sequence[Question], max_tokens: int
    ) -> dict[Name, Sequence[Reply]]:
        """The replies of an engine's policies, in one batch as far as memory allows, and how they are judged."""
        params = _params(engine, self._spec, max_tokens)
        prompts: dict[str, list[tuple[int, ...]]] = {
            name: [question.token_ids for question in questions] for name in names
        }
        longest = max(len(question.token_ids) for question in questions) + max_tokens
        with doing("answering held-out prompts"):
            drawn = engine.sample(prompts, params, max_rows=max_decode_rows(engine, longest))
        texts = {name: [_said(engine, params, one) for one in drawn[name]] for name in names}
        nlls, rewards = self._judge(engine, texts, questions)
        return {
            name: [
                Reply(
                    text=texts[name][rank],
                    tokens=len(one.token_ids),
                    cut=not one.finished,
                    nll=nlls[name][rank],
                    reward=rewards[name][rank],
                )
                for rank, one in enumerate(drawn[name])
            ]
            for name in names
        }

    def _judge(
        self, engine: Engine, texts: Mapping[Name, Sequence[str]], questions: Sequence[Question]
    ) -> tuple[dict[Name, list[float | None]], dict[Name, list[float | None]]]:
        """The loss of each example, and the reward of each reply: one of the two."""
        nothing: dict[Name, list[float | None]] = {name: [None] * len(questions) for name in texts}
        examples = [question.judged for question in questions if isinstance(question.judged, Example)]
        if examples:
            losses = engine.evaluate(list(texts), examples)
            return {
                name: [total / max(count, 1) for total, count in zip(*losses[name], strict=True)] for name in texts
            }, nothing
        rewards = dict(nothing)
        with grading(self._spec, lambda line: None) as grader:
            assert grader is not None
            for name, own in texts.items():
                asked = [
                    (text, question.judged)
                    for text, question in zip(own, questions, strict=True)
                    if isinstance(question.judged, Problem)
                ]
                rewards[name] = [grade.reward for grade in grader(asked)]
        return nothing, rewards


def _choose(spec: ShownSpec, inputs: RunInputs) -> tuple[int, list[Question]]:
    """(the longest reply, the prompts), in shuffled order; none twice, and none without room for a reply."""
    objective = spec.objective
    room = positions_of(inputs.config)
    max_tokens = objective.max_tokens if isinstance(objective, RL) else min(REPLY_TOKENS, (room or 256) // 2)
    order = list(range(len(inputs.data.test)))
    random.Random(CHOICE_SEED).shuffle(order)
    chosen: dict[tuple[int, ...], Question] = {}
    for place in order:
        question = _question(inputs, place)
        if question.token_ids and (room is None or len(question.token_ids) + max_tokens <= room):
            chosen.setdefault(question.token_ids, question)
        if len(chosen) == spec.replies:
            break
    return max_tokens, list(chosen.values())


def _question(inputs: RunInputs, place: int) -> Question:
    data = inputs.data
    if not isinstance(data, PreparedData):
        prompt = data.test[place]
        return Question(place, prompt.token_ids, prompt.problem.gold, prompt.problem)
    example = data.test[place]
    length = prompt_length(example)
    rest = zip(example.token_ids[length:], example.supervised[length:], strict=True)
    answer = tuple(token for token, _ in takewhile(lambda pair: pair[1], rest))
    return Question(place, example.token_ids[:length], answer, example)


def prompt_length(example: Example) -> int:
    """How many tokens come before the first answer of a row; of a row that is text alone, the first 32, or its half."""
    first = example.supervised.index(True)
    return first if first > 1 else min(TEXT_TOKENS, max(len(example.token_ids) // 2, 1))


def _params(engine: Engine, spec: ShownSpec, max_tokens: int) -> SamplingParams:
    ends = stops(engine.base)
    own = spec.objective.stop if isinstance(spec.objective, RL) else ()
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_ids=ends.ids, stop_texts=(*own, *ends.texts))


def _decoded(engine: Engine, ids: Sequence[int], *, bare: bool) -> str:
    tokenizer = engine.base.tokenizer
    return str(tokenizer.decode(list(ids), skip_special_tokens=bare, clean_up_tokenization_spaces=False))


def _said(engine: Engine, params: SamplingParams, completion: Completion) -> str:
    return completion_text(completion, params, lambda ids: _decoded(engine, ids, bare=True))


def _texts(engine: Engine, question: Question) -> tuple[str, str | None]:
    """Prompt and reference."""
    reference = question.reference
    if isinstance(reference, tuple):
        reference = _decoded(engine, reference[:REPLY_TOKENS], bare=True)
    return _decoded(engine, question.token_ids, bare=False), reference

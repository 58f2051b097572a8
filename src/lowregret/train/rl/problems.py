"""Problems and their prompts as tokens: what reinforcement learning has in place of examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowregret.data.chat.asking import prompt_ids
from lowregret.data.chat.template import ChatFormat, chat_format, choose_template
from lowregret.data.readers.base import BrokenRow, OpenSource
from lowregret.data.readers.registry import open_source
from lowregret.data.sources import bad_row
from lowregret.errors import DataError
from lowregret.spec import RL, DataSpec
from lowregret.tasks import Problem, Task, open_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A problem as the base reads it."""

    token_ids: tuple[int, ...]
    problem: Problem


@dataclass(frozen=True)
class Problems:
    """What is trained on and what is judged by; no problem is in both."""

    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]


def prepare_problems(
    spec: DataSpec, objective: RL, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None] = lambda line: None
) -> Problems:
    """The task's own problems, or those in the rows of `spec`, and what was left out, said.

    Held out is what the task or the source holds out, or `spec.eval`, or a split by `spec.split_seed`. Training prompts
    equal to a held-out one are removed, then prompts over `spec.max_length` tokens; then the first `max_train` and
    `max_eval` are kept. Raises DataError when a source is wrong or nothing is left, SpecError for the task.
    """
    task = open_task(objective.task)
    own = task.problems()
    train, test = _from_rows(spec, task, say) if own is None else own
    judged = {problem.prompt for problem in test}
    kept = [problem for problem in train if problem.prompt not in judged]
    if len(kept) < len(train):
        say(f"{len(train) - len(kept):,} training problems are also held out: removed")
    choose_template(tokenizer, spec.chat_template)
    form = chat_format(tokenizer)
    if form.template is None:
        say("the tokenizer has no chat template: a prompt is followed by a blank line")
    ending = f"\n\n{objective.instruction}" if objective.instruction else ""
    found = [_encoded(problems, ending, tokenizer, form, spec.max_length, say) for problems in (kept, test)]
    if not found[0] or not found[1]:
        which = "training" if not found[0] else "held-out"
        raise DataError(f"no {which} problem is left. Give more rows, or raise --max-length.", source=spec.train)
    problems = Problems(tuple(found[0][: spec.max_train]), tuple(found[1][: spec.max_eval]))
    say(f"{len(problems.train):,} problems to train on, {len(problems.test):,} held out ({objective.task})")
    return problems


def _encoded(
    problems: Sequence[Problem],
    ending: str,
    tokenizer: PreTrainedTokenizerBase,
    form: ChatFormat,
    max_length: int,
    say: Callable[[str], None],
) -> list[Prompt]:
    prompts = [Prompt(prompt_ids(problem.prompt + ending, tokenizer, form), problem) for problem in problems]
    short = [prompt for prompt in prompts if len(prompt.token_ids) <= max_length]
    if len(short) < len(prompts):
        say(f"{len(prompts) - len(short):,} prompts are over {max_length} tokens: dropped")
    return short


def _from_rows(spec: DataSpec, task: Task, say: Callable[[str], None]) -> tuple[list[Problem], list[Problem]]:
    """(training, held out) of the user's data."""
    source = open_source(spec.train)
    train = _read(source, "train", spec, task, say)
    if spec.eval is not None:
        judge = open_source(spec.eval)
        return train, _read(judge, judge.held_out or "train", spec, task, say)
    if source.held_out is not None:
        return train, _read(source, source.held_out, spec, task, say)
    if len(train) < 2:
        raise DataError("one problem cannot be split in two parts. Give more, or --eval-data.", source=spec.train)
    order = list(range(len(train)))
    random.Random(spec.split_seed).shuffle(order)
    held_out = min(max(round(len(train) * spec.eval_fraction), 1), len(train) - 1)
    chosen = set(order[:held_out])
    say(f"{held_out:,} of {len(train):,} problems held out by seed {spec.split_seed}, for want of --eval-data")
    parts: tuple[list[Problem], list[Problem]] = ([], [])
    for index, problem in enumerate(train):
        parts[index in chosen].append(problem)
    return parts


def _read(source: OpenSource, split: str, spec: DataSpec, task: Task, say: Callable[[str], None]) -> list[Problem]:
    """The problems of a split, in order; bad rows end it, or are skipped and said."""
    found: list[Problem] = []
    bad: list[tuple[int, str]] = []
    for note in source.notes:
        say(f"{source.name}: {note}")
    for line, record in source.load(split):
        try:
            if isinstance(record, BrokenRow):
                raise DataError(f"{record.reason}.")
            found.append(task.problem(record, spec.prompt_field, spec.completion_field))
        except DataError as error:
            if not spec.skip_bad_rows:
                raise bad_row(source.places, line, str(error)) from None
            bad.append((line, str(error)))
    if bad:
        number, reason = bad[0]
        say(f"{source.name}: {len(bad):,} bad rows skipped; the first, {source.places.short(number)}: {reason}")
    if not found:
        raise DataError("holds no problem.", source=source.name)
    return found

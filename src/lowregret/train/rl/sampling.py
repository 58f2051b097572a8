"""Completions of prompts, within memory, and their grades."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lowregret.activity import doing
from lowregret.engine import Completion, Engine, SamplingParams
from lowregret.engine.device import out_of_memory
from lowregret.engine.footprint import max_decode_rows
from lowregret.engine.sampling.stream import completion_text
from lowregret.engine.sampling.vllm import VllmSampler
from lowregret.export.peft import export_policy
from lowregret.foreign_text import redacted
from lowregret.models.stops import stops
from lowregret.runs.files import FAILURES
from lowregret.runs.metrics import append_lines
from lowregret.spec import RL
from lowregret.tasks import Grade, Problem
from lowregret.tasks.source import is_function
from lowregret.train.members import TrialOutcome
from lowregret.train.rl.problems import Prompt
from lowregret.train.rl.rollout import Rollout, Sample

_SHUT = (
    "PermissionError",
    "Read-only file system",
    "No usable temporary directory",
    "Operation not permitted",
    "memory",
)
"""What is said by, or instead of, a reward function that wants what is confined."""
Grading = Callable[[Sequence[tuple[str, Problem]]], list[Grade]]
"""A `Grader`, or whatever else grades (completion, problem)."""


def sampling_params(engine: Engine, objective: RL) -> SamplingParams:
    """How completions are drawn, in training and in evaluations alike."""
    ends = stops(engine.base)
    return SamplingParams(
        max_tokens=objective.max_tokens,
        temperature=objective.temperature,
        top_p=objective.top_p,
        stop_ids=ends.ids,
        stop_texts=(*objective.stop, *ends.texts),
    )


def sampling_lines(engine: Engine, objective: RL) -> list[str]:
    """What to say before completions are drawn: where they end, if that is not plain, and that they come slowly."""
    return stops(engine.base).lines(objective.stop) + (
        [] if objective.sampler == "vllm" else engine.sampling_path.lines()
    )


def ungraded(objective: RL, rollout: Rollout) -> str:
    """What to say where not one of the samples could be graded."""
    failure = str(rollout.failure)
    late = " Allow more time by --time-limit." if "took longer than" in failure else ""
    if is_function(objective.task) and any(sign in failure for sign in _SHUT):
        late += " It is confined: if it needs the network, files, processes or more memory, say --trust-task."
    return (
        f"task {objective.task!r}: none of {len(rollout.samples)} completions could be graded; the first: "
        f"{rollout.failure}.{late} Correct the reward function; for a completion that is merely wrong, let it return a "
        "reward and not raise."
    )


class Sampling:
    """Draws and grades for all policies of an engine."""

    def __init__(
        self, engine: Engine, objective: RL, grade: Grading, say: Callable[[str], None], longest_row: int
    ) -> None:
        """`longest_row`: tokens of the longest prompt and completion."""
        self._engine, self._objective, self._grade, self._say = engine, objective, grade, say
        self._sampler = VllmSampler(engine, export_policy, say) if objective.sampler == "vllm" else engine
        self._longest_row = longest_row
        self._params = sampling_params(engine, objective)
        self._most_rows = sys.maxsize
        """Of a decode batch; smaller after one that did not fit in memory."""
        self._told = False

    def draw(
        self, prompts: Mapping[str, Sequence[Prompt]], seeds: Mapping[str, int]
    ) -> dict[str, list[Sample] | TrialOutcome]:
        """Completions, as many rows of all policies at once as memory allows; `failed` where one is too many."""
        ids = {name: [prompt.token_ids for prompt in own] for name, own in prompts.items()}
        total = sum(map(len, ids.values()))
        while True:
            rows = min(total, self._most_rows, max_decode_rows(self._engine, self._longest_row))
            try:
                with doing(f"sampling {total:,} completions"):
                    drawn = self._sampler.sample(ids, self._params, seeds, rows)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                problem = str(error)
            else:
                return {name: list(map(self._finished, prompts[name], drawn[name])) for name in prompts}
            if rows <= len(prompts):  # a row of each
                return dict.fromkeys(prompts, TrialOutcome("failed", error=f"out of memory while sampling: {problem}"))
            self._most_rows = rows // 2

    def graded(self, folder: Path, samples: Sequence[Sample], size: int, step: int) -> Rollout:
        """Grade, and report the samples that cannot be."""
        grades = self._grade([(sample.text, sample.prompt.problem) for sample in samples])
        failed = [(place, grade) for place, grade in enumerate(grades) if grade.failure is not None]
        append_lines(
            folder / FAILURES,
            (
                {
                    "step": step,
                    "sample": place + 1,
                    "prompt": samples[place].prompt.problem.prompt,
                    "completion": samples[place].text,
                    "reward": grade.reward,
                    "error": grade.failure and redacted(grade.failure),
                }
                for place, grade in failed
            ),
        )
        if failed and not self._told:
            self._told = True
            self._say(
                f"grading failed for {len(failed)} of {len(samples)} samples of step {step}: number {failed[0][0] + 1} "
                f"{failed[0][1].failure}. They count as {self._objective.failure_reward:g}; {folder / FAILURES} names "
                "them and later ones"
            )
        return Rollout(samples, grades, size)

    def _finished(self, prompt: Prompt, completion: Completion) -> Sample:
        """A completion with the text that is graded: without what ended it, which need not be a special token."""
        tokenizer = self._engine.base.tokenizer
        text = completion_text(
            completion, self._params, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
        )
        return Sample(prompt, completion, text)

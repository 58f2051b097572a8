"""Reinforcement learning in the one training loop: what a step and an evaluation are.

A step samples groups of completions for all policies of a pack in one decode batch, grades them, and follows their
advantages in one or several updates. `examples/rl_loop.py` is the readable twin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lowregret.data.batches import Batch, batch_indices
from lowregret.engine import Engine, PassResult
from lowregret.engine.footprint import max_decode_rows
from lowregret.engine.losses import Loss, cispo, entropy_bonus, importance_sampling, k3, kl_penalty, ppo_clip
from lowregret.records import ExampleRewards, keep_metrics_until, make_folder
from lowregret.spec import RL, TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress
from lowregret.train.liveness import Liveness
from lowregret.train.rl_log import FAILURES, TRANSCRIPTS, append_lines, keep_lines_until
from lowregret.train.rl_problems import Prompt
from lowregret.train.rl_rollout import Rollout, Sample, batches, column, draw_seed, measure
from lowregret.train.rl_sampling import Grading, Sampling
from lowregret.train.schedule import eval_steps, total_examples, total_steps
from lowregret.train.step import (
    METRICS,
    Ending,
    Evaluation,
    Member,
    Passes,
    Taken,
    Work,
    adam_params,
    forget_gradients,
    memory_advice,
    out_of_memory,
)

EVALUATION_SEED = -1
"""Of held-out samples: the same in all trials and at all steps, so that trials are compared on equal luck."""
_SHOWN = 8
"""Held-out problems whose completions are kept as transcripts."""


@dataclass(frozen=True)
class RLTask:
    """What all trials of a run share."""

    engine: Engine
    spec: TrainingSpec
    train: Sequence[Prompt]
    test: Sequence[Prompt]
    grade: Grading
    reference: Engine | None = None
    """The base, for the KL penalty of a FullFT, which changes it; a LoRA's is its own engine's."""
    say: Callable[[str], None] = lambda line: None

    @property
    def objective(self) -> RL:
        """The spec's."""
        assert isinstance(self.spec.objective, RL)
        return self.spec.objective

    @property
    def longest_row(self) -> int:
        """Tokens of the longest prompt with the longest completion."""
        return max(len(prompt.token_ids) for prompt in (*self.train, *self.test)) + self.objective.max_tokens

    @property
    def test_tokens(self) -> int:
        """No token is supervised."""
        return 0

    def work(self) -> Work:
        """What its trials do in a round."""
        return RLWork(self)

    def has_room(self, members: int, policies: Sequence[str]) -> bool:
        """Sampling gains by every row that decodes together with others, until they fill the device."""
        rows = members * self.spec.batch_size * self.objective.group_size
        return rows <= min(DECODE_ROWS, max_decode_rows(self.engine, self.longest_row))


DECODE_ROWS = 1024
"""Rows of a pack in one decode batch, at most: where more stop paying is not measured."""


@dataclass
class _Learned:
    """What the updates of a step have told about one policy."""

    gaps: tuple[float, float] | None = None
    kl: float | None = None
    grad_norm: float | None = None


def policy_loss(objective: RL) -> Loss:
    """The loss that an objective asks for, of a batch with the columns that it needs."""
    clip = objective.clip_range if objective.estimator != "importance_sampling" else 0.0
    estimators: dict[str, Loss] = {
        "importance_sampling": importance_sampling,
        "ppo_clip": partial(ppo_clip, low=clip, high=clip),
        "cispo": partial(cispo, high=clip),
    }
    estimator = estimators[objective.estimator]

    def loss(
        logprobs: Tensor,
        weights: Tensor,
        *,
        advantages: Tensor,
        sampler_logprobs: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> Tensor:
        value: Tensor = estimator(logprobs, weights, advantages=advantages, sampler_logprobs=sampler_logprobs)
        if reference_logprobs is not None:
            value = value + objective.kl * kl_penalty(logprobs, weights, reference_logprobs=reference_logprobs)
        if objective.entropy:
            value = value + objective.entropy * entropy_bonus(logprobs, weights, sampler_logprobs=sampler_logprobs)
        return value

    return loss


class RLWork:
    """What the trials of a pack do in a round."""

    def __init__(self, task: RLTask) -> None:
        self.task = task
        self._objective = task.objective
        self._sampling = Sampling(task.engine, task.objective, task.grade, task.say, task.longest_row)
        self._loss = policy_loss(task.objective)
        self._passes = Passes(task.engine, task.spec, task.longest_row)

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""
        make_folder(folder)
        spec, problems = self.task.spec, len(self.task.train)
        kept = progress.step or -1  # what came before a first step happens again
        keep_metrics_until(folder / METRICS, kept)
        for file in (TRANSCRIPTS, FAILURES):
            keep_lines_until(folder / file, kept)
        steps = total_steps(spec, problems)
        return Member(
            name=name,
            trial=trial,
            folder=folder,
            progress=progress,
            steps=steps,
            visits=total_examples(spec, problems),
            evaluations=frozenset({0} | eval_steps(spec.evals, steps)),
            liveness=Liveness(self.task.engine.policies[name]),
            first_nll=None,
        )

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, Taken | Ending], float]:
        """One step of each: what became of it, and the seconds that it took.

        A member ends here when its probabilities or its loss are not finite. LivenessError when a matrix is dead.
        """
        began = time.perf_counter()
        self._passes.measure()
        rollouts, found = self._roll(members)
        going = [member for member in members if member.name in rollouts]
        updates = {
            name: batches(
                rollout,
                self.task.engine.base.pad_id,
                parts=self._objective.updates,
                divide_by_std=self._objective.divide_by_std,
                shared=self.task.engine.shares(name),
            )
            for name, rollout in rollouts.items()
        }
        learned = {member.name: _Learned() for member in going}
        for update in range(self._objective.updates):
            batch = {name: parts[update] for name, parts in updates.items() if name not in found}
            self._update(going, {name: part for name, part in batch.items() if part is not None}, learned, found)
        for member in going:
            if member.name not in found:
                found[member.name] = self._taken(member, rollouts[member.name], learned[member.name])
        return found, time.perf_counter() - began

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | Ending]:
        """The rewards of held-out problems, drawn by the same random numbers for all."""
        count = self._objective.eval_samples
        prompts = [prompt for prompt in self.task.test for _ in range(count)]
        seeds = {member.name: draw_seed(EVALUATION_SEED, 0) for member in members}
        drawn = self._sampling.draw({member.name: prompts for member in members}, seeds)
        found: dict[str, Evaluation | Ending] = {}
        for member in members:
            samples = drawn[member.name]
            step = member.progress.step + 1 if member.progress.step or member.evaluation else 0
            if isinstance(samples, Ending):
                found[member.name] = samples
            elif not all(sample.finite for sample in samples):
                found[member.name] = Ending("diverged", error=f"probabilities are not finite after step {step}.")
            else:
                found[member.name] = self._evaluation(member, samples, count, step)
        return found

    def _evaluation(self, member: Member, samples: Sequence[Sample], count: int, step: int) -> Evaluation:
        rollout = self._sampling.graded(member.folder, samples, count, step)
        rewards = tuple(math.fsum(group) / count for group in rollout.groups)
        lengths = [len(sample.completion.token_ids) for sample in samples]
        shown = zip(samples[: _SHOWN * count], rollout.grades, strict=False)
        append_lines(
            member.folder / TRANSCRIPTS,
            (
                {"step": step, "prompt": s.prompt.problem.prompt, "completion": s.text, "reward": grade.reward}
                for s, grade in shown
            ),
        )
        tokens = tuple(sum(lengths[start : start + count]) for start in range(0, len(lengths), count))
        examples = ExampleRewards(rewards=rewards, samples=count, tokens=tokens)
        return Evaluation(examples, test_reward=math.fsum(rewards) / len(rewards))

    def _roll(self, members: Sequence[Member]) -> tuple[dict[str, Rollout], dict[str, Taken | Ending]]:
        """The graded samples of a step, of all that can go on, and how the others have ended."""
        spec, size = self.task.spec, self._objective.group_size
        prompts: dict[str, list[Prompt]] = {}
        for member in members:
            rows = batch_indices(
                len(self.task.train), spec.batch_size, member.trial.seed, member.progress.step, member.visits
            )
            prompts[member.name] = [self.task.train[row] for row in rows for _ in range(size)]
        seeds = {member.name: draw_seed(member.trial.seed, member.progress.step) for member in members}
        drawn = self._sampling.draw(prompts, seeds)
        rollouts: dict[str, Rollout] = {}
        found: dict[str, Taken | Ending] = {}
        for member in members:
            samples, step = drawn[member.name], member.progress.step + 1
            if isinstance(samples, Ending):
                found[member.name] = samples
            elif not all(sample.finite for sample in samples):
                found[member.name] = Ending("diverged", error=f"probabilities are not finite in step {step}.")
            else:
                rollouts[member.name] = self._sampling.graded(member.folder, samples, size, step)
        return rollouts, found

    def _update(
        self,
        members: Sequence[Member],
        batch: dict[str, Batch],
        learned: dict[str, _Learned],
        found: dict[str, Taken | Ending],
    ) -> None:
        """One optimizer step of those that have a batch; how some end with it goes to `found`."""
        engine, spec = self.task.engine, self.task.spec
        run = partial(engine.forward_backward, loss=self._loss, temperature=self._objective.temperature)
        results, failed = self._passes.gradients(batch, run, self._with_reference)
        found |= failed
        losses = self._look(results, learned)
        going = [member for member in members if member.name in losses]
        for member in going:
            loss, step = losses[member.name], member.progress.step + 1
            if not math.isfinite(loss):
                forget_gradients(engine, member.name)
                found[member.name] = Ending("diverged", error=f"the loss is {loss} in step {step}.")
        going = [member for member in going if member.name not in found]
        params = {m.name: adam_params(spec.optimizer, m.trial.learning_rate, m.progress.step, m.steps) for m in going}
        for member in going:
            member.liveness.before_step(engine.policies[member.name].steps + 1)
        try:
            norms = engine.optim_step(params)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # The moments of some found no room, and which updates were done is unknown: none of them can go on.
            found |= {member.name: Ending("failed", error=memory_advice(str(error))) for member in going}
            return
        for member in going:
            member.liveness.after_step(engine.policies[member.name].steps)
            learned[member.name].grad_norm = norms[member.name]

    def _with_reference(self, part: Mapping[str, Batch]) -> Mapping[str, Batch]:
        """What the base thinks of the same tokens, for a KL penalty."""
        if not self._objective.kl:
            return part
        base = self.task.reference or self.task.engine
        asked = {f"the base of {name}": batch for name, batch in part.items()}
        found = base.forward(asked, temperature=self._objective.temperature)
        return {
            name: replace(
                batch,
                columns={
                    **batch.columns,
                    "reference_logprobs": column(batch, found[f"the base of {name}"].logprobs),
                },
            )
            for name, batch in part.items()
        }

    def _look(
        self, results: Mapping[str, Sequence[tuple[Batch, PassResult]]], learned: dict[str, _Learned]
    ) -> dict[str, float]:
        """The losses; and, at the first update, how far learner and sampler are apart. Fetched all at once."""
        rows: list[Tensor] = []
        for parts in results.values():
            for batch, result in parts:
                sampled = batch.columns["sampler_logprobs"][batch.supervised].to(result.logprobs.device)
                gap = (result.logprobs - sampled).abs()
                kl = torch.zeros_like(result.loss)
                if "reference_logprobs" in batch.columns:
                    kl = k3(result.logprobs, batch.columns["reference_logprobs"][batch.supervised].to(gap.device)).sum()
                rows.append(torch.stack([result.loss, gap.sum(), gap.max(), kl]))
        values = iter(torch.stack(rows).tolist() if rows else [])
        losses: dict[str, float] = {}
        for name, parts in results.items():
            loss, total, largest, kl_sums = zip(*(next(values) for _ in parts), strict=True)
            losses[name] = math.fsum(loss)
            if learned[name].gaps is None:
                tokens = sum(int(batch.supervised.sum()) for batch, _ in parts)
                learned[name].gaps = (math.fsum(total) / tokens, max(largest))
                learned[name].kl = math.fsum(kl_sums) / tokens if self._objective.kl else None
        return losses

    def _taken(self, member: Member, rollout: Rollout, learned: _Learned) -> Taken:
        rate = adam_params(
            self.task.spec.optimizer, member.trial.learning_rate, member.progress.step, member.steps
        ).learning_rate
        tokens = sum(sample.tokens for sample in rollout.samples)
        measures = {"rl": measure(rollout, learned.gaps, learned.kl)}
        return Taken(None, tokens, rate, learned.grad_norm, measures)

"""One optimizer step of any number of trials at once by reward: sample, grade, learn.

`examples/rl_loop.py` is the readable twin.
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
from lowregret.engine.checks import forget_gradients
from lowregret.engine.footprint import max_decode_rows
from lowregret.engine.losses import LOSSES, Loss, entropy_bonus, k3, kl_penalty
from lowregret.errors import SpecError
from lowregret.runs.files import FAILURES, TRANSCRIPTS
from lowregret.runs.metrics import append_lines
from lowregret.runs.records import ExampleRewards
from lowregret.spec import RL, TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress
from lowregret.train.members import Evaluation, Member, Stepper, StepResult, TrialOutcome, enter
from lowregret.train.rl.problems import Prompt
from lowregret.train.rl.rollout import Rollout, Sample, batches, column, draw_seed, measure
from lowregret.train.rl.sampling import Grading, Sampling, ungraded
from lowregret.train.step import Passes, scheduled_params, update

EVALUATION_SEED = -1
"""Of held-out samples: the same in all trials and at all steps, so that trials are compared on equal luck."""
_SHOWN = 8
"""Held-out problems whose completions are kept as transcripts."""


@dataclass(frozen=True)
class RLWorkload:
    """What all trials of a run share."""

    engine: Engine
    spec: TrainingSpec
    train: Sequence[Prompt]
    test: Sequence[Prompt]
    grade: Grading
    reference: Engine | None = None
    """The base, for the KL penalty of a FullFT, which changes it; a LoRA's is its own engine's."""
    say: Callable[[str], None] = lambda line: None
    identity: str = ""
    """Of the run (`runs.manifest.identity`)."""

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

    def stepper(self) -> Stepper:
        """What its trials do in a round."""
        return RLStepper(self)

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
    return partial(_policy_loss, objective)


def _policy_loss(
    objective: RL,
    logprobs: Tensor,
    weights: Tensor,
    *,
    advantages: Tensor,
    sampler_logprobs: Tensor,
    reference_logprobs: Tensor | None = None,
) -> Tensor:
    chosen = LOSSES[objective.estimator]
    clips = dict.fromkeys(chosen.clips, objective.clip_range) if chosen.clips else {}
    value: Tensor = chosen.function(
        logprobs, weights, advantages=advantages, sampler_logprobs=sampler_logprobs, **clips
    )
    if reference_logprobs is not None:
        value = value + objective.kl * kl_penalty(logprobs, weights, reference_logprobs=reference_logprobs)
    if objective.entropy:
        value = value + objective.entropy * entropy_bonus(logprobs, weights, sampler_logprobs=sampler_logprobs)
    return value


class RLStepper:
    """What the trials of a pack do in a round."""

    def __init__(self, workload: RLWorkload) -> None:
        self.workload = workload
        self._objective = workload.objective
        engine, longest = workload.engine, workload.longest_row
        self._sampling = Sampling(engine, workload.objective, workload.grade, workload.say, longest)
        self._loss = policy_loss(workload.objective)
        self._passes = Passes(engine, workload.spec, longest)

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""
        logs = (TRANSCRIPTS, FAILURES)
        return enter(self.workload, name, trial, folder, progress, evaluate_first=True, logs=logs)

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, StepResult | TrialOutcome], float]:
        """One step of each: what became of it, and the seconds that it took.

        A member ends here when its probabilities or its loss are not finite, or none of its samples can be graded.
        LivenessError when a matrix is dead.
        """
        began = time.perf_counter()
        self._passes.measure()
        rollouts, found = self._roll(members)
        going = [member for member in members if member.name in rollouts]
        updates = {
            name: batches(
                rollout,
                self.workload.engine.base.pad_id,
                parts=self._objective.updates,
                divide_by_std=self._objective.divide_by_std,
                shared=self.workload.engine.shares(name),
            )
            for name, rollout in rollouts.items()
        }
        learned = {member.name: _Learned() for member in going}
        for part in range(self._objective.updates):
            batch = {name: parts[part] for name, parts in updates.items() if name not in found}
            self._update(going, {name: own for name, own in batch.items() if own is not None}, learned, found)
        for member in going:
            if member.name not in found:
                found[member.name] = self._result(member, rollouts[member.name], learned[member.name])
        return found, time.perf_counter() - began

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | TrialOutcome]:
        """The rewards of held-out problems, drawn by the same random numbers for all."""
        count = self._objective.eval_samples
        prompts = [prompt for prompt in self.workload.test for _ in range(count)]
        seeds = {member.name: draw_seed(EVALUATION_SEED, 0) for member in members}
        drawn = self._sampling.draw({member.name: prompts for member in members}, seeds)
        found: dict[str, Evaluation | TrialOutcome] = {}
        for member in members:
            samples = drawn[member.name]
            step = member.progress.step + 1 if member.progress.step or member.evaluation else 0
            if isinstance(samples, TrialOutcome):
                found[member.name] = samples
            elif not all(sample.finite for sample in samples):
                found[member.name] = TrialOutcome("diverged", error=f"probabilities are not finite after step {step}.")
            else:
                found[member.name] = self._evaluation(member, samples, count, step)
        return found

    def _evaluation(
        self, member: Member, samples: Sequence[Sample], count: int, step: int
    ) -> Evaluation | TrialOutcome:
        """What held-out samples say; SpecError when none of the first evaluation's can be graded."""
        rollout = self._sampling.graded(member.folder, samples, count, step)
        if rollout.failure is not None and step == 0:
            raise SpecError(f"{ungraded(self._objective, rollout)} Nothing was trained.")
        if rollout.failure is not None:
            return TrialOutcome("failed", error=f"after step {step}: {ungraded(self._objective, rollout)}")
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

    def _roll(self, members: Sequence[Member]) -> tuple[dict[str, Rollout], dict[str, StepResult | TrialOutcome]]:
        """The graded samples of a step, of all that can go on, and how the others have ended."""
        spec, size = self.workload.spec, self._objective.group_size
        prompts: dict[str, list[Prompt]] = {}
        for member in members:
            rows = batch_indices(
                len(self.workload.train), spec.batch_size, member.trial.seed, member.progress.step, member.visits
            )
            prompts[member.name] = [self.workload.train[row] for row in rows for _ in range(size)]
        seeds = {member.name: draw_seed(member.trial.seed, member.progress.step) for member in members}
        drawn = self._sampling.draw(prompts, seeds)
        rollouts: dict[str, Rollout] = {}
        found: dict[str, StepResult | TrialOutcome] = {}
        for member in members:
            samples, step = drawn[member.name], member.progress.step + 1
            if isinstance(samples, TrialOutcome):
                found[member.name] = samples
            elif not all(sample.finite for sample in samples):
                found[member.name] = TrialOutcome("diverged", error=f"probabilities are not finite in step {step}.")
            else:
                rollout = self._sampling.graded(member.folder, samples, size, step)
                if rollout.failure is None:
                    rollouts[member.name] = rollout
                else:
                    error = f"in step {step}: {ungraded(self._objective, rollout)}"
                    found[member.name] = TrialOutcome("failed", error=error)
        return rollouts, found

    def _update(
        self,
        members: Sequence[Member],
        batch: dict[str, Batch],
        learned: dict[str, _Learned],
        found: dict[str, StepResult | TrialOutcome],
    ) -> None:
        """One optimizer step of those that have a batch; how some end with it goes to `found`."""
        engine, spec = self.workload.engine, self.workload.spec
        run = partial(engine.forward_backward, loss=self._loss, temperature=self._objective.temperature)
        results, failed = self._passes.gradients(batch, run, self._with_reference)
        found |= failed
        losses = self._read(results, learned)
        going = [member for member in members if member.name in losses]
        for member in going:
            loss, step = losses[member.name], member.progress.step + 1
            if not math.isfinite(loss):
                forget_gradients(engine, member.name)
                found[member.name] = TrialOutcome("diverged", error=f"the loss is {loss} in step {step}.")
        going = [member for member in going if member.name not in found]
        params = {member.name: scheduled_params(spec, member) for member in going}
        norms, unfit, _ = update(engine, going, params)
        found |= unfit
        for name, norm in norms.items():
            learned[name].grad_norm = norm

    def _with_reference(self, part: Mapping[str, Batch]) -> Mapping[str, Batch]:
        """What the base thinks of the same tokens, for a KL penalty."""
        if not self._objective.kl:
            return part
        base = self.workload.reference or self.workload.engine
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

    def _read(
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

    def _result(self, member: Member, rollout: Rollout, learned: _Learned) -> StepResult:
        rate = scheduled_params(self.workload.spec, member).learning_rate
        tokens = sum(sample.tokens for sample in rollout.samples)
        measures = {"rl": measure(rollout, learned.gaps, learned.kl)}
        return StepResult(None, tokens, rate, learned.grad_norm, measures)

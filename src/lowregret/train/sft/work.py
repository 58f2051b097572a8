"""One optimizer step of any number of trials at once on given completions, and their held-out loss.

`examples/sft_loop.py` is the readable twin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowregret.data.batches import batch_indices, collate
from lowregret.data.example import Example
from lowregret.data.table import supervised_counts, token_counts
from lowregret.engine import Engine, StepParams
from lowregret.engine.checks import announce
from lowregret.engine.device import out_of_memory
from lowregret.engine.footprint import max_tokens
from lowregret.runs.records import ExampleLosses
from lowregret.spec import TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress
from lowregret.train.members import Evaluation, Member, Stepper, StepResult, TrialOutcome, enter
from lowregret.train.step import Passes, activation_budget, memory_advice, scheduled_params, update


@dataclass(frozen=True)
class SFTWorkload:
    """What all trials of a run share."""

    engine: Engine
    spec: TrainingSpec
    train: Sequence[Example]
    test: Sequence[Example]
    shared: tuple[int, ...] | None = None
    """Positions in `test` of the examples by which all trials of the folder are judged; None for all."""
    identity: str = ""
    """Of the run (`runs.manifest.identity`)."""

    @property
    def test_tokens(self) -> int:
        """Supervised tokens of the held-out examples."""
        return int(supervised_counts(self.test).sum())

    def stepper(self) -> Stepper:
        """What its trials do in a round."""
        return SFTStepper(self)

    def has_room(self, members: int, policies: Sequence[str]) -> bool:
        """Whether the rows of so many trials fit in one pass: with more, steps are only cut into more passes."""
        rows = min(self.spec.micro_batch_size or self.spec.batch_size, self.spec.batch_size)
        length = int(token_counts(self.train).sum()) / len(self.train)
        return members * rows * length <= pass_tokens(self, policies)


def mean_nll(losses: ExampleLosses) -> float:
    """Nats per supervised token over a whole held-out set."""
    return math.fsum(losses.nll_sums) / max(sum(losses.tokens), 1)


def shared_nll(losses: ExampleLosses, shared: Sequence[int] | None) -> float | None:
    """The same over those examples alone; None for all."""
    if shared is None:
        return None
    kept = [(losses.nll_sums[position], losses.tokens[position]) for position in shared]
    return math.fsum(nll for nll, _ in kept) / max(sum(tokens for _, tokens in kept), 1)


def evaluate(engine: Engine, policies: Sequence[str], examples: Sequence[Example]) -> dict[str, ExampleLosses]:
    """The held-out losses of policies (or of `base`), example by example, in one pass for all of them."""
    return {
        name: ExampleLosses(nll_sums=tuple(nll), tokens=tuple(tokens))
        for name, (nll, tokens) in engine.evaluate(policies, examples).items()
    }


def evaluate_within_memory(
    engine: Engine, policies: Sequence[str], examples: Sequence[Example]
) -> dict[str, ExampleLosses | TrialOutcome]:
    """The same, one policy after the other where all together do not fit; `failed` for one that does not fit alone."""
    try:
        return dict(evaluate(engine, policies, examples))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        problem = str(error)
    if len(policies) == 1:
        return {policies[0]: TrialOutcome("failed", error=memory_advice(problem))}
    found: dict[str, ExampleLosses | TrialOutcome] = {}
    for name in policies:
        found |= evaluate_within_memory(engine, [name], examples)
    return found


def pass_tokens(workload: SFTWorkload, policies: Sequence[str]) -> int:
    """Tokens of a pass of these policies: what the spec's memory, or else a share of the device's, allows."""
    longest = int(token_counts(workload.train).max())
    return max_tokens(workload.engine, policies, activation_budget(workload.spec), longest=longest)


class SFTStepper:
    """Takes one optimizer step of each of several members, in as few passes as memory allows."""

    def __init__(self, workload: SFTWorkload) -> None:
        self.workload = workload
        self._passes = Passes(workload.engine, workload.spec, int(token_counts(workload.train).max()))
        cut, head = workload.engine.cuts.vocabulary, workload.engine.model.get_output_embeddings()
        self._uniform = math.log(head.weight.shape[0] if cut is None else cut.whole)

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""
        return enter(self.workload, name, trial, folder, progress)

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | TrialOutcome]:
        """The held-out losses of members, in one pass for all; one that is not finite ends its trial."""
        found: dict[str, Evaluation | TrialOutcome] = {}
        steps = {member.name: member.progress.step + 1 for member in members}
        for name, losses in evaluate_within_memory(self.workload.engine, list(steps), self.workload.test).items():
            if isinstance(losses, TrialOutcome):
                found[name] = losses
            elif math.isfinite(nll := mean_nll(losses)):
                found[name] = Evaluation(losses, nll, shared_nll(losses, self.workload.shared))
            else:
                found[name] = TrialOutcome("diverged", error=f"the held-out loss is {nll} after step {steps[name]}.")
        return found

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, StepResult | TrialOutcome], float]:
        """What became of each, and the seconds of passes and updates (checks excluded).

        A member ends here when its loss is not finite, or above twice the larger of a uniform guess and the loss of
        its first step. That one is the base's own: on data foreign to a confident base it is worse than guessing, and
        no fault of the learning rate. LivenessError when a matrix of any member is dead.
        """
        engine, spec = self.workload.engine, self.workload.spec
        self._passes.measure()
        began = time.perf_counter()
        examples = {member.name: self._examples(member) for member in members}
        pad_id = engine.base.pad_id
        batches = {name: collate(rows, pad_id) for name, rows in examples.items()}
        params = {member.name: scheduled_params(spec, member) for member in members}
        announce(engine, params)
        results, found = self._passes.gradients(batches, lambda part: engine.forward_backward(part))
        losses = _read({name: [result.loss for _, result in parts] for name, parts in results.items()})
        going = [member for member in members if member.name in losses]
        for member in going:
            error = self._divergence(member, losses[member.name], params[member.name])
            if error is not None:
                found[member.name] = TrialOutcome("diverged", error=error)
        going = [member for member in going if member.name not in found]
        seconds = time.perf_counter() - began
        norms, failed, more = update(engine, going, params)
        for member in going:
            if member.name in norms:
                train_nll = losses[member.name]
                member.first_nll = train_nll if member.first_nll is None else member.first_nll
                tokens = sum(len(example.token_ids) for example in examples[member.name])
                rate = params[member.name].learning_rate
                found[member.name] = StepResult(train_nll, tokens, rate, norms[member.name])
        return found | failed, seconds + more

    def _examples(self, member: Member) -> list[Example]:
        """Those of the step to come, by length."""
        train, spec = self.workload.train, self.workload.spec
        rows = batch_indices(len(train), spec.batch_size, member.trial.seed, member.progress.step, member.visits)
        return sorted((train[i] for i in rows), key=lambda example: len(example.token_ids))

    def _divergence(self, member: Member, train_nll: float, params: StepParams) -> str | None:
        first = member.first_nll
        limit = math.inf if first is None else 2 * max(self._uniform, first)
        if math.isfinite(train_nll) and train_nll <= limit:
            return None
        before = "" if first is None else f", and the first step's was {first:.2f}"
        return (
            f"the training loss is {train_nll:.4g} nats per token in step {member.progress.step + 1}, at learning rate "
            f"{params.learning_rate:.3g}; guessing uniformly gives {self._uniform:.2f}{before}."
        )


def _read(losses: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """The sum of each policy's losses, fetched from the device all at once."""
    if not losses:
        return {}
    values = iter(torch.stack([loss for parts in losses.values() for loss in parts]).tolist())
    return {name: math.fsum(next(values) for _ in parts) for name, parts in losses.items()}

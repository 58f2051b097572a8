"""The one training loop: supervised fine-tuning of one policy, LoRA or FullFT alike.

Config → engine → loop → records is visible in `run_trial`; `examples/sft_loop.py` is its readable twin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowregret.data.batches import batch_indices, collate
from lowregret.data.chat import Example
from lowregret.engine import AdamParams, Engine
from lowregret.errors import DivergedError
from lowregret.records import (
    ExampleLosses,
    Metric,
    append_metric,
    keep_metrics_until,
    make_folder,
    read_metrics,
    sync_file,
    write_json,
)
from lowregret.spec import OptimizerSpec, TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from lowregret.train.liveness import Liveness
from lowregret.train.memory import PeakMemory
from lowregret.train.schedule import eval_steps, rate_factor, total_examples, total_steps

METRICS = "metrics.jsonl"
EXAMPLES = "examples.json"


class Interrupted(InterruptedError):
    """The user asked to stop; a checkpoint has been written."""


class Pruned(Exception):
    """The stopping rule ended the trial at a mid-run evaluation."""

    def __init__(self, reason: str, progress: Progress, test_nll: float) -> None:
        super().__init__(reason)
        self.progress = progress
        self.test_nll = test_nll


@dataclass(frozen=True)
class Hooks:
    """What the caller of a trial may watch and decide."""

    on_step: Callable[[int, int, Metric], None] = lambda step, steps, metric: None
    """(step from 1, total steps, its metric)."""
    should_prune: Callable[[int, float], str | None] = lambda step, nll: None
    """(step, held-out loss) at a mid-run evaluation → the reason to stop, or None."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked after every step; True writes a checkpoint and raises Interrupted."""


@dataclass(frozen=True)
class Outcome:
    """A finished trial."""

    progress: Progress
    test_nll: float | None
    test_tokens: int


def mean_nll(losses: ExampleLosses) -> float:
    """Nats per supervised token over a whole held-out set."""
    return math.fsum(losses.nll_sums) / max(sum(losses.tokens), 1)


def evaluate(engine: Engine, policy: str, examples: Sequence[Example]) -> ExampleLosses:
    """The held-out loss of a policy (or of `base`), example by example."""
    nll, tokens = engine.evaluate([policy], examples)[policy]
    return ExampleLosses(nll_sums=tuple(nll), tokens=tuple(tokens))


def run_trial(
    engine: Engine,
    policy: str,
    spec: TrainingSpec,
    trial: TrialSpec,
    train: Sequence[Example],
    test: Sequence[Example],
    folder: Path,
    hooks: Hooks | None = None,
) -> Outcome:
    """Train `policy`, which is on the engine already, from its checkpoint in `folder` or from the start, to the end.

    Writes metrics.jsonl as it goes, checkpoint.safetensors every `spec.checkpoint_seconds`, and examples.json at the
    end. Raises DivergedError, LivenessError, Pruned, Interrupted or RecordsError; what is on disk stays resumable.
    """
    hooks = hooks or Hooks()
    make_folder(folder)
    memory = PeakMemory(engine.device)
    progress = load_checkpoint(engine, policy, folder)
    keep_metrics_until(folder / METRICS, progress.step)
    steps, visits = total_steps(spec, len(train)), total_examples(spec, len(train))
    evaluations = eval_steps(spec.evals, steps)
    liveness = Liveness(engine.policies[policy])
    curve = read_metrics(folder / METRICS)
    first_nll = curve[0].train_nll if curve else None
    started, saved = time.perf_counter() - progress.seconds, time.perf_counter()
    losses: ExampleLosses | None = None

    for step in range(progress.step + 1, steps + 1):
        indices = batch_indices(len(train), spec.batch_size, trial.seed, step - 1, visits)
        params = adam_params(spec.optimizer, trial.learning_rate, step - 1, steps)
        examples = [train[i] for i in indices]
        train_nll, tokens, norm = train_step(engine, policy, examples, params, spec, liveness, step, first_nll)
        first_nll = train_nll if first_nll is None else first_nll
        test_nll = None
        if step in evaluations and test:
            losses, test_nll = _held_out(engine, policy, test, step)
        progress = Progress(
            step,
            progress.tokens + tokens,
            time.perf_counter() - started,
            max(progress.peak_memory_bytes, memory.bytes()),
        )
        metric = Metric(
            step=step,
            tokens=progress.tokens,
            train_nll=train_nll,
            test_nll=test_nll,
            lr=params.learning_rate,
            grad_norm=norm,
            seconds=round(progress.seconds, 4),
        )
        append_metric(folder / METRICS, metric)
        hooks.on_step(step, steps, metric)
        if test_nll is not None and step < steps and (reason := hooks.should_prune(step, test_nll)):
            raise Pruned(reason, progress, test_nll)
        if hooks.should_stop() and step < steps:
            _checkpoint(engine, policy, folder, progress)
            raise Interrupted
        if step < steps and time.perf_counter() - saved >= spec.checkpoint_seconds:
            _checkpoint(engine, policy, folder, progress)
            saved = time.perf_counter()

    sync_file(folder / METRICS)
    if losses is None:
        return Outcome(progress, None, 0)
    write_json(folder / EXAMPLES, losses)
    return Outcome(replace(progress, seconds=time.perf_counter() - started), mean_nll(losses), sum(losses.tokens))


def _held_out(engine: Engine, policy: str, test: Sequence[Example], step: int) -> tuple[ExampleLosses, float]:
    losses = evaluate(engine, policy, test)
    nll = mean_nll(losses)
    if not math.isfinite(nll):
        raise DivergedError(f"the held-out loss is {nll} after step {step}.")
    return losses, nll


def train_step(
    engine: Engine,
    policy: str,
    examples: Sequence[Example],
    params: AdamParams,
    spec: TrainingSpec,
    liveness: Liveness,
    step: int,
    first_nll: float | None = None,
) -> tuple[float, int, float]:
    """One optimizer step; returns its loss before the update, its tokens (padding excluded) and the gradient norm.

    Raises DivergedError for a loss that is not finite, or above twice the larger of a uniform guess and `first_nll`,
    the loss of the first step (None in that step itself). That one is the base's own: on data foreign to a confident
    base it is worse than guessing, and no fault of the learning rate.
    """
    # Neighbours of like length: micro-batches then need little padding.
    by_length = sorted(examples, key=lambda example: len(example.token_ids))
    batch = collate(by_length, engine.base.pad_id)
    pieces = batch.split(spec.micro_batch_size or batch.rows)
    losses = [engine.forward_backward({policy: piece})[policy].loss for piece in pieces]
    train_nll = math.fsum(float(loss) for loss in losses)  # read once all are under way: each read waits for a GPU
    uniform = math.log(engine.model.get_output_embeddings().weight.shape[0])
    limit = math.inf if first_nll is None else 2 * max(uniform, first_nll)
    if not math.isfinite(train_nll) or train_nll > limit:
        before = "" if first_nll is None else f", and the first step's was {first_nll:.2f}"
        raise DivergedError(
            f"the training loss is {train_nll:.4g} nats per token in step {step}, at learning rate "
            f"{params.learning_rate:.3g}; guessing uniformly gives {uniform:.2f}{before}."
        )
    liveness.before_step(step)
    norm = engine.optim_step({policy: params})[policy]
    liveness.after_step(step)
    return train_nll, sum(len(example.token_ids) for example in examples), norm


def adam_params(optimizer: OptimizerSpec, learning_rate: float, step: int, steps: int) -> AdamParams:
    """The hyper-parameters of one step (from 0)."""
    return AdamParams(
        learning_rate=learning_rate * rate_factor(optimizer, step, steps),
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )


def _checkpoint(engine: Engine, policy: str, folder: Path, progress: Progress) -> None:
    """Metrics first: a checkpoint must never be ahead of its curve, even after a power cut."""
    sync_file(folder / METRICS)
    save_checkpoint(engine, policy, folder, progress)

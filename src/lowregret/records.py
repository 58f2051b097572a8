"""A run folder's files: their shapes, and how they are written so that a kill at any moment loses nothing.

Lives at the top of the package, torch-free, because three layers share it: `train` and `study` write records,
`analysis` and `report` read them.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from lowregret.errors import RecordsError
from lowregret.spec import Spec, TrialSpec

R = TypeVar("R", bound=Spec)
Status = Literal["running", "finished", "diverged", "pruned", "failed"]


class TrialRecord(Spec):
    """`trials/<id>/trial.json`: one trial, from its start to its end."""

    id: str
    method: str
    learning_rate: float
    seed: int
    status: Status
    spec: TrialSpec
    test_nll: float | None = None
    """Held-out nats per supervised token at the last evaluation; None before one."""
    test_tokens: int = 0
    test_reward: float | None = None
    """With reinforcement learning: mean held-out reward at the last evaluation; None before one."""
    steps: int = 0
    """Optimizer steps taken; with reinforcement learning, batches of samples."""
    tokens: int = 0
    """Training tokens processed, prompts included."""
    seconds: float = 0.0
    """Wall time in the training loop, evaluation included, loading excluded. Of a pack's time, the trial's share:
    of each pass by its tokens, of the rest in equal parts."""
    peak_memory_bytes: int = 0
    """While the trial was in training; that of the whole pack, when it was one of several."""
    pack_size: int = 1
    """The most trials in training at once with this one, itself included."""
    shared_seconds: float = 0.0
    """Its share of the time of its training steps in passes with other trials."""
    shared_seconds_alone: float = 0.0
    """What those steps would have taken alone: an estimate from its second step, which has passes of its own."""
    trainable_parameters: int = 0
    checkpoint_bytes: int = 0
    """Size of what would be shipped: the adapter, or the whole model."""
    error: str | None = None
    pruned_by: str | None = None
    """The id of the trial that a pruned one was compared with."""

    @property
    def test_loss(self) -> float | None:
        """What a search makes small: `test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward


class RewardMetric(Spec):
    """What a line of `metrics.jsonl` says about the samples of a step of reinforcement learning."""

    reward: float
    """Mean over the samples, before the step's update."""
    pass_rate: float
    """Share of the samples whose reward is 1 or more."""
    length: float
    """Tokens of a completion, mean."""
    truncated: float
    """Share of the samples that were cut at `max_tokens`."""
    entropy: float
    """−log p of the sampled tokens under the sampler, mean: an estimate of the policy's entropy, nats a token."""
    logprob_gap: float | None = None
    """|log p_learner − log p_sampler| of the tokens of the first update, mean, nats; None when all groups dropped."""
    logprob_gap_max: float | None = None
    kl: float | None = None
    """From the base, nats a token; None when it has no weight."""
    groups: int
    dropped_groups: int
    """Groups of equal rewards: they teach nothing and are left out."""
    bits: float
    """Σ over samples of the entropy of their group's rewards, in bits: a bound on what the step can teach
    (SCIENCE.md 5)."""
    failures: int = 0
    """Samples whose grading failed; `failures.jsonl` names them."""


class Metric(Spec):
    """A line of `metrics.jsonl`."""

    step: int
    """Optimizer steps done, from 1; with reinforcement learning, 0 is the evaluation before the first."""
    tokens: int
    train_nll: float | None = None
    """Before the step's update, on the step's batch, nats per supervised token."""
    test_nll: float | None = None
    """After the step's update, on the whole held-out set."""
    test_reward: float | None = None
    """The same with reinforcement learning: the mean reward of held-out problems."""
    rl: RewardMetric | None = None
    lr: float | None = None
    grad_norm: float | None = None
    seconds: float

    @property
    def test_loss(self) -> float | None:
        """What a search makes small: `test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward


class ExampleLosses(Spec):
    """`trials/<id>/examples.json`: the last evaluation, example by example, for paired statistics."""

    nll_sums: tuple[float, ...]
    """Summed over the example's supervised tokens, nats."""
    tokens: tuple[int, ...]
    """Supervised tokens of each example."""

    @property
    def loss_sums(self) -> tuple[float, ...]:
        """What a paired comparison sums up."""
        return self.nll_sums

    @property
    def weights(self) -> tuple[int, ...]:
        """What it divides by."""
        return self.tokens


class ExampleRewards(Spec):
    """`trials/<id>/examples.json` with reinforcement learning: the last evaluation, problem by problem."""

    rewards: tuple[float, ...]
    """Mean over the problem's completions."""
    samples: int
    """Completions of each problem; the same random numbers draw them in every trial."""
    tokens: tuple[int, ...]
    """Tokens of each problem's completions."""

    @property
    def loss_sums(self) -> tuple[float, ...]:
        """What a paired comparison sums up: minus the rewards."""
        return tuple(-reward for reward in self.rewards)

    @property
    def weights(self) -> tuple[int, ...]:
        """Every problem counts alike."""
        return (1,) * len(self.rewards)


class MethodResult(Spec):
    """What a study found about one method."""

    name: str
    best_learning_rate: float | None
    bracketed: bool
    """True only when worse losses lie on both sides of the best learning rate."""
    test_nll: float | None
    """Mean over seeds at the best learning rate, nats per supervised token; None with reinforcement learning."""
    test_reward: float | None = None
    """With reinforcement learning: mean held-out reward, over seeds, at the best learning rate."""
    seeds: int
    """Finished trials at the best learning rate."""
    trials: int
    """All trials of this method, failed and diverged ones included."""
    tokens: int
    """Training tokens of one trial at the best learning rate."""
    seconds: float
    """Wall time of one trial at the best learning rate, median over seeds; of packed trials, the share of it."""
    alone_seconds: float | None = None
    """The same as if each had been trained alone: an estimate where trials were packed. Methods are compared by it."""
    peak_memory_bytes: int
    trainable_parameters: int
    checkpoint_bytes: int = 0
    pack_size: int = 1
    """The most trials in training at once with one of those at the best learning rate: more than 1 makes `seconds` a
    share, `alone_seconds` an estimate and `peak_memory_bytes` the whole pack's."""
    regret_nats: float | None = None
    """For a LoRA: against the best FullFT. None for FullFT."""
    regret_reward: float | None = None
    """With reinforcement learning: the reward of the best FullFT minus this one's."""
    ci95: tuple[float, float] | None = None
    """Of the regret, in its unit."""

    @property
    def test_loss(self) -> float | None:
        """`test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward

    @property
    def regret(self) -> float | None:
        """In nats, or in reward."""
        return self.regret_nats if self.regret_reward is None else self.regret_reward


class Recommendation(Spec):
    """What to train with."""

    method: str
    rank: int | None
    learning_rate: float
    batch_size: int
    targets: tuple[str, ...] | None


class Gains(Spec):
    """What training together and stopping early have saved, each by itself."""

    packed_trials: int
    """Trials that were trained in passes with others."""
    largest_pack: int
    shared_seconds: float
    """Time of the training steps in passes that several trials shared."""
    shared_seconds_alone: float
    """What the same steps would have taken one trial after the other, by each one's second step, which ran alone."""
    packing_gain: float | None
    """shared_seconds_alone / shared_seconds; None when nothing was shared."""
    steps: int
    """Optimizer steps taken by all trials."""
    steps_left_out: int
    """Steps that pruned and diverged trials did not take any more."""
    seconds_left_out: float
    """Their time, at the pace of the steps that the same trials did take."""


class Verdict(Spec):
    """`verdict.json`: the answer and its evidence (DESIGN.md, The verdict)."""

    verdict: Literal["low_regret", "regret", "inconclusive"]
    regret_nats: float | None
    regret_percent: float | None
    ci95: tuple[float, float] | None
    tolerance_nats: float | None
    reasons: tuple[str, ...]
    recommendation: Recommendation | None
    methods: tuple[MethodResult, ...]
    lora: MethodResult | None
    full: MethodResult | None
    base_nll: float | None = None
    """Held-out loss before any training."""
    regret_reward: float | None = None
    """With reinforcement learning, in place of `regret_nats`, `tolerance_nats` and `base_nll`; `ci95` is in reward."""
    tolerance_reward: float | None = None
    base_reward: float | None = None
    search: dict[str, Any] = Field(default_factory=dict)
    """Counts: trials run, pruned, diverged, and the stopping rule in words."""
    gains: Gains | None = None
    environment: dict[str, Any] = Field(default_factory=dict)


def read_examples(path: Path) -> ExampleLosses | ExampleRewards:
    """A trial's examples.json, of either kind."""
    content = read_json(path)
    rewarded = isinstance(content, dict) and "rewards" in content
    return read_record(ExampleRewards, path) if rewarded else read_record(ExampleLosses, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a RecordsError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "the disk is full. Free some space and run the same command again; what was written stays valid."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "no permission to write here. Choose another folder with --out, or change its permissions."
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            remedy = "a file stands where a folder is needed. Choose another folder with --out."
        else:
            remedy = f"{error.strerror or error}."
        raise RecordsError(f"{error.filename or path}: {remedy}") from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents; RecordsError when that is refused."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write aside; it becomes `path`, durably, when the context ends well, and goes when it does not."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            yield partial
            sync_file(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with writing(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a rename in this folder durable (a no-op where folders cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Spec | dict[str, Any]) -> None:
    """Write a record atomically as indented JSON; non-finite numbers become null, floats keep every bit."""
    plain = value.model_dump(mode="json") if isinstance(value, Spec) else value
    write_bytes(path, (json.dumps(_finite(plain), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path) -> Any:
    """Parse a record; RecordsError says which file is damaged and what to do."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise RecordsError(f"{path}: damaged ({error}). Delete it and run the same command again.") from error


def read_record(kind: type[R], path: Path) -> R:
    """Read one record of a known shape."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordsError(
            f"{path}: field {field!r}: {first['msg']}. Delete the file and run the command again."
        ) from error


def append_metric(path: Path, metric: Metric) -> None:
    """Append one line to metrics.jsonl in a single write."""
    with writing(path), open(path, "ab") as file:
        line = _finite(metric.model_dump(mode="json", exclude_none=True))
        file.write((json.dumps(line, allow_nan=False) + "\n").encode())


def read_metrics(path: Path) -> list[Metric]:
    """All complete lines of metrics.jsonl; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found: list[Metric] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(Metric.model_validate_json(line))
        except ValidationError as error:
            raise RecordsError(
                f"{path}:{number}: damaged ({error.errors()[0]['msg']}). Delete the trial's folder."
            ) from error
    return found


def keep_metrics_until(path: Path, step: int) -> None:
    """Drop the lines after `step`: a resumed trial writes them again."""
    kept: Iterable[Metric] = (metric for metric in read_metrics(path) if metric.step <= step)
    lines = (json.dumps(_finite(metric.model_dump(mode="json", exclude_none=True))) + "\n" for metric in kept)
    write_bytes(path, "".join(lines).encode())

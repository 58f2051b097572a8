"""A trial in training, what a step makes of it, and what a pack works with: the words that the loop is written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lowregret.engine import Engine
from lowregret.runs.atomic import make_folder
from lowregret.runs.files import METRICS
from lowregret.runs.metrics import keep_lines_until, keep_metrics_until
from lowregret.runs.records import ExampleLosses, ExampleRewards
from lowregret.spec import TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress, Standing
from lowregret.train.schedule import eval_steps, total_examples, total_steps


@dataclass(frozen=True)
class Evaluation:
    """What held-out data say about a policy: a loss, or a reward."""

    examples: ExampleLosses | ExampleRewards
    test_nll: float | None = None
    search_nll: float | None = None
    """On the held-out examples that all trials of the folder share, where that is not all."""
    test_reward: float | None = None

    @property
    def loss(self) -> float:
        """What is to be small, on the examples that all trials share."""
        if self.search_nll is not None:
            return self.search_nll
        if self.test_nll is not None:
            return self.test_nll
        assert self.test_reward is not None
        return -self.test_reward


@dataclass(frozen=True)
class StepResult:
    """One step that was taken."""

    train_nll: float | None
    """Before the update, nats per supervised token."""
    tokens: int
    learning_rate: float
    grad_norm: float | None
    """None when there was no gradient."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """More of its line in metrics.jsonl."""


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended; its last whole step is in its progress."""

    status: Literal["finished", "pruned", "diverged", "failed"]
    evaluation: Evaluation | None = None
    """After its last step."""
    error: str | None = None
    pruned_by: str | None = None


@dataclass
class Member:
    """A trial in training: all that the loop knows of it, its weights aside."""

    name: str
    """Its policy on the engine."""
    trial: TrialSpec
    folder: Path
    progress: Progress
    steps: int
    """Of the whole trial."""
    visits: int
    """Examples that the whole trial visits, counting repeats."""
    evaluations: frozenset[int]
    """Steps after which the held-out loss is measured."""
    first_nll: float | None
    """The training loss of its first step; None before it."""
    evaluation: Evaluation | None = None
    """Its last one."""

    @property
    def standing(self) -> Standing:
        return Standing(name=self.name, trial=self.trial, progress=self.progress)


class Workload(Protocol):
    """What all trials of a run share: the engine, the spec, and the data of its objective."""

    @property
    def engine(self) -> Engine: ...
    @property
    def spec(self) -> TrainingSpec: ...
    @property
    def train(self) -> Sequence[Any]: ...
    @property
    def test(self) -> Sequence[Any]: ...
    @property
    def test_tokens(self) -> int:
        """Supervised tokens of the held-out examples."""

    @property
    def identity(self) -> str:
        """Of the run (`runs.manifest.identity`): checkpoints and records repeat it."""

    def stepper(self) -> Stepper:
        """What its trials do in a round."""

    def has_room(self, members: int, policies: Sequence[str]) -> bool:
        """Whether so many trials gain by being in one pass: with more, steps are only cut into more passes."""


class Stepper(Protocol):
    """What the trials of a pack do in a round, by their objective."""

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, StepResult | TrialOutcome], float]:
        """One step of each: what became of it, and the seconds of passes and updates (checks excluded)."""

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | TrialOutcome]:
        """How good each is on held-out data; `failed` or `diverged` for one of which that cannot be said."""


def enter(
    workload: Workload,
    name: str,
    trial: TrialSpec,
    folder: Path,
    progress: Progress,
    *,
    evaluate_first: bool = False,
    logs: Iterable[str] = (),
) -> Member:
    """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps.

    What the folder says of later steps goes: metrics, and the lines of `logs`. RecordsError when lines of earlier ones
    are missing. With `evaluate_first` the policy is measured before its first step too.
    """
    make_folder(folder)
    kept = progress.step or -1  # what came before a first step happens again
    curve = keep_metrics_until(folder / METRICS, kept)
    for file in logs:
        keep_lines_until(folder / file, kept)
    spec, examples = workload.spec, len(workload.train)
    steps = total_steps(spec, examples)
    return Member(
        name=name,
        trial=trial,
        folder=folder,
        progress=progress,
        steps=steps,
        visits=total_examples(spec, examples),
        evaluations=frozenset(eval_steps(spec.evals, steps) | ({0} if evaluate_first else set())),
        first_nll=curve[0].train_nll if curve else None,
    )

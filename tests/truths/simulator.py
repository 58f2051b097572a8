"""Studies of which the answer is known before they are judged: trainings by a formula, left as a run leaves them.

A world says how much each method learns, at which rate it learns most, and what follows from that for each claim. What
noise there is has a mean of zero over the three seeds, so that a statistic must come out at the world's own number. No
code that measures or judges is used here, and every file's shape is that of `lowregret.runs`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowregret.runs.records import ExampleLosses, ExampleRewards, Metric, RewardMetric, Status, TrialRecord
from lowregret.spec import Frozen, Spec, TrialSpec
from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.study import GroupSpec

RATE = 1e-3
"""The learning rate from which worlds count in doublings; trials lie at RATE · 2^k."""
BASE = 3.0
"""Held-out loss before training, nats per token."""
BEND = 0.05
"""Nats that a doubling away from the best rate costs; the cost goes by the square."""
NOISE = 1e-4
"""Share by which a seed learns more or less."""
WEIGHTS = tuple(range(1, 13))
"""Supervised tokens of the held-out examples. They differ, so that a mean of means is not the mean."""
TOKENS = sum(WEIGHTS)
FORGETTING_BASE = 1.0
"""Loss on held-out text of the base before training."""
_COMMON, _OWN = 0.02, 1e-3
"""Nats by which examples are harder or easier: for all methods alike, and for one more than for another."""

AnyMethod = FullFT | LoRA
Law = Callable[[GroupSpec, AnyMethod, int], float]
"""(group, method, step) → a number."""


@dataclass(frozen=True)
class Truth:
    """What is so in a world, of one claim."""

    holds: bool | None
    """None where its value lies at a bound, so that no number of seeds would decide it: it must be open."""
    value: float
    within: float = 0.01
    """Share of the value by which the estimate may be off."""


def parabola(method: AnyMethod, learned: float, off: float, wobble: float) -> float:
    """What is learned `off` doublings from the best rate."""
    return learned - BEND * off**2


def _nothing(group: GroupSpec, method: AnyMethod, step: int) -> float:
    return 0.0


@dataclass(frozen=True)
class Nature:
    """How trainings go in a world."""

    learned: Law
    """Nats by which the held-out loss lies below the base's after a step, at the best rate; or the reward gained."""
    best: Law = _nothing
    """Doublings from RATE to the best rate after a step."""
    base: float = BASE
    """Held-out loss before training; minus the reward with reinforcement learning."""
    drift: Callable[[GroupSpec, int], float] = lambda group, step: 0.0
    """(group, step) → doublings by which the best rate differs between seeds. What does not differ between steps or
    groups cancels in a slope over them."""
    jitter: Callable[[int], float] = lambda step: 0.0
    """Nats that a seed's place adds to the held-out loss after a step: noise where nothing learned could vary."""
    away: Callable[[AnyMethod, float, float, float], float] = parabola
    """(method, learned, doublings from the best rate, the seed's place) → what is learned there."""
    reach: int = 1
    """Rates tried on each side of the best."""
    train: Law | None = None
    """Nats by which the training loss of a step, before its update, lies below the base's; the held-out loss at the
    evaluations when None."""
    parameters: Callable[[AnyMethod], int] = lambda method: 100 * method.rank if isinstance(method, LoRA) else 10**6
    """What a method trains."""
    hidden_size: Callable[[GroupSpec], float] = lambda group: 128
    forgets: Callable[[AnyMethod], float] | None = None
    """Nats by which the loss on the base's own text rises at the best rate."""
    fact_bits: float | None = None
    bits: Callable[[AnyMethod], float] | None = None
    """With reinforcement learning: what the samples of a step could teach, at the best rate."""


@dataclass(frozen=True, eq=False)
class World:
    """A study and its known answer."""

    name: str
    question: Mapping[str, Any]
    """What is asked, as a recipe says it."""
    truths: Mapping[str, Truth]
    """By the key of the claim."""
    nature: Nature | None = None
    """None where no trial is trained."""
    timings: Sequence[Mapping[str, Any]] = field(default=())
    """Of steps, one a width."""


def place(group: GroupSpec, method: AnyMethod, seed: int) -> float:
    """Where a seed lies among the three: they sum to zero, and no two methods are moved alike."""
    if seed > 2:
        return 1e3  # a seed that the question no longer asks for must not be looked at
    if isinstance(method, FullFT):
        return (-1.0, 0.0, 1.0)[seed]
    return (1 + group.methods.index(method) / 16) * (0.5, -1.0, 0.5)[seed]


def write_study(folder: Path, asked: Spec, groups: Sequence[GroupSpec], world: World) -> None:
    """Leave a finished study. Plain writes: those of a run wait for the disk, for which there is no need here."""
    _write(folder / "study.json", {"command": "lowregret study", "question": asked.model_dump(mode="json")})
    for group in groups:
        assert world.nature is not None, f"{world.name}: the question trains, so the world needs a nature"
        _group(folder / "groups" / group.key, group, world.nature)
    for timing in world.timings:
        _write(folder / "timings" / f"width-{timing['width']:05}.json", timing)


def _write(path: Path, content: Frozen | Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.model_dump_json() if isinstance(content, Frozen) else json.dumps(content), encoding="utf-8")


def _group(home: Path, group: GroupSpec, nature: Nature) -> None:
    base: dict[str, Any] = {"hidden_size": nature.hidden_size(group)}
    base |= {"objective": "rl"} if _rewarded(group) else {"test_nll": nature.base, "test_tokens": TOKENS}
    base |= {} if nature.forgets is None else {"forgetting_nll": FORGETTING_BASE}
    base |= {} if nature.fact_bits is None else {"fact_bits": nature.fact_bits}
    _write(home / "base.json", base)
    _write(home / "spec.json", {"spec": group.model_dump(mode="json")})
    for method in group.methods:
        for rate in _rates(group, nature, method):
            for seed in range(group.seeds):
                _trial(home, group, nature, TrialSpec(method=method, learning_rate=rate, seed=seed))
    _strays(home, group, nature)


def _rates(group: GroupSpec, nature: Nature, method: AnyMethod) -> list[float]:
    """What is tried: the rates nearest to the best at every step that counts, and `reach` on both sides, ascending.

    A best rate must not lie midway between two: which of them is nearest would go by the seed.
    """
    if group.learning_rates != "search":
        return sorted(group.learning_rates)
    steps = group.bracket_at or (_steps(group),)
    best = [nature.best(group, method, step) for step in steps]
    for step, found in zip(steps, best, strict=True):
        room = 0.5 - abs(found - round(found))
        assert room > 2 * abs(nature.drift(group, step)), f"{method.name}: midway between two rates"
    return [RATE * 2.0**k for k in range(round(min(best)) - nature.reach, round(max(best)) + nature.reach + 1)]


def _strays(home: Path, group: GroupSpec, nature: Nature) -> None:
    """What a reader must leave out: a seed and a method that are not asked for, and a trial that has not ended.

    A reader that took one of them in would find something else. Beside them is one that diverged, far above the best
    rates.
    """
    first, other = group.methods[0], LoRA(rank=3)
    assert other not in group.methods
    rates = _rates(group, nature, first)
    _trial(home, group, nature, TrialSpec(method=first, learning_rate=rates[len(rates) // 2], seed=group.seeds))
    for rate in rates:
        asked = group.model_copy(update={"methods": (other,)})
        _trial(home, asked, Nature(learned=lambda *_: 2.5), TrialSpec(method=other, learning_rate=rate))
    # The curve of one that is under way lies below all others.
    _trial(home, group, Nature(lambda *_: 2.5, away=lambda method, learned, *_: learned), _above(first, rates, 8))
    too_high: tuple[tuple[Status, int], ...] = (("running", 8), ("diverged", 16))
    for status, factor in too_high:
        trial = _above(first, rates, factor)
        record = TrialRecord(
            id=trial.id,
            method=first.name,
            learning_rate=trial.learning_rate,
            seed=trial.seed,
            status=status,
            spec=trial,
            test_nll=None if _rewarded(group) else 0.0,
            test_reward=100.0 if _rewarded(group) else None,
        )
        _write(home / "trials" / trial.id / "trial.json", record)


def _above(method: AnyMethod, rates: Sequence[float], factor: int) -> TrialSpec:
    return TrialSpec(method=method, learning_rate=factor * rates[-1])


def _steps(group: GroupSpec) -> int:
    assert group.steps is not None
    return group.steps


def _rewarded(group: GroupSpec) -> bool:
    return group.objective.kind == "rl"


def _held_out(group: GroupSpec, nature: Nature, trial: TrialSpec, step: int) -> float:
    """Held-out loss after a step."""
    if step == 0:
        return nature.base
    noise = nature.jitter(step) * place(group, trial.method, trial.seed)
    return nature.base - _seen(group, nature, trial, step, nature.learned) + noise


def _seen(group: GroupSpec, nature: Nature, trial: TrialSpec, step: int, law: Law) -> float:
    """What a law says of a trial, with its seed's noise and the cost of its rate."""
    wobble = place(group, trial.method, trial.seed)
    return nature.away(
        trial.method,
        law(group, trial.method, step) * (1 + NOISE * wobble),
        _off(group, nature, trial, step),
        wobble,
    )


def _off(group: GroupSpec, nature: Nature, trial: TrialSpec, step: int) -> float:
    """Doublings from the best rate of its seed."""
    best = nature.best(group, trial.method, step) + nature.drift(group, step) * place(group, trial.method, trial.seed)
    return 0.0 if group.learning_rates != "search" else math.log2(trial.learning_rate / RATE) - best


def _trial(home: Path, group: GroupSpec, nature: Nature, trial: TrialSpec) -> None:
    folder, steps = home / "trials" / trial.id, _steps(group)
    folder.mkdir(parents=True, exist_ok=True)
    lines = (metric.model_dump_json(exclude_none=True) + "\n" for metric in _curve(group, nature, trial))
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    loss = _held_out(group, nature, trial, steps)
    own = _OWN * (0 if isinstance(trial.method, FullFT) else 1 + group.methods.index(trial.method))
    _write(folder / "examples.json", _examples(loss, own, _rewarded(group)))
    off = _off(group, nature, trial, steps)
    if nature.forgets is not None:  # the next rates forget twice as much
        noise = 1 + NOISE * place(group, trial.method, trial.seed)
        rise = nature.forgets(trial.method) * noise * (1 + abs(round(off)))
        _write(folder / "forgetting.json", {"test_nll": FORGETTING_BASE + rise})
    record = TrialRecord.of(
        trial,
        status="finished",
        test_nll=None if _rewarded(group) else loss,
        test_reward=-loss if _rewarded(group) else None,
        test_tokens=TOKENS,
        steps=steps,
        seconds=1.0,
        trainable_parameters=nature.parameters(trial.method),
    )
    _write(folder / "trial.json", record)


def _curve(group: GroupSpec, nature: Nature, trial: TrialSpec) -> list[Metric]:
    assert isinstance(group.evals, tuple)
    rewarded, found = _rewarded(group), []
    every = rewarded or nature.train is not None
    for step in range(0 if rewarded else 1, _steps(group) + 1):
        fields: dict[str, Any] = {}
        if step in (0, *group.evals):
            loss = _held_out(group, nature, trial, step)
            fields = {"test_reward": -loss} if rewarded else {"test_nll": loss, "train_nll": loss}
        if nature.train is not None:
            fields["train_nll"] = nature.base - _seen(group, nature, trial, step, nature.train)
        if nature.bits is not None and step:
            more = 1 + abs(round(_off(group, nature, trial, step)))
            told = nature.bits(trial.method) * (1 + NOISE * place(group, trial.method, trial.seed)) * more
            fields["rl"] = _samples(told)
        if fields or every:
            found.append(Metric(step=step, tokens=step, seconds=float(step), **fields))
    return found


def _samples(bits: float) -> RewardMetric:
    return RewardMetric(
        reward=0.5, pass_rate=0.5, length=9, truncated=0, entropy=0.1, groups=2, dropped_groups=0, bits=bits
    )


def _examples(loss: float, own: float, rewarded: bool) -> ExampleLosses | ExampleRewards:
    """Examples whose mean is `loss`: what one is harder, the others are easier."""
    middle = (len(WEIGHTS) - 1) / 2
    harder = [_COMMON * (index - middle) + own * (-1) ** index for index in range(len(WEIGHTS))]
    assert math.isclose(math.fsum(harder), 0.0, abs_tol=1e-12)
    if rewarded:
        return ExampleRewards(rewards=tuple(-loss - part for part in harder), samples=1, tokens=WEIGHTS)
    sums = tuple(loss * tokens + part for tokens, part in zip(WEIGHTS, harder, strict=True))
    return ExampleLosses(nll_sums=sums, tokens=WEIGHTS)

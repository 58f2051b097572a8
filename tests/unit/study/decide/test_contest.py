"""What a comparison that stops when it is decided trains, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from benchmarks.until_decided import Answered, Played, play

from lowregret.analysis.decided import judged_records
from lowregret.analysis.regret import judge
from lowregret.errors import SpecError
from lowregret.runs.decision import Look
from lowregret.runs.records import PUT_ASIDE, ExampleLosses, TrialRecord
from lowregret.spec import CompareSpec, TrialSpec
from lowregret.spec.base import build
from lowregret.study.decide.contest import Ask, Contest, Judge
from lowregret.study.decide.looking import looked
from lowregret.study.decide.rungs import as_of, rungs_of
from lowregret.study.search import lattice_rate

STEPS, BASE = 100, 2.0
RUNGS = (20, 50, 100)
PRIORS = {"full": 1e-4, "lora:2": 1e-3, "lora:8": 1e-3, "lora:32": 1e-3}
SIZES = {"full": 1000, "lora:2": 2, "lora:8": 8, "lora:32": 32}
Loss = Callable[[TrialSpec, int], float]


def spec(methods: str = "full,lora:2,lora:8,lora:32", **more: object) -> CompareSpec:
    fields = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": methods.split(","), **more}
    return build(CompareSpec, fields)


def bowl(ends: Mapping[str, float], drift: float = 0.0) -> Loss:
    """Best at the prior in the end, `drift` doublings higher for each halving of the steps; falls to `ends`."""

    def loss(trial: TrialSpec, step: int) -> float:
        halvings = math.log2(STEPS / step)
        place = math.log2(trial.learning_rate / PRIORS[trial.method.name]) - drift * halvings
        return ends[trial.method.name] + 0.1 * halvings + 0.02 * place**2 + 0.0005 * trial.seed

    return loss


class Trainer:
    """Nobody trains: a loss by a formula, and a note of what was asked."""

    def __init__(self, loss: Loss, diverging: Callable[[TrialSpec], int | None] = lambda trial: None) -> None:
        self.loss, self.diverging = loss, diverging

    def __call__(self, trial: TrialSpec) -> Answered:
        last = self.diverging(trial)
        curve = {step: self.loss(trial, step) for step in (10, *RUNGS) if last is None or step < last}
        ended = last is None
        end = self.loss(trial, STEPS)
        record = TrialRecord.of(
            trial,
            status="finished" if ended else "diverged",
            test_nll=end if ended else None,
            steps=STEPS if ended else last,
            test_tokens=40,
            trainable_parameters=SIZES[trial.method.name],
        )
        sums = tuple(end + 0.001 * ((n * 7 + trial.seed) % 5 - 2) for n in range(40))
        return record, curve, ExampleLosses(nll_sums=sums, tokens=(1,) * 40)


class Killed:
    """A trainer that is stopped after so many trials."""

    def __init__(self, trainer: Trainer, left: int) -> None:
        self.trainer, self.left = trainer, left

    def __call__(self, trial: TrialSpec) -> Answered:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.trainer(trial)


def played(asked: CompareSpec, trainer: Trainer) -> tuple[Played, dict[TrialSpec, int]]:
    """A comparison played to its decision, and how far each trial was trained."""
    reached: dict[TrialSpec, int] = {}
    found = play(asked, PRIORS, BASE, RUNGS, trainer, reached)
    return found, reached


def ended(reached: Mapping[TrialSpec, int], method: str) -> list[float]:
    """Learning rates of the search's seed that a method trained to the end."""
    return sorted(
        t.learning_rate for t, at in reached.items() if t.method.name == method and at == STEPS and not t.seed
    )


def test_rungs_are_the_last_evaluations_within_a_fifth_and_a_half() -> None:
    assert rungs_of([9, 18, 35, 50, 71, 100], 100) == (18, 50, 100)
    assert rungs_of([20, 100], 100) == (20, 100)
    assert rungs_of([21, 60, 100], 100) == ()


def test_a_low_regret_trains_no_neighbour_of_loras_rate_and_a_high_one_none_of_full_fine_tunings() -> None:
    low, reached = played(spec("full,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.5})))
    assert low.verdict.verdict == "low_regret"
    assert low.decision.bound == "above"
    assert ended(reached, "lora:8") == [1e-3]
    assert ended(reached, "full") == [5e-5, 1e-4, 2e-4]
    assert low.decision.looks[-1].seeds == 2, "the third seed could not change it"
    high, reached = played(spec("full,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.9})))
    assert high.verdict.verdict == "regret"
    assert high.decision.bound == "below"
    assert ended(reached, "full") == [1e-4]
    assert ended(reached, "lora:8") == [5e-4, 1e-3, 2e-3]
    assert high.steps < 0.65 * high.decision.usual_steps


def test_a_lora_that_is_behind_by_more_than_the_tolerance_is_left_out_with_the_reason() -> None:
    ends = {"full": 0.5, "lora:2": 0.9, "lora:8": 0.51, "lora:32": 0.5}
    found, reached = played(spec(), Trainer(bowl(ends)))
    assert found.verdict.verdict == "low_regret"
    assert max(at for trial, at in reached.items() if trial.method.name == "lora:2") == RUNGS[0]
    reasons = {left.method: left.reason for left in found.decision.left_out}
    assert reasons["lora:2"] == "at step 20 its loss was 0.4000 nats above that of lora:32"
    assert found.decision.looks[-1].method == "lora:32"


def test_the_largest_lora_goes_on_beside_the_best() -> None:
    """What an adapter can hold is not felt at first."""
    ends = {"full": 0.5, "lora:2": 0.5, "lora:8": 0.51, "lora:32": 0.52}
    _, reached = played(spec(), Trainer(bowl(ends)))
    halfway = {trial.method.name for trial, at in reached.items() if at >= RUNGS[1]}
    assert halfway == {"full", "lora:2", "lora:32"}


def test_the_best_rate_of_a_short_run_is_followed_down() -> None:
    found, reached = played(spec("full,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.5}, drift=0.5)))
    assert found.verdict.verdict == "low_regret"
    assert found.verdict.lora is not None
    assert found.verdict.lora.best_learning_rate == 1e-3, "the pilots' best was higher"
    pilots = {trial.learning_rate for trial, at in reached.items() if trial.method.name == "lora:8"}
    assert max(pilots) > 2e-3


def test_where_the_leader_diverges_the_next_best_goes_on() -> None:
    def diverging(trial: TrialSpec) -> int | None:
        return 60 if trial.method.name == "lora:8" and trial.learning_rate == 1e-3 else None

    found, reached = played(spec("full,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.5}), diverging))
    assert found.verdict.lora is not None
    assert found.verdict.lora.best_learning_rate in (5e-4, 2e-3)
    assert 1e-3 in ended(reached, "lora:8"), "it was trained until it diverged"


def test_what_stays_open_ends_with_both_brackets_and_all_seeds() -> None:
    tolerance = 0.05 * (BASE - 0.5)
    found, reached = played(spec("full,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.5 + tolerance})))
    assert found.verdict.verdict == "inconclusive"
    assert [look.seeds for look in found.decision.looks] == [2, 3]
    assert found.decision.spent == pytest.approx(0.05)
    assert found.decision.bound is None
    assert ended(reached, "full") == [5e-5, 1e-4, 2e-4]
    assert ended(reached, "lora:8") == [5e-4, 1e-3, 2e-3]


def test_listed_rates_are_piloted_as_they_are() -> None:
    asked = spec("full,lora:8", learning_rates=[2.5e-5, 1e-4, 4e-4, 1e-3, 4e-3])
    found, reached = played(asked, Trainer(bowl({"full": 0.5, "lora:8": 0.5})))
    assert found.verdict.verdict == "low_regret"
    assert {trial.learning_rate for trial in reached} == {2.5e-5, 1e-4, 4e-4, 1e-3, 4e-3}
    assert ended(reached, "full") == [2.5e-5, 1e-4, 4e-4]


def test_other_full_fine_tunings_cannot_change_the_decision_and_are_not_trained() -> None:
    found, reached = played(spec("full,full:muon,lora:8"), Trainer(bowl({"full": 0.5, "lora:8": 0.5})))
    assert {trial.method.name for trial in reached} == {"full", "lora:8"}
    assert [left.method for left in found.decision.left_out] == ["full:muon"]


def test_what_comes_next_is_a_function_of_the_trials_that_there_are() -> None:
    """Of a comparison that was stopped anywhere, too: the same trials in the end."""
    trainer = Trainer(bowl({"full": 0.5, "lora:2": 0.9, "lora:8": 0.51, "lora:32": 0.5}, drift=0.4))
    _, whole = played(spec(), trainer)
    for stop in range(3, 36, 3):
        reached: dict[TrialSpec, int] = {}
        with suppress(KeyboardInterrupt):
            play(spec(), PRIORS, BASE, RUNGS, Killed(trainer, stop), reached)
        assert len(reached) <= stop
        play(spec(), PRIORS, BASE, RUNGS, trainer, reached)
        assert reached == whole


def test_trials_that_were_not_trained_so_far_count_as_worse_and_others_as_they_stood() -> None:
    trial = TrialSpec(method=spec().methods[1], learning_rate=1e-3)
    running = TrialRecord.of(trial, status="running", trainable_parameters=2)
    curves = {running.id: {20: 1.0}}
    assert as_of([running], curves, 20, 100)[0].test_nll == 1.0
    assert as_of([running], curves, 20, 100)[0].status == "finished"
    assert as_of([running], curves, 50, 100)[0].status == "pruned"
    assert as_of([running], curves, 100, 100)[0].status == "pruned"
    stopped = running.model_copy(update={"status": "pruned", "pruned_by": "other"})
    assert as_of([stopped], {}, 50, 100)[0].status == "diverged", "by another rule: it does not go on"
    aside = running.model_copy(update={"status": "pruned", "error": f"{PUT_ASIDE}the comparison was complete"})
    for step in (50, 100):
        (found,) = as_of([aside], curves, step, 100)
        assert (found.status, found.pilot, found.put_aside) == ("pruned", True, False), "a rung can ask for it"


def test_the_steps_of_a_verdict_are_those_that_its_trials_took_and_pilots_are_called_so() -> None:
    trainer = Trainer(bowl({"full": 0.5, "lora:8": 0.5}))
    asked = spec("full,lora:8")
    found, reached = played(asked, trainer)
    answered = {trial: trainer(trial) for trial in reached}
    records = [
        record.model_copy(update={"status": "finished" if at == STEPS else "running", "steps": at})
        for (record, _, _), at in ((answered[trial], at) for trial, at in reached.items())
    ]
    losses = {record.id: answered[record.spec][2] for record in records if record.status == "finished"}
    shown = judge(asked, judged_records(records, ("full", "lora:8"), 2), losses, BASE, {})
    pilots = sum(record.status == "running" for record in records)
    assert shown.gains is not None
    assert shown.gains.steps == sum(reached.values()) == found.decision.steps
    assert shown.search["pilots"] == pilots > 1
    assert shown.search["pruned"] == 0
    said = " ".join(shown.reasons)
    assert f"{pilots} pilots (trained a part of the way)" in said
    assert "pruned" not in said


def test_a_look_that_settled_ends_it() -> None:
    look = Look(seeds=2, method="lora:8", error=0.01, regret=0.0, interval=(-0.1, 0.01), ruling="low_regret")
    contest = Contest(spec("full,lora:8"), PRIORS, [], {}, BASE, RUNGS, (look,))
    assert contest.next() is None
    assert isinstance(Contest(spec("full,lora:8"), PRIORS, [], {}, BASE, RUNGS).next(), Ask)


def test_the_search_starts_as_a_full_one_does() -> None:
    first = Contest(spec("full,lora:8"), PRIORS, [], {}, BASE, RUNGS).next()
    assert isinstance(first, Ask)
    assert first.until == 20
    rates = {(trial.method.name, trial.learning_rate) for trial in first.trials}
    assert rates == {(name, lattice_rate(PRIORS[name], k)) for name in ("full", "lora:8") for k in (0, 2, -2)}


@pytest.mark.parametrize(
    ("more", "said"),
    [({"seeds": 1}, "seeds 2 or more"), ({"objective": {"kind": "rl", "task": "math"}}, "rewards rise along an S")],
)
def test_what_cannot_be_decided_so_is_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec("full,lora:8", until_decided=True, **more)


def test_of_two_loras_the_one_that_is_behind_is_left_out_at_the_first_rung() -> None:
    _, reached = played(spec("full,lora:2,lora:32"), Trainer(bowl({"full": 0.5, "lora:2": 0.9, "lora:32": 0.5})))
    assert max(at for trial, at in reached.items() if trial.method.name == "lora:2") == RUNGS[0]
    _, reached = played(spec("full,lora:2,lora:32"), Trainer(bowl({"full": 0.5, "lora:2": 0.52, "lora:32": 0.5})))
    assert max(at for trial, at in reached.items() if trial.method.name == "lora:2") == RUNGS[1]


def test_a_look_settles_nothing_where_its_search_is_not_complete_or_no_error_is_left() -> None:
    """A low regret rests on full fine-tuning's neighbours, which this comparison has not trained."""
    trainer = Trainer(bowl({"full": 0.5, "lora:8": 0.9}))
    found, reached = played(spec("full,lora:8"), trainer)
    answered = {trial: trainer(trial) for trial in reached}
    records = [
        record if at >= record.steps else record.model_copy(update={"status": "running"})
        for (record, _, _), at in ((answered[trial], at) for trial, at in reached.items())
    ]
    curves = {
        record.id: {step: loss for step, loss in curve.items() if step <= reached[trial]}
        for trial, (record, curve, _) in answered.items()
    }
    contest = Contest(spec("full,lora:8"), PRIORS, records, curves, BASE, RUNGS)
    judged = contest.next()
    assert isinstance(judged, Judge)
    assert looked(judged, found.verdict, contest).ruling == "regret"
    low = found.verdict.model_copy(update={"verdict": "low_regret"})
    assert looked(judged, low, contest).ruling == "inconclusive"
    spent = replace(judged, error=0.0)
    assert looked(spent, found.verdict, contest).ruling == "inconclusive"
    assert looked(spent, found.verdict, contest).interval is None


def test_what_no_look_has_settled_is_not_settled_afterwards() -> None:
    trainer = Trainer(bowl({"full": 0.5, "lora:8": 0.9}))
    _, reached = played(spec("full,lora:8"), trainer)
    answered = [trainer(trial) for trial in reached]
    records, curves = [record for record, _, _ in answered], {record.id: curve for record, curve, _ in answered}
    losses = {record.id: examples for record, _, examples in answered if examples is not None}
    look = Look(seeds=2, method="lora:8", error=0.01, regret=0.4, interval=(0.3, 0.5), ruling="regret")
    for ruling in ("regret", "inconclusive"):
        looks = (look.model_copy(update={"ruling": ruling}),)
        judged = Contest(spec("full,lora:8", seeds=2), PRIORS, records, curves, BASE, RUNGS, looks).last_judged()
        assert judged is not None
        verdict = judge(judged.spec, judged.records, losses, BASE, {}, confidence=1 - judged.error)
        assert verdict.verdict == ruling

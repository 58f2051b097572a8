"""Laws of the search for the learning rate, on loss curves whose optimum is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowregret.analysis.learning_rate import best_rate
from lowregret.errors import SpecError
from lowregret.runs.records import Status, TrialRecord
from lowregret.spec import CompareSpec, DataSpec, TrialSpec
from lowregret.study.search import LIMIT, describe, lattice_rate, next_to, next_trials, total_estimate

PRIORS = {"full": 5e-5, "lora:16": 5e-4}
Outcome = Callable[[TrialSpec], tuple[Status, float | None]]


def compare(**values: object) -> CompareSpec:
    base: dict[str, object] = {
        "model": "tiny",
        "data": DataSpec(train="builtin:arithmetic"),
        "methods": ("full", "lora:16"),
    }
    return CompareSpec.model_validate({**base, **values})


def record(trial: TrialSpec, status: Status, loss: float | None) -> TrialRecord:
    return TrialRecord(
        id=trial.id,
        method=trial.method.name,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
        status=status,
        spec=trial,
        test_nll=loss,
    )


@dataclass(frozen=True)
class Curve:
    """1 + curvature · (log2(rate / prior) − optimum)²; infinite above `cliff`; pruned as a runner would."""

    optimum: float
    curvature: float = 0.1
    cliff: float = math.inf
    prune: float | None = None

    def run(self, trial: TrialSpec, so_far: list[TrialRecord]) -> TrialRecord:
        position = math.log2(trial.learning_rate / PRIORS[trial.method.name])
        if position > self.cliff:
            return record(trial, "diverged", None)
        loss = 1 + self.curvature * (position - self.optimum) ** 2
        finished = [r.test_nll for r in so_far if r.method == trial.method.name and r.status == "finished"]
        best = min((seen for seen in finished if seen is not None), default=math.inf)
        so_far = best_rate([r for r in so_far if r.method == trial.method.name]).learning_rate
        beside = so_far is not None and next_to(compare(), trial.learning_rate, so_far)
        if self.prune is not None and trial.seed == 0 and loss > (1 + self.prune) * best and not beside:
            return record(trial, "pruned", loss)
        return record(trial, "finished", loss)


def run_study(spec: CompareSpec, curve: Curve, one_at_a_time: bool = False) -> list[TrialRecord]:
    records: list[TrialRecord] = []
    while batch := next_trials(spec, PRIORS, records):
        assert len(records) < 200, "the search does not terminate"
        for trial in batch[:1] if one_at_a_time else batch:
            found = curve.run(trial, records)
            records = [*(r for r in records if r.id != trial.id), found]
    return records


curves = st.builds(
    lambda optimum, curvature, room, prune: Curve(optimum, curvature, optimum + room, prune),
    st.floats(-12, 12),
    st.floats(0.01, 1.0),
    st.floats(0.01, 6) | st.just(math.inf),
    st.none() | st.floats(0.05, 0.5),
)


@settings(max_examples=150, deadline=None)
@given(curves)
def test_a_unimodal_curve_is_bracketed_within_a_factor_of_2_in_few_trials(curve: Curve) -> None:
    spec = compare()
    records = run_study(spec, curve)
    for method in spec.methods:
        own = [r for r in records if r.method == method.name]
        best = best_rate(own)
        assert best.bracketed
        assert best.learning_rate is not None
        chosen = math.log2(best.learning_rate / PRIORS[method.name])
        assert abs(chosen - curve.optimum) <= 1
        # Three to start, one for each factor of 4 up to one past the optimum's place, two to refine.
        assert sum(r.seed == 0 for r in own) <= 5 + math.ceil((abs(curve.optimum) + 2) / 2)
        assert sorted(r.seed for r in own if r.learning_rate == best.learning_rate) == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(curves)
def test_rewards_are_searched_as_minus_a_loss_from_below_and_never_far_beyond_what_is_known_to_be_good(
    curve: Curve,
) -> None:
    def rewarded(trial: TrialSpec) -> TrialRecord:
        found = curve.run(trial, [])
        return found.model_copy(
            update={"test_nll": None, "test_reward": None if (n := found.test_nll) is None else 2 - n}
        )

    curve = Curve(curve.optimum, curve.curvature, curve.cliff)
    spec, records = compare(objective={"kind": "rl", "task": "builtin:arithmetic"}), list[TrialRecord]()
    while batch := next_trials(spec, PRIORS, records):
        records += [rewarded(trial) for trial in batch]
    for method in spec.methods:
        own = [r for r in records if r.method == method.name and r.seed == 0]
        best = best_rate(own)
        assert best.bracketed
        assert best.learning_rate is not None
        assert abs(math.log2(best.learning_rate / PRIORS[method.name]) - curve.optimum) <= 1
        # One step of 2 beyond it, and beyond its equal where two rates are as good.
        assert max(r.learning_rate for r in own) <= max(PRIORS[method.name], 4 * best.learning_rate)


@settings(max_examples=100, deadline=None)
@given(curves)
def test_an_optimum_near_the_prior_takes_at_most_six_trials(curve: Curve) -> None:
    near = Curve(curve.optimum / 12, curve.curvature, curve.optimum / 12 + 1, curve.prune)
    records = run_study(compare(seeds=1), near)
    assert len(records) <= 2 * 6


def by_method(records: list[TrialRecord]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in records:
        found.setdefault(one.method, []).append(one.id)
    return found


@settings(max_examples=50, deadline=None)
@given(curves, st.integers(0, 2**32))
def test_killed_at_any_moment_the_study_asks_for_the_same_trials(curve: Curve, key: int) -> None:
    spec = compare()
    whole = run_study(spec, curve)
    one_by_one = run_study(spec, curve, one_at_a_time=True)
    assert by_method(one_by_one) == by_method(whole)
    done = one_by_one[: random.Random(key).randrange(len(one_by_one))]
    following = one_by_one[len(done)]
    killed = [*done, record(following.spec, "running", None)]
    random.Random(key).shuffle(killed)
    assert next_trials(spec, PRIORS, killed)[0].id == following.id


@settings(max_examples=50, deadline=None)
@given(curves, st.randoms(use_true_random=False))
def test_whatever_ends_first_every_method_gets_the_trials_that_it_would_get_alone(
    curve: Curve, draw: random.Random
) -> None:
    """As in packs: several in training at once, of any methods, ending in any order; the search sees what has ended."""
    spec = compare(methods=("full", "lora:16", "lora:1"))
    priors = {**PRIORS, "lora:1": 3e-4}
    unpruned = Curve(curve.optimum, curve.curvature, curve.cliff)  # who is pruned depends on who is beside it
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRIORS, "lora:1", 3e-4)
        records: list[TrialRecord] = []
        while wanted := next_trials(spec, priors, records):
            running = [record(trial, "running", None) for trial in wanted]
            assert [t.id for t in next_trials(spec, priors, [*records, *running])] == [t.id for t in wanted]
            records.append(unpruned.run(draw.choice(wanted), records))
        for pair in (("full", "lora:16"), ("lora:1", "full")):
            expected = run_study(compare(methods=pair), unpruned)
            assert {r.id for r in records if r.method in pair} == {r.id for r in expected}


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_outcomes_end_the_search_without_asking_twice(draw: random.Random) -> None:
    spec, records = compare(), []
    outcomes: list[Status] = ["finished", "finished", "diverged", "pruned", "failed"]
    while batch := next_trials(spec, PRIORS, records):
        for trial in batch:
            before = next((r for r in records if r.id == trial.id), None)
            assert before is None or before.status == "pruned"
            status = draw.choice([o for o in outcomes if before is None or o != "pruned"])
            loss = draw.choice([1.0, 1.5, 2.0]) if status == "finished" else None
            records = [*(r for r in records if r is not before), record(trial, status, loss)]
        assert len(records) <= 2 * (2 * LIMIT + 1) + 2 * spec.seeds


def exponents(records: list[TrialRecord], name: str = "full") -> list[int]:
    return [round(math.log2(r.learning_rate / PRIORS[name])) for r in records if r.method == name and r.seed == 0]


def test_a_neighbour_of_the_best_that_was_pruned_runs_again_to_its_end_before_the_other_seeds() -> None:
    """The bottom between the rates is read off all three."""
    records = run_study(compare(), Curve(0.3))
    below, best, above = (trial_at(k, records) for k in (-1, 0, 1))
    for cut in (below, above):
        there = [r if r is not cut else record(cut.spec, "pruned", 9.0) for r in records if r.seed == 0]
        assert [t.id for t in next_trials(compare(), PRIORS, there) if t.method.name == "full"] == [cut.id]
    far = trial_at(2, records)
    there = [r if r is not far else record(far.spec, "pruned", 9.0) for r in records]
    assert next_trials(compare(), PRIORS, there) == []
    listed = compare(learning_rates=tuple(r.learning_rate for r in (below, best, far)))
    there = [r if r is not far else record(far.spec, "pruned", 9.0) for r in (below, best, far)]
    assert [t.id for t in next_trials(listed, PRIORS, there)][:1] == [far.id], "of listed rates, the next one"


def trial_at(exponent: int, records: list[TrialRecord], name: str = "full") -> TrialRecord:
    return next(r for r in records if r.method == name and r.learning_rate == lattice_rate(PRIORS[name], exponent))


def test_methods_are_searched_side_by_side_in_the_order_of_the_spec_and_seeds_follow_a_search() -> None:
    rounds: list[list[TrialSpec]] = []
    records: list[TrialRecord] = []
    while batch := next_trials(compare(), PRIORS, records):
        rounds.append(batch)
        records += [Curve(0.1).run(trial, records) for trial in batch]
    assert [[(trial.method.name, trial.seed) for trial in batch] for batch in rounds] == [
        [("full", 0)] * 3 + [("lora:16", 0)] * 3,
        [("full", 0), ("lora:16", 0)],
        [("full", 0), ("lora:16", 0)],
        [("full", 1), ("full", 2), ("lora:16", 1), ("lora:16", 2)],
    ]
    assert exponents(records) == exponents(records, "lora:16") == [0, 2, -2, 1, -1]


def test_a_method_does_not_wait_for_another() -> None:
    """With all of LoRA's search done and none of FullFT's begun, LoRA's other seeds are asked for."""
    lora = [r for r in run_study(compare(), Curve(0.1)) if r.method == "lora:16" and r.seed == 0]
    wanted = next_trials(compare(), PRIORS, lora)
    assert [(trial.method.name, trial.seed) for trial in wanted] == [("full", 0)] * 3 + [("lora:16", 1), ("lora:16", 2)]


@pytest.mark.parametrize("ending", ["diverged", "failed", "pruned", "finished", "running"])
def test_a_trial_that_lost_to_one_that_came_to_nothing_runs_again(ending: Status) -> None:
    low, middle, high = next_trials(compare(), PRIORS, [])[:3]
    lost = record(low, "pruned", 2.0).model_copy(update={"pruned_by": high.id})
    rival = record(high, ending, 1.0 if ending == "finished" else None)
    wanted = {trial.id for trial in next_trials(compare(), PRIORS, [lost, record(middle, "finished", 1.5), rival])}
    assert (low.id in wanted) == (ending in ("diverged", "failed"))


def test_a_better_neighbour_spares_the_other_one() -> None:
    assert exponents(run_study(compare(), Curve(0.9))) == [0, 2, -2, 1]
    assert exponents(run_study(compare(), Curve(-0.9))) == [0, 2, -2, -1]


def test_the_search_goes_on_outwards_by_factors_of_4() -> None:
    assert exponents(run_study(compare(), Curve(5.2))) == [0, 2, -2, 4, 6, 8, 5]


def test_when_the_first_three_diverge_the_search_goes_down() -> None:
    assert exponents(run_study(compare(), Curve(-6, cliff=-3)))[:5] == [0, 2, -2, -4, -6]


def test_a_search_that_reaches_the_limit_stays_unbracketed_and_runs_no_seeds() -> None:
    records = run_study(compare(), Curve(40))
    assert max(exponents(records)) == LIMIT
    assert all(r.seed == 0 for r in records)
    assert not best_rate([r for r in records if r.method == "full"]).bracketed


def test_a_flat_curve_is_never_bracketed() -> None:
    assert set(exponents(run_study(compare(), Curve(0, curvature=0)))) == set(range(-LIMIT, LIMIT + 1, 2))


def run_with(spec: CompareSpec, outcome: Outcome) -> list[TrialRecord]:
    records: list[TrialRecord] = []
    while batch := next_trials(spec, PRIORS, records):
        records += [record(trial, *outcome(trial)) for trial in batch]
    return records


def test_when_everything_fails_the_search_gives_up_at_once() -> None:
    assert exponents(run_with(compare(), lambda trial: ("failed", None))) == [0, 2, -2]


def test_a_failed_side_is_still_open() -> None:
    def outcome(trial: TrialSpec) -> tuple[Status, float | None]:
        k = round(math.log2(trial.learning_rate / PRIORS[trial.method.name]))
        return ("failed", None) if k == 2 else ("finished", 1 + 0.1 * k * k)

    assert exponents(run_with(compare(), outcome)) == [0, 2, -2, 4, -1, 1]


def test_listed_rates_are_tried_exactly_and_the_seeds_run_without_a_bracket() -> None:
    records = run_study(compare(learning_rates=(1e-4, 3e-4)), Curve(20))
    for name in ("full", "lora:16"):
        own = [(r.learning_rate, r.seed) for r in records if r.method == name]
        assert own == [(1e-4, 0), (3e-4, 0), (3e-4, 1), (3e-4, 2)]


def test_a_seed_that_diverges_is_not_run_again() -> None:
    def outcome(trial: TrialSpec) -> tuple[Status, float | None]:
        return ("diverged", None) if trial.seed else ("finished", 1 + abs(math.log2(trial.learning_rate / 3e-4)))

    assert sum(r.seed > 0 for r in run_with(compare(), outcome)) == 4


@given(st.floats(1e-7, 5e-3), st.integers(-LIMIT, LIMIT))
def test_rates_are_exact_multiples_and_ids_are_short_and_distinct(prior: float, k: int) -> None:
    rate, following = lattice_rate(prior, k), lattice_rate(prior, k + 1)
    assert following == 2 * rate
    assert math.ldexp(rate, -k) == float(f"{prior:.3g}") == pytest.approx(prior, rel=5.1e-3)
    method = compare().methods[0]
    assert TrialSpec(method=method, learning_rate=rate).id != TrialSpec(method=method, learning_rate=following).id


@pytest.mark.parametrize("priors", [{"full": 5e-5}, {**PRIORS, "lora:16": 0.0}, {**PRIORS, "lora:16": math.nan}])
def test_a_missing_prior_names_the_method_and_the_remedy(priors: Mapping[str, float]) -> None:
    with pytest.raises(SpecError, match=r"lora:16.*--learning-rates"):
        next_trials(compare(methods=("lora:16", "full")), priors, [])


def test_no_rate_leaves_the_bounds_of_the_spec() -> None:
    records: list[TrialRecord] = []
    priors = {"full": 900.0, "lora:16": 900.0}
    while batch := next_trials(compare(), priors, records):
        records += [record(trial, "finished", 1 / trial.learning_rate) for trial in batch]
    assert max(r.learning_rate for r in records) == 900.0


@settings(max_examples=50, deadline=None)
@given(curves)
def test_the_estimate_is_never_below_what_was_run_and_right_at_the_end(curve: Curve) -> None:
    spec = compare()
    whole = run_study(spec, curve)
    for n in range(len(whole) + 1):
        assert total_estimate(spec, whole[:n]) >= n
    assert total_estimate(spec, whole) == len(whole)
    assert total_estimate(spec, []) == 16


def test_the_rules_are_told_as_they_are() -> None:
    automatic = " ".join(describe(compare(prune="25%")))
    assert "25 %" in automatic
    assert "factors of 4" in automatic
    assert "seeds 1 to 2" in automatic
    listed = " ".join(describe(compare(learning_rates=(1e-4, 3e-4), prune=None, seeds=1)))
    assert "0.0001, 0.0003" in listed
    assert "No trial is stopped early" in listed
    assert "seeds" not in listed

"""What claims say of studies whose truth is known."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lowregret.analysis.place import Place
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, judge_study, rule
from lowregret.questions.question import Question
from lowregret.questions.registry import QUESTIONS, make_question, statements
from lowregret.questions.rl import claims as rl
from lowregret.spec import FullFT, GroupSpec, LoRA, TrialSpec


def small(kind: str, **changed: Any) -> Question:
    """A question of few trials."""
    sizes: dict[str, Any] = {
        "rank": {"ranks": (1, 4, 16), "sizes": (8, 16), "steps": 64},
        "learning-rate": {"ranks": (1, 4, 16), "steps": 64},
        "short-runs": {"lengths": (10, 20, 40), "steps": 40},
        "early": {"ranks": (1, 4), "steps": 16},
        "batch-size": {"batches": (4, 8, 16), "examples": 64, "ranks": (4, 16)},
        "layers": {"ranks": (4,), "steps": 16},
        "capacity": {"ranks": (1, 4), "steps": 64, "people": 4},
        "compute": {"widths": (64, 128), "ranks": (1, 16)},
        "invariance": {"steps": 16},
        "variants": {"steps": 16},
        "rl": {"ranks": (1, 4), "steps": 16},
        "scaling": {"models": ("tiny-64", "tiny"), "ranks": (1, 16), "steps": 16},
        "moe": {"steps": 16},
    }
    return make_question({"kind": kind, **sizes.get(kind, {}), **changed}, quick=kind not in sizes)


def claims(fake: ModuleType, folder: Path, question: Question, *loss: Any) -> dict[str, Claim]:
    fake.make(folder, question, *loss)
    return {claim.statement.key: claim for claim in judge_study(read_evidence(folder)).claims}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_claim_of_every_question_is_measured(fake_studies: ModuleType, tmp_path: Path, kind: str) -> None:
    found = claims(fake_studies, tmp_path, small(kind))
    assert list(found) == [statement.key for statement in statements(small(kind))]
    unmeasured = {key for key, claim in found.items() if claim.estimate is None}
    nothing_moves = {"rank-departure", "early-grow", "capacity-rank", "batch-rank-free"}
    assert unmeasured <= nothing_moves, "in these studies all ranks are alike"


def test_a_run_that_ends_while_it_is_early_does_not_tell_whether_differences_grow(
    fake_studies: ModuleType, tmp_path: Path
) -> None:
    found = claims(fake_studies, tmp_path, small("early", steps=4, ranks=(1, 4)))
    assert found["early-grow"].ruling == "open"
    assert found["early-grow"].estimate is None


def test_the_ratio_of_best_rates_is_found(fake_studies: ModuleType, tmp_path: Path) -> None:
    """6e-3 over 1e-3, for all ranks."""
    found = claims(fake_studies, tmp_path, small("learning-rate"))
    ratio, drift = found["rate-ratio"], found["rate-drift"]
    assert ratio.estimate is not None
    assert ratio.estimate.value == pytest.approx(6.0, rel=0.15)
    assert ratio.ruling == "holds"
    assert drift.ruling == "holds"


def fail(folder: Path, trials: str) -> None:
    """Have the trials of this pattern failed."""
    paths = list(folder.glob(f"groups/{trials}/trial.json"))
    assert paths
    for path in paths:
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed", "error": "out of memory"}))


def again(folder: Path) -> dict[str, Claim]:
    return {claim.statement.key: claim for claim in judge_study(read_evidence(folder)).claims}


@pytest.mark.parametrize(
    ("kind", "trials", "keys"),
    [
        ("learning-rate", "main.lora/trials/lora-4-*", ("rate-ratio", "rate-drift", "rate-rank-1", "rate-formula")),
        ("learning-rate", "main.lora/trials/lora-1-*", ("rate-rank-1",)),
        ("short-runs", "main.lora/trials/*", ("short-ratio", "short-falls")),
        ("scaling", "c-128.full/trials/*", ("scaling-ratio", "scaling-regret")),
        ("batch-size", "*4.full/trials/*", ("batch-gap", "batch-rank-free", "batch-small:full")),
    ],
)
def test_what_is_told_of_several_is_of_all_or_decides_nothing(
    fake_studies: ModuleType, tmp_path: Path, kind: str, trials: str, keys: tuple[str, ...]
) -> None:
    """One rank, base or batch of which every trial failed."""
    bases = {"models": ("tiny", "a/b-64", "a/c-128")} if kind == "scaling" else {}
    claims(fake_studies, tmp_path, small(kind, **bases))
    fail(tmp_path, trials)
    found = again(tmp_path)
    for key in keys:
        estimate = found[key].estimate
        assert found[key].ruling == "open"
        assert estimate is None or not estimate.known, f"{key}: {estimate}"
        assert found[key].note


@pytest.mark.parametrize("kind", ["short-runs", "scaling", "learning-rate", "batch-size"])
def test_rates_without_a_worse_neighbour_decide_nothing(fake_studies: ModuleType, tmp_path: Path, kind: str) -> None:
    """The higher the rate the better, as far as the search goes; runs of 64 steps gain less by it than those of 8."""

    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        noise = random.Random(trial.id).uniform(0, 1e-4)
        return 2 - 0.01 * math.log2(trial.learning_rate) / math.log2(step + 1) + noise

    found = claims(fake_studies, tmp_path, small(kind), loss)
    rests_on_rates = [claim for key, claim in found.items() if claim.estimate is not None]
    assert rests_on_rates
    assert {claim.ruling for claim in rests_on_rates} == {"open"}
    assert all("not bracketed" in claim.note for claim in rests_on_rates)


def test_the_curves_of_a_seed_are_one_value(fake_studies: ModuleType, tmp_path: Path) -> None:
    """Two sizes and two methods a seed make no more than three independent values of three seeds."""
    found = claims(fake_studies, tmp_path, small("rank"))["rank-log-linear"]
    assert found.estimate is not None
    assert found.estimate.n == 3


def test_two_seeds_decide_nothing(fake_studies: ModuleType, tmp_path: Path) -> None:
    found = claims(fake_studies, tmp_path, small("learning-rate", seeds=2))
    assert {claim.ruling for claim in found.values()} == {"open"}


def test_ranks_that_run_out_leave_at_a_step_that_grows_with_them(fake_studies: ModuleType, tmp_path: Path) -> None:
    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        best: float = fake_studies.u_shaped(group, trial, step)
        if isinstance(trial.method, LoRA):
            best += 0.1 * max(0.0, math.log2(step / (4 * trial.method.rank)))
        return best

    question = small("rank", ranks=(1, 2, 4, 8, 64), steps=256, evals=16)
    found = claims(fake_studies, tmp_path, question, loss)["rank-departure"]
    assert found.ruling == "holds"
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(1.0, abs=0.3)


def test_a_larger_penalty_at_large_batch_is_seen_and_is_rank_free(fake_studies: ModuleType, tmp_path: Path) -> None:
    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        slope = 0.1 if isinstance(trial.method, FullFT) else 0.3
        own: float = fake_studies.u_shaped(group, trial, 1)
        return own + slope * math.log2(group.batch_size)

    found = claims(fake_studies, tmp_path, small("batch-size"), loss)
    assert {key: claim.ruling for key, claim in found.items()} == dict.fromkeys(found, "holds")
    assert found["batch-gap"].estimate is not None
    assert found["batch-gap"].estimate.value == pytest.approx(0.2, rel=0.1)


def rewarded(full: float, half_width: float) -> Any:
    """Rewards of 0.4 before training and 0.9 at best, `full` with FullFT; LoRA's halve within so many doublings."""

    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        lora = isinstance(trial.method, LoRA)
        off = math.log2(trial.learning_rate / (2e-3 if lora else 2e-4)) / (half_width if lora else 2.0)
        noise = random.Random(trial.id).gauss(0, 0.001)
        return -0.4 if step == 0 else -0.4 - ((0.9 if lora else full) - 0.4) / (1 + off**2) + noise

    return loss


def test_a_rank_1_that_earns_as_much_at_more_rates_holds(fake_studies: ModuleType, tmp_path: Path) -> None:
    """Each range ends where the gain is nine tenths: at a third of the doublings within which it halves."""
    found = claims(fake_studies, tmp_path, small("rl"), rewarded(full=0.9, half_width=6.0))
    assert {key: claim.ruling for key, claim in found.items()} == dict.fromkeys(found, "holds")
    width = found["rl-range"].estimate
    assert width is not None
    assert width.value == pytest.approx(2 ** (2 * (6 - 2) / 3), rel=0.25)
    assert found["rl-rank-1"].details["base"] == pytest.approx(0.4)
    assert found["rl-rank-1"].details["lora:1"] == pytest.approx(0.9, abs=0.01)


def test_rewards_that_are_level_are_named(fake_studies: ModuleType, tmp_path: Path) -> None:
    """Of 200 graded samples two rates may have the same number right."""
    question = small("rl")
    assert not claims(fake_studies, tmp_path, question, rewarded(full=0.9, half_width=6.0))["rl-rank-1"].note
    best = read_evidence(tmp_path).conditions["main"].best("lora:1")
    assert best is not None
    for rate in (best.learning_rate, 2 * best.learning_rate):
        (path,) = tmp_path.glob(f"groups/*/trials/lora-1-all_lr{rate:g}_seed0/trial.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "test_reward": 0.95}))
    found = {claim.statement.key: claim for claim in judge_study(read_evidence(tmp_path)).claims}["rl-rank-1"]
    assert found.note == (
        "Level at the search's seed, where the middle one counts as the best: "
        f"lora:1 at {best.learning_rate:.3g}, {2 * best.learning_rate:.3g}."
    )


def test_a_rank_1_that_earns_less_at_fewer_rates_does_not_hold(fake_studies: ModuleType, tmp_path: Path) -> None:
    found = claims(fake_studies, tmp_path, small("rl"), rewarded(full=0.98, half_width=1.2))
    assert found["rl-rank-1"].ruling == "does not hold"
    assert found["rl-rank-1"].estimate is not None
    assert found["rl-rank-1"].estimate.value == pytest.approx(0.08, abs=0.02)
    assert found["rl-range"].ruling == "does not hold"


def test_a_reward_of_full_fine_tuning_that_still_rises_with_the_rate_decides_nothing(
    fake_studies: ModuleType, tmp_path: Path
) -> None:
    """LoRA's best rate is bracketed; what FullFT would earn at a better one is not known."""

    def loss(group: GroupSpec, trial: TrialSpec, step: int) -> float:
        if isinstance(trial.method, FullFT) and step:
            return -0.9 - 0.01 * math.log2(trial.learning_rate) + random.Random(trial.id).gauss(0, 1e-4)
        known: float = rewarded(full=0.9, half_width=6.0)(group, trial, step)
        return known

    found = claims(fake_studies, tmp_path, small("rl"), loss)["rl-rank-1"]
    assert found.ruling == "open"
    assert "not bracketed" in found.note


def test_bits_are_those_of_the_groups_over_what_the_lowest_rank_holds(fake_studies: ModuleType, tmp_path: Path) -> None:
    """16 bits at each line of a curve; rank 1 has 100 parameters of 2 bits. A number to read: no claim is about it."""
    found = claims(fake_studies, tmp_path, small("rl", evals=2, first_eval=8))
    assert "rl-bits" not in found
    room = found["rl-rank-1"].details["lora:1, bits of a run over bits it can store"]
    assert room == pytest.approx(3 * 16 / 200), "steps 0, 8 and 16"


def test_time_by_theory_holds(fake_studies: ModuleType, tmp_path: Path) -> None:
    found = claims(fake_studies, tmp_path, small("compute"))
    assert found["compute-theory:1"].ruling == "holds"


# --- the range of good learning rates ---------------------------------------------------------------------------------


def range_of(
    monkeypatch: pytest.MonkeyPatch, lora: float, full: float, ended: dict[str, bool], give: float = 0.0
) -> Claim:
    """The claim where the ranges are so many doublings wide, up to `give`, and have ended or not."""

    def found(condition: Any, method: str, good: float) -> dict[int, rl.GoodRange]:
        side, width = ("full", full) if method == "full" else ("lora", lora)
        return {
            seed: rl.GoodRange(Place(0.0), Place(width + 0.01 * (seed - 1), give), ended.get(side, True))
            for seed in range(3)
        }

    monkeypatch.setattr(rl, "good_ranges", found)
    question = small("rl")
    methods = [method for group in question.groups() for method in group.methods]
    condition: Any = SimpleNamespace(methods=methods)
    (stated,) = (one for one in rl.claims(question) if one.statement.key == "rl-range")
    evidence: Any = SimpleNamespace(question=question, conditions={"main": condition})
    measured = stated.measure(evidence)
    assert measured.estimate is not None
    ruling = rule(stated.statement, measured.estimate)
    return Claim(statement=stated.statement, ruling=ruling, estimate=measured.estimate, note=measured.note)


@pytest.mark.parametrize(
    ("lora", "full", "ended", "ruling"),
    [
        (3.0, 2.0, {}, "holds"),
        (1.0, 2.0, {}, "does not hold"),
        (1.0, 2.0, {"lora": False}, "open"),
        (3.0, 2.0, {"lora": False}, "holds"),
        (3.0, 2.0, {"full": False}, "open"),
        (1.0, 2.0, {"full": False}, "does not hold"),
        (3.0, 2.0, {"lora": False, "full": False}, "open"),
    ],
)
def test_a_range_that_has_not_ended_is_at_least_so_wide(
    monkeypatch: pytest.MonkeyPatch, lora: float, full: float, ended: dict[str, bool], ruling: str
) -> None:
    found = range_of(monkeypatch, lora, full, ended)
    assert found.ruling == ruling
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(2 ** (lora - full))
    assert ("full" in found.note) is not ended.get("full", True)
    assert bool(found.note) is bool(ended)


@pytest.mark.parametrize(("give", "ruling"), [(0.0, "holds"), (0.4, "holds"), (0.6, "open")])
def test_what_steep_ends_leave_open_is_open(monkeypatch: pytest.MonkeyPatch, give: float, ruling: str) -> None:
    """A doubling wider: each side's end may lie `give` off, and both are added up."""
    found = range_of(monkeypatch, 3.0, 2.0, {}, give)
    assert found.ruling == ruling
    assert found.estimate is not None
    assert found.estimate.low is not None
    assert found.estimate.low == pytest.approx(2 ** (1 - 2 * give), rel=0.05)


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_range_ends_where_a_rate_is_poor_not_where_a_trial_failed(
    fake_studies: ModuleType, tmp_path: Path, status: str
) -> None:
    claims(fake_studies, tmp_path, small("rl"), rewarded(full=0.9, half_width=6.0))
    condition = read_evidence(tmp_path).conditions["main"]
    whole = rl.good_ranges(condition, "full", 0.9)[0]
    assert whole.closed
    for trial in condition.of("full", 0):
        if trial.log_rate > whole.high.at:
            path = trial.home / "trial.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "status": status, "test_reward": None}))
    found = rl.good_ranges(read_evidence(tmp_path).conditions["main"], "full", 0.9)[0]
    assert found.closed is (status == "diverged")
    assert found.low == whole.low
    assert found.high.at - found.high.give < whole.high.at
    assert found.high.give == (0.5 if status == "diverged" else 0.0)


def test_a_good_range_ends_between_two_rates_in_proportion() -> None:
    """Rates a factor of 4 apart: a gain from 1 to 1/2 passes 3/4 after one doubling, and the nearest end counts."""
    assert rl._end({0.0: 1.0, 2.0: 0.5, 4.0: 0.9}, 0.0, 0.75, 1) == (Place(1.0), True)
    assert rl._end({0.0: 1.0, -2.0: 0.75, -4.0: 0.25, -6.0: 0.9}, 0.0, 0.5, -1) == (Place(-3.0), True)
    assert rl._end({0.0: 1.0, 2.0: 0.75}, 0.0, 0.5, 1) == (Place(2.0), False)


def test_a_range_that_ends_in_a_collapse_ends_anywhere_between_the_two_rates() -> None:
    assert rl._end({0.0: 1.0, 2.0: 0.0, 4.0: 0.9}, 0.0, 0.5, 1) == (Place(1.0, 1.0), True)
    assert rl._end({0.0: 1.0, 1.0: 0.95, 2.0: 0.44}, 0.0, 0.9, 1) == (Place(1.5, 0.5), True)
    assert rl._end({0.0: 1.0, -1.0: 0.0}, 0.0, 0.9, -1) == (Place(-0.5, 0.5), True)

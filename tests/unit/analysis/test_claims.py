"""Claims: the rule, what they say of studies whose truth is known, and that tampering is seen."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.claims import Claim, judge_study, rule
from lowregret.analysis.evidence import read_evidence
from lowregret.analysis.fits import Estimate
from lowregret.analysis.measures import unless_loose
from lowregret.analysis.statements import Statement, statements
from lowregret.analysis.verification import verify_folder
from lowregret.errors import RecordsError
from lowregret.spec import FullFT, GroupSpec, LoRA, TrialSpec
from lowregret.spec.asked import QUESTIONS, make_question
from lowregret.spec.question import Question

WITHIN = Statement(key="k", number="0", sentence="s", statistic="t", unit="ratio", low=1.0, high=2.0)


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
    return make_question({"kind": kind, **sizes[kind], **changed})


def claims(fake: ModuleType, folder: Path, question: Question, *loss: Any) -> dict[str, Claim]:
    fake.make(folder, question, *loss)
    return {claim.statement.key: claim for claim in judge_study(read_evidence(folder)).claims}


# --- the rule -------------------------------------------------------------------------------------------------------


@given(st.floats(0, 3), st.floats(0, 3))
def test_a_claim_holds_only_wholly_inside_and_fails_only_wholly_outside(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = rule(WITHIN, Estimate(value=(low + high) / 2, low=low, high=high, n=3))
    assert (found == "holds") == (low >= 1 and high <= 2)
    assert (found == "does not hold") == (high < 1 or low > 2)


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 0.0)])
def test_nothing_at_all_is_neither_above_nor_below_zero(low: float | None, high: float | None) -> None:
    stated = WITHIN.model_copy(update={"low": low, "high": high})
    assert rule(stated, Estimate(value=0.0, low=0.0, high=0.0, n=3)) == "does not hold"
    sign = 1.0 if low is not None else -1.0
    assert rule(stated, Estimate(value=sign, low=sign, high=sign, n=3)) == "holds"
    assert rule(stated, Estimate(value=0.0, low=-1.0, high=1.0, n=3)) == "open"


def test_without_an_interval_nothing_is_decided() -> None:
    assert rule(WITHIN, Estimate(value=1.5)) == "open"


# --- studies whose truth is known -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", ["short-runs", "scaling", "learning-rate"])
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


def test_a_note_on_a_best_rate_takes_the_interval_away() -> None:
    known = Estimate(value=1.5, low=1.4, high=1.6, n=3)
    assert unless_loose(known, "") == known
    assert unless_loose(known, "A best rate is not bracketed.") == Estimate(value=1.5, n=3)


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
        (path,) = tmp_path.glob(f"groups/*/trials/lora-1_lr{rate:g}_seed0/trial.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "test_reward": 0.95}))
    found = {claim.statement.key: claim for claim in judge_study(read_evidence(tmp_path)).claims}["rl-rank-1"]
    assert found.note == (
        "Level at the search's seed, where the lowest rate counts as the best: "
        f"lora:1 at {best.learning_rate:.3g}, {2 * best.learning_rate:.3g}."
    )


def test_a_rank_1_that_earns_less_at_fewer_rates_does_not_hold(fake_studies: ModuleType, tmp_path: Path) -> None:
    found = claims(fake_studies, tmp_path, small("rl"), rewarded(full=0.98, half_width=0.8))
    assert found["rl-rank-1"].ruling == "does not hold"
    assert found["rl-rank-1"].estimate is not None
    assert found["rl-rank-1"].estimate.value == pytest.approx(0.08, abs=0.02)
    assert found["rl-range"].ruling == "does not hold"


def test_bits_are_those_of_the_groups_over_what_the_lowest_rank_holds(fake_studies: ModuleType, tmp_path: Path) -> None:
    """16 bits at each line of a curve; rank 1 has 100 parameters of 2 bits."""
    found = claims(fake_studies, tmp_path, small("rl", evals=2, first_eval=8))["rl-bits"]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(3 * 16 / 200), "steps 0, 8 and 16"


def test_time_by_theory_holds(fake_studies: ModuleType, tmp_path: Path) -> None:
    found = claims(fake_studies, tmp_path, small("compute"))
    assert found["compute-theory"].ruling == "holds"


@pytest.mark.parametrize("kind", ["learning-rate", "variants"])
def test_a_seed_that_diverged_at_a_best_rate_is_named(fake_studies: ModuleType, tmp_path: Path, kind: str) -> None:
    fake_studies.make(tmp_path, small(kind, seeds=4))
    before = judge_study(read_evidence(tmp_path))
    assert before.diverged == ()
    assert not any("diverged" in claim.note for claim in before.claims)
    (best,) = (run for run in read_evidence(tmp_path).conditions["main"].at_best("full") if run.record.seed == 2)
    edit(best.home / "trial.json", lambda value: value.update(status="diverged", test_nll=None))
    after = judge_study(read_evidence(tmp_path))
    assert after.diverged == ("seed 2 of full (main)",)
    assert all("diverged at a best rate: seed 2 of full (main)" in claim.note for claim in after.claims)


def test_a_search_trial_that_diverged_elsewhere_is_left_out_of_nothing(
    fake_studies: ModuleType, tmp_path: Path
) -> None:
    fake_studies.make(tmp_path, small("learning-rate"))
    highest = read_evidence(tmp_path).conditions["main"].of("full", 0)[-1]
    edit(highest.home / "trial.json", lambda value: value.update(status="diverged", test_nll=None))
    assert judge_study(read_evidence(tmp_path)).diverged == ()


# --- verify ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(fake_studies: ModuleType, tmp_path: Path) -> Path:
    fake_studies.make(tmp_path, small("learning-rate"))
    return tmp_path


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_was_not_touched_verifies(study: Path) -> None:
    found = verify_folder(study)
    assert not found.differences
    assert any("claims" in line for line in found.lines)


def test_a_claim_that_was_improved_is_seen(study: Path) -> None:
    edit(study / "claims.json", lambda value: value["claims"][0].update(ruling="does not hold"))
    assert any("ruling" in line for line in verify_folder(study).differences)


def test_a_threshold_that_was_moved_is_seen(study: Path) -> None:
    edit(study / "study.json", lambda value: value["claims"][0].update(high=100.0))
    assert any("stated before the run" in line for line in verify_folder(study).differences)


def test_a_loss_that_was_improved_is_seen(study: Path) -> None:
    path = next(study.glob("groups/main.lora/trials/*/trial.json"))
    edit(path, lambda value: value.update(test_nll=0.1))
    assert any("examples.json" in line for line in verify_folder(study).differences)


def test_a_study_that_is_not_done_says_what_to_do(study: Path) -> None:
    (study / "groups/main.full/base.json").unlink()
    with pytest.raises(RecordsError, match="Run the same `lowregret study` again"):
        read_evidence(study)

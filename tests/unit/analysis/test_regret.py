"""Each branch of the verdict, on studies whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowregret.analysis.regret import judge
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record, write_json
from lowregret.runs.records import STOPPED, ExampleLosses, ExampleRewards, Status, TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, DataSpec, TrialSpec

EXAMPLES = 40
TOKENS = tuple(10 + example % 7 for example in range(EXAMPLES))
FULL_LOSS = 2.0
TOLERANCE = 0.01
"""5 % of what FullFT learns, from BASE on."""
BASE = 2.2


def compare(*methods: str, **values: Any) -> CompareSpec:
    fields = {"model": "tiny", "data": DataSpec(train="builtin:arithmetic"), "methods": methods or ("full", "lora:16")}
    return CompareSpec.model_validate({**fields, **values})


class Study:
    """A study with chosen mean losses and chosen noise, built trial by trial."""

    def __init__(self, spec: CompareSpec) -> None:
        self.spec = spec
        self.records: list[TrialRecord] = []
        self.losses: dict[str, ExampleLosses] = {}

    def trial(
        self, name: str, rate: float, seed: int, status: Status, mean: float | None = None, noise: float = 0.0
    ) -> None:
        method = next(method for method in self.spec.methods if method.name == name)
        trial = TrialSpec(method=method, learning_rate=rate, seed=seed)
        rank = getattr(method, "rank", 0)
        nll = None
        if mean is not None:
            rng = np.random.default_rng([seed, rank])
            per_token = rng.normal(size=EXAMPLES) * noise * math.sqrt(EXAMPLES)
            tokens = np.array(TOKENS)
            sums = (mean + per_token - (per_token * tokens).sum() / tokens.sum()) * tokens
            self.losses[trial.id] = ExampleLosses(nll_sums=tuple(sums.tolist()), tokens=TOKENS)
            nll = float(sums.sum() / tokens.sum())
        self.records.append(
            TrialRecord(
                id=trial.id,
                method=name,
                learning_rate=rate,
                seed=seed,
                status=status,
                spec=trial,
                test_nll=nll,
                test_tokens=sum(TOKENS),
                steps=24,
                tokens=9000,
                seconds=10.0 + seed if rank else 20.0 + seed,
                peak_memory_bytes=300_000_000 if rank else 600_000_000,
                trainable_parameters=rank * 1000 if rank else 1_000_000,
                checkpoint_bytes=rank * 4000 if rank else 4_000_000,
            )
        )

    def method(
        self,
        name: str,
        mean: float,
        *,
        rate: float | None = None,
        noise: float = 0.0,
        seed_effects: tuple[float, ...] = (0.0, 0.0, 0.0),
        bracket: tuple[bool, bool] = (True, True),
    ) -> Study:
        best = rate if rate is not None else 5e-5 if name == "full" else 2e-4
        for seed, effect in enumerate(seed_effects):
            self.trial(name, best, seed, "finished", mean + effect, noise)
        if bracket[0]:
            self.trial(name, best / 2, 0, "finished", mean + 0.1)
        if bracket[1]:
            self.trial(name, best * 2, 0, "finished", mean + 0.1)
        return self

    def judge(self, base_nll: float | None = BASE) -> Verdict:
        return judge(self.spec, self.records, self.losses, base_nll, {"python": "3.11"}, rules=("A rule.",))


def both(lora_loss: float, noise: float = 0.001, **lora: Any) -> Study:
    return Study(compare()).method("full", FULL_LOSS).method("lora:16", lora_loss, noise=noise, **lora)


def lopsided(lora_loss: float, noise: float) -> Study:
    """LoRA's rate below its best one is worse by 0.036, the one above by 0.004."""
    study = both(lora_loss, noise)
    study.records = [r for r in study.records if r.method != "lora:16" or r.learning_rate == 2e-4]
    study.trial("lora:16", 1e-4, 0, "finished", lora_loss + 0.036)
    study.trial("lora:16", 4e-4, 0, "finished", lora_loss + 0.004)
    return study


def text(verdict: Verdict) -> str:
    return " ".join(verdict.reasons)


def test_an_interval_under_the_tolerance_is_low_regret() -> None:
    verdict = both(2.001).judge()
    assert verdict.verdict == "low_regret"
    assert verdict.regret_nats == pytest.approx(0.001)
    assert verdict.regret_percent == pytest.approx(0.05)
    assert verdict.tolerance_nats == pytest.approx(TOLERANCE)
    assert verdict.ci95 is not None
    assert verdict.ci95[0] < 0.001 < verdict.ci95[1] < TOLERANCE
    assert verdict.recommendation is not None
    assert verdict.recommendation.model_dump() == {
        "method": "lora:16",
        "rank": 16,
        "learning_rate": 2e-4,
        "batch_size": 8,
        "targets": ("attention", "mlp", "unembedding"),
        "alternative": None,
    }
    assert "LoRA does as well as full fine-tuning" in verdict.reasons[0]
    assert (
        "the regret of lora:16 is +0.0010 nats, +0.5 % of what full fine-tuning learns (95 % interval: "
        in verdict.reasons[0]
    )


def test_an_interval_above_the_tolerance_is_regret() -> None:
    verdict = both(2.02).judge()
    assert verdict.verdict == "regret"
    assert verdict.recommendation is not None
    assert (verdict.recommendation.method, verdict.recommendation.rank) == ("full", None)
    assert verdict.recommendation.learning_rate == 5e-5
    assert "Full fine-tuning is better" in verdict.reasons[0]


def test_a_negative_regret_is_low_and_said_to_be_better() -> None:
    verdict = both(1.98).judge()
    assert verdict.verdict == "low_regret"
    assert verdict.regret_nats == pytest.approx(-0.02)
    assert "LoRA is better than full fine-tuning here" in verdict.reasons[0]
    assert "the regret of lora:16 is -0.0200 nats, -10 % of what" in verdict.reasons[0]
    assert "not by more than the noise" in both(1.9995).judge().reasons[0]


@pytest.mark.parametrize(("loss", "chosen"), [(2.008, "lora:16"), (2.012, "full")])
def test_an_interval_across_the_tolerance_is_inconclusive_with_a_provisional_choice(loss: float, chosen: str) -> None:
    verdict = both(loss, noise=0.01).judge()
    assert verdict.verdict == "inconclusive"
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == chosen
    assert "provisional" in text(verdict)
    assert "would settle it" in text(verdict)


@pytest.mark.parametrize(("bracket", "word"), [((False, True), "below"), ((True, False), "above")])
@pytest.mark.parametrize("open_side", ["full", "lora:16"])
def test_without_a_bracket_on_both_sides_there_is_no_verdict(
    bracket: tuple[bool, bool], word: str, open_side: str
) -> None:
    study = Study(compare())
    for name, loss in (("full", FULL_LOSS), ("lora:16", 1.9)):
        study.method(name, loss, noise=0.001, bracket=bracket if name == open_side else (True, True))
    verdict = study.judge()
    assert verdict.verdict == "inconclusive"
    assert f"The best learning rate of {open_side}" in text(verdict)
    assert f"no worse result lies {word} it" in text(verdict)
    assert "--learning-rates" in text(verdict)
    assert verdict.lora is not None
    assert verdict.full is not None
    assert (verdict.full if open_side == "full" else verdict.lora).bracketed is False


def test_one_seed_leaves_the_seeds_noise_unknown() -> None:
    study = Study(compare(seeds=1))
    for name in ("full", "lora:16"):
        study.method(name, FULL_LOSS, noise=0.001, seed_effects=(0.0,))
    verdict = study.judge()
    assert verdict.verdict == "inconclusive"
    assert "noise between seeds is unknown" in text(verdict)
    assert "--seeds 3" in text(verdict)


def test_only_the_seeds_that_both_finished_are_paired() -> None:
    study = Study(compare())
    study.method("full", FULL_LOSS, seed_effects=(0.0, 0.2)).trial("full", 5e-5, 2, "diverged")
    study.method("lora:16", FULL_LOSS, noise=0.001, seed_effects=(0.0, 0.2, 9.0))
    verdict = study.judge()
    assert verdict.regret_nats == pytest.approx(0.0, abs=1e-9)
    assert verdict.full is not None
    assert verdict.lora is not None
    assert (verdict.full.seeds, verdict.lora.seeds) == (2, 3)
    assert "2 seeds with both methods" in text(verdict)
    assert "full diverged at its best learning rate with seed 2" in text(verdict)


def test_when_one_side_never_finished_the_other_is_recommended_provisionally() -> None:
    study = Study(compare()).method("lora:16", FULL_LOSS)
    study.trial("full", 5e-5, 0, "diverged")
    verdict = study.judge()
    assert (verdict.verdict, verdict.full, verdict.regret_nats) == ("inconclusive", None, None)
    assert verdict.tolerance_nats is verdict.ci95 is verdict.regret_percent is None
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == "lora:16"
    assert "No trial of full finished (1 diverged): try smaller learning rates" in text(verdict)
    mirrored = Study(compare()).method("full", FULL_LOSS)
    mirrored.trial("lora:16", 5e-5, 0, "failed")
    verdict = mirrored.judge()
    assert verdict.lora is None
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == "full"
    assert "No trial of lora:16 finished (1 failed)" in text(verdict)


def test_when_nothing_finished_nothing_is_recommended() -> None:
    study = Study(compare())
    study.trial("full", 5e-5, 0, "running")
    for verdict in (study.judge(), Study(compare()).judge()):
        assert verdict.verdict == "inconclusive"
        assert verdict.recommendation is verdict.lora is verdict.full is None
        assert "nothing is recommended" in text(verdict)
        assert [result.name for result in verdict.methods] == ["full", "lora:16"]


def test_of_the_loras_within_the_tolerance_the_smallest_is_recommended() -> None:
    study = Study(compare("lora:64", "lora:16", "lora:4", "full")).method("full", FULL_LOSS)
    study.method("lora:64", 2.0, noise=0.001)
    study.method("lora:16", 2.002, noise=0.001)
    study.method("lora:4", 2.009, noise=0.002)
    verdict = study.judge()
    assert verdict.lora is not None
    assert verdict.lora.name == "lora:64"
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == "lora:16"
    assert "lora:16 is recommended over lora:64" in text(verdict)
    rulings = {result.name: result.ruling for result in verdict.methods}
    assert (rulings["full"], rulings["lora:64"], rulings["lora:16"]) == (None, "low_regret", "low_regret")
    regrets = {result.name: result.regret_nats for result in verdict.methods}
    assert regrets.pop("full") is None
    assert regrets == pytest.approx({"lora:64": 0.0, "lora:16": 0.002, "lora:4": 0.009}, abs=1e-9)


@pytest.mark.parametrize("first", [True, False])
def test_a_full_fine_tuning_with_an_optimizer_of_its_own_has_a_regret(first: bool) -> None:
    """Against the plain one, wherever that stands; the verdict is on the LoRA, and neither is taken for one."""
    fulls = ("full", "full:bf16") if first else ("full:bf16", "full")
    study = Study(compare("lora:16", *fulls)).method("full", FULL_LOSS).method("lora:16", 2.002, noise=0.001)
    verdict = study.method("full:bf16", 2.03, rate=5e-5, noise=0.001).judge()
    results = {result.name: result for result in verdict.methods}
    assert verdict.full == results["full"]
    assert verdict.lora == results["lora:16"]
    assert results["full"].regret_nats is None
    assert results["full:bf16"].regret_nats == pytest.approx(0.03, abs=1e-9)
    assert (results["full:bf16"].ruling, verdict.verdict) == ("regret", "low_regret")
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == "lora:16"


def test_without_a_plain_one_the_first_full_fine_tuning_is_what_regrets_are_against() -> None:
    study = Study(compare("lora:16", "full:bf16")).method("full:bf16", FULL_LOSS).method("lora:16", 2.002, noise=0.001)
    verdict = study.judge()
    assert verdict.full is not None
    assert verdict.full.name == "full:bf16"
    assert verdict.regret_nats == pytest.approx(0.002, abs=1e-9)


def test_the_best_of_several_equal_loras_is_not_flattered_by_the_choice() -> None:
    """The verdict's regret is moved up by what the choice takes off; each method keeps its own."""
    study = Study(compare("lora:64", "lora:16", "lora:4", "full")).method("full", FULL_LOSS)
    for name, effects in (
        ("lora:64", (0.0, 2e-3, 1e-3)),
        ("lora:16", (1e-3, 0.0, 2e-3)),
        ("lora:4", (2e-3, 1e-3, 0.0)),
    ):
        study.method(name, 2.001, noise=0.002, seed_effects=effects)
    verdict = study.judge()
    assert verdict.interval is not None
    assert verdict.lora is not None
    assert verdict.regret_nats is not None
    assert verdict.ci95 is not None
    assert verdict.lora.ci95 is not None
    assert verdict.interval.selection < -0.0002
    assert verdict.regret_nats == pytest.approx(verdict.lora.regret_nats - verdict.interval.selection)
    assert verdict.ci95 == pytest.approx([bound - verdict.interval.selection for bound in verdict.lora.ci95])
    assert both(2.001).judge().interval.selection == 0.0  # type: ignore[union-attr]


def test_the_regret_is_between_the_bottoms_of_the_bowls() -> None:
    """LoRA's neighbours at +0.036 and +0.004 put its bottom (0.032)² / (8 · 0.04) = 0.0032 below the best rate."""
    verdict = lopsided(2.01, noise=0.0).judge()
    assert verdict.regret_nats == pytest.approx(0.01 - 0.0032)
    assert verdict.lora is not None
    assert verdict.lora.depth == pytest.approx(0.0032)
    assert verdict.lora.test_nll == pytest.approx(2.01), "the loss is that of the trials"


def test_the_provisional_choice_goes_by_the_regret_and_not_by_the_losses_shown() -> None:
    """At the best rates LoRA is 0.012 behind, more than the tolerance; at the bottoms 0.0088, less."""
    verdict = lopsided(2.012, noise=0.02).judge()
    assert verdict.verdict == "inconclusive"
    assert verdict.regret_nats == pytest.approx(0.012 - 0.0032)
    assert verdict.recommendation is not None
    assert verdict.recommendation.method == "lora:16"
    assert "bowls of learning rates (2.0088 with lora:16 and 2.0000 with full), not between" in text(verdict)
    assert "after it, at the best rates tried, 2.0120 with lora:16 and 2.0000 with full" in text(verdict)


def test_a_lora_that_is_better_at_its_bottom_alone_is_said_to_be_so_there() -> None:
    verdict = lopsided(2.003, noise=0.002).judge()
    assert verdict.regret_nats is not None
    assert verdict.regret_nats < 0
    assert "its held-out loss at the bottom of its bowl of learning rates is even the better one" in text(verdict)


def test_the_methods_carry_what_was_measured() -> None:
    verdict = both(2.001).judge()
    full, lora = verdict.methods
    assert (full, lora) == (verdict.full, verdict.lora)
    assert (lora.trials, lora.seeds, lora.tokens, lora.seconds) == (5, 3, 9000, 11.0)
    assert (lora.peak_memory_bytes, lora.trainable_parameters, lora.checkpoint_bytes) == (300_000_000, 16_000, 64_000)
    assert full.regret_nats is full.ci95 is None
    assert (lora.regret_nats, lora.ci95) == (verdict.regret_nats, verdict.ci95)
    assert verdict.environment == {"python": "3.11"}
    assert verdict.search == {
        "trials": 10,
        "finished": 10,
        "diverged": 0,
        "pruned": 0,
        "failed": 0,
        "running": 0,
        "rules": ["A rule."],
    }


def test_the_reasons_give_the_evidence_in_numbers() -> None:
    said = text(both(2.001).judge())
    for fact in (
        "3 seeds",
        f"{EXAMPLES} held-out examples ({sum(TOKENS)} supervised tokens)",
        "0.0002 for lora:16 and 5e-05 for full fine-tuning, a ratio of 4 (each known to a factor of 2)",
        "about 15 times for short runs of some 100 steps",
        "peak memory 0.5 times (300 MB against 600 MB)",
        "time 0.52 times (11.0 s against 21.0 s)",
        "(16,000 against 1,000,000)",
        "before training is 2.2000",
        "10 trials were run: 10 finished.",
    ):
        assert fact in said
    assert "training did not help" not in said


def test_a_trial_that_somebody_stopped_is_told() -> None:
    study = both(2.001)
    study.trial("full", 1e-3, 0, "failed")
    study.records[-1] = study.records[-1].model_copy(update={"error": f"{STOPPED} after step 3"})
    study.trial("lora:16", 1e-3, 0, "failed")
    assert "Stopped by request, so that a better rate may have been missed: 1 of full." in text(study.judge())
    assert "by request" not in text(both(2.001).judge())


def test_a_training_that_did_not_help_is_pointed_out() -> None:
    assert "training did not help" in text(both(2.001).judge(base_nll=1.5))


def test_trials_on_different_held_out_examples_cannot_be_paired() -> None:
    study = both(2.001)
    name = "lora-16-all_lr0.0002_seed1"
    study.losses[name] = ExampleLosses(nll_sums=study.losses[name].nll_sums, tokens=(1, *TOKENS[1:]))
    with pytest.raises(RecordsError, match=f"{name}/examples.json.*Delete"):
        study.judge()
    study.losses[name] = ExampleLosses(nll_sums=(math.nan,) * EXAMPLES, tokens=TOKENS)
    with pytest.raises(RecordsError, match="nll_sums"):
        study.judge()


def test_missing_example_losses_make_it_inconclusive() -> None:
    study = both(2.001)
    study.losses.clear()
    verdict = study.judge()
    assert verdict.verdict == "inconclusive"
    assert "cannot be paired" in text(verdict)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-0.05, 0.05),
    st.floats(0, 0.02),
    st.tuples(*[st.floats(-0.02, 0.02)] * 3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_verdict_never_claims_more_than_the_interval(
    regret: float, noise: float, effects: tuple[float, ...], bracketed: bool, key: int
) -> None:
    study = both(FULL_LOSS + regret, noise, seed_effects=effects, bracket=(True, bracketed))
    verdict = study.judge()
    assert verdict.ci95 is not None
    assert verdict.tolerance_nats is not None
    low, high = verdict.ci95
    expected = "low_regret" if high < verdict.tolerance_nats else "regret" if low > verdict.tolerance_nats else None
    best_is_inside = verdict.lora is not None and verdict.lora.bracketed
    assert verdict.verdict == (expected if expected and best_is_inside else "inconclusive")
    np.random.default_rng(key).shuffle(study.records)
    assert study.judge() == verdict, "the order of the records does not matter"
    assert all(reason.endswith(".") and "nan" not in reason and "None" not in reason for reason in verdict.reasons)


def test_a_verdict_survives_its_file(tmp_path: Any) -> None:
    for verdict in (both(2.001).judge(), Study(compare()).judge()):
        write_json(tmp_path / "verdict.json", verdict)
        assert read_record(Verdict, tmp_path / "verdict.json") == verdict


def test_a_lora_with_complete_evidence_is_judged_before_one_without_a_bracket() -> None:
    """The lower loss has no worse rate above it: it must not hide an answer that is there."""
    study = Study(compare("full", "lora:16", "lora:64")).method("full", FULL_LOSS)
    study.method("lora:16", 2.001, noise=0.001).method("lora:64", 1.999, noise=0.001, bracket=(True, False))
    verdict = study.judge()
    assert verdict.verdict == "low_regret"
    assert verdict.lora is not None
    assert verdict.lora.name == "lora:16"
    assert "The best learning rate of lora:64, 0.0002, is not bracketed" in text(verdict)


def test_a_seed_that_diverged_settles_nothing() -> None:
    study = Study(compare()).method("full", FULL_LOSS)
    study.method("lora:16", 2.001, noise=0.001, seed_effects=(0.0, 0.0)).trial("lora:16", 2e-4, 2, "diverged")
    verdict = study.judge()
    assert verdict.verdict == "inconclusive"
    assert "lora:16 diverged at its best learning rate with seed 2" in text(verdict)


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_what_trials_note_is_a_reason_once_with_a_count() -> None:
    study = both(FULL_LOSS)
    study.records[:2] = [record.model_copy(update={"note": "nothing moved"}) for record in study.records[:2]]
    (said,) = [reason for reason in study.judge().reasons if "nothing moved" in reason]
    assert said == f"Of 2 of {len(study.records)} finished trials: nothing moved."
    assert "nothing moved" not in text(both(FULL_LOSS).judge())


REWARDS = {"objective": {"kind": "rl", "task": "builtin:arithmetic"}}


def rewarded(lora: float, full: float, noise: float = 0.001, **spec: Any) -> Verdict:
    """The study of losses 1 − reward, told in rewards."""
    study = Study(compare(**REWARDS, **spec))
    study.method("full", 1 - full).method("lora:16", 1 - lora, noise=noise)
    records = [
        record.model_copy(update={"test_nll": None, "test_reward": None if (n := record.test_nll) is None else 1 - n})
        for record in study.records
    ]
    found = {}
    for record in records:
        if record.test_reward is not None:
            losses = study.losses[record.id]
            each = np.array(losses.nll_sums) / np.array(losses.tokens)
            each += (1 - record.test_reward) - each.mean()
            # answers differ in length from trial to trial, and that must not matter
            tokens = tuple(len(record.id) + example for example in range(EXAMPLES))
            found[record.id] = ExampleRewards(rewards=tuple((1 - each).tolist()), samples=1, tokens=tokens)
    return judge(study.spec, records, found, -0.4, {})


def test_regret_of_rewards_is_what_lora_lacks_of_them() -> None:
    verdict = rewarded(lora=0.90, full=0.98)
    assert verdict.verdict == "regret"
    assert verdict.regret_reward == pytest.approx(0.08)
    assert (verdict.tolerance_reward, verdict.base_reward) == (0.02, 0.4)
    assert verdict.regret_nats is verdict.tolerance_nats is verdict.base_nll is None
    assert verdict.lora is not None
    assert verdict.lora.test_nll is None
    assert verdict.lora.test_reward == pytest.approx(0.90)
    assert "+0.0800 of reward" in verdict.reasons[0]
    assert "nats" not in text(verdict)
    assert "loss" not in text(verdict)


def test_rewards_within_the_tolerance_are_low_regret_and_more_reward_is_better() -> None:
    assert rewarded(lora=0.975, full=0.98).verdict == "low_regret"
    better = rewarded(lora=0.99, full=0.95)
    assert better.verdict == "low_regret"
    assert "LoRA is better than full fine-tuning here" in better.reasons[0]
    assert "-0.0400 of reward" in better.reasons[0]


def test_the_tolerance_of_rewards_is_no_share() -> None:
    assert rewarded(lora=0.05, full=0.06).verdict == "low_regret"
    assert rewarded(lora=0.05, full=0.06, tolerance=0.005).verdict == "regret"


def test_noise_over_problems_leaves_a_verdict_on_rewards_open() -> None:
    verdict = rewarded(lora=0.97, full=0.98, noise=0.02)
    assert verdict.verdict == "inconclusive"
    assert "40 held-out problems" in text(verdict)


def test_a_verdict_on_rewards_survives_its_file(tmp_path: Any) -> None:
    verdict = rewarded(lora=0.90, full=0.98)
    write_json(tmp_path / "verdict.json", verdict)
    assert read_record(Verdict, tmp_path / "verdict.json").model_dump(mode="json") == verdict.model_dump(mode="json")


def test_a_quantised_base_has_its_start_and_is_no_reason_to_be_chosen() -> None:
    """Of two LoRAs of as many parameters within the tolerance the one is recommended that is served where it was
    trained; each has its own regret against FullFT."""
    for better, worse in (("lora:16", "lora:16:nf4"), ("lora:16:nf4", "lora:16")):
        study = Study(compare(methods=("full", better, worse))).method("full", FULL_LOSS)
        study.method(better, FULL_LOSS + 0.001, noise=0.0005).method(worse, FULL_LOSS + 0.002, noise=0.0005)
        verdict = judge(study.spec, study.records, study.losses, BASE, {}, quantised={"nf4": BASE + 0.03})
        assert verdict.verdict == "low_regret"
        assert verdict.recommendation is not None
        assert verdict.recommendation.method == "lora:16"
        found = {method.name: method for method in verdict.methods}
        assert found["lora:16:nf4"].base_nll == BASE + 0.03
        assert found["lora:16"].base_nll is None
        assert found[worse].regret_nats == pytest.approx(0.002, abs=1e-4)
        assert "on which lora:16:nf4 trains, starts at" in text(verdict)
        assert ("is served on the base that it was trained on" in text(verdict)) == (better == "lora:16:nf4")
    assert "starts at" not in text(both(2.001).judge())

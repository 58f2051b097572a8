"""What is read off pilots: shares, lags and rates by curves whose answers are known."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lowregret.analysis.forecast.banks import Bank, load_bank
from lowregret.analysis.forecast.make import make_forecast
from lowregret.analysis.forecast.model import RegretModel, bent, cases, straight
from lowregret.analysis.forecast.pilots import FULL, Pilots, longest, nearest_step, pilot_steps, pilots_at
from lowregret.errors import RecordsError, SpecError
from lowregret.runs.bank import BankEntry, BankMethod, RateCurve, changing, parse_bank
from lowregret.spec import CompareSpec
from lowregret.strict_json import to_json

STEPS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
BASE = 4.0


def falling(lag: float, factor: float = 1.0) -> dict[int, float]:
    """A loss that falls by 0.5 nats with every doubling of the steps, `lag` times the steps late; worse by a factor at
    a rate that is not the best."""
    return {step: BASE - 0.5 * math.log2(1 + step / lag) / factor for step in STEPS}


def method(
    name: str,
    lag: float,
    parameters: int = 1000,
    regret: float | None = None,
    ci95: tuple[float, float] | None = (-0.01, 0.01),
) -> BankMethod:
    rates = ((1e-4, 1.5), (2e-4, 1.0), (4e-4, 1.2))
    curves = tuple(RateCurve(learning_rate=rate, losses=falling(lag, factor)) for rate, factor in rates)
    loss = falling(lag)[64]
    return BankMethod(name=name, parameters=parameters, curves=curves, loss=loss, regret_nats=regret, ci95=ci95)


def entry(lag: float = 2.0, base: str = "b", data: str = "d", **fields: object) -> BankEntry:
    regret = falling(lag)[64] - falling(1.0)[64]
    values = {
        "identity": f"{base}-{data}-{lag}",
        "base": base,
        "data": data,
        "steps": 64,
        "batch_size": 8,
        "epochs": 2.0,
        "supervised_tokens": 1000,
        "base_nll": BASE,
        "methods": (method("full", 1.0, 10_000), method("lora:4", lag, regret=regret)),
        **fields,
    }
    return BankEntry.model_validate(values)


def pilots_of(found: BankEntry, name: str, share: float) -> Pilots | None:
    methods = [method for method in (found.method("full"), found.method(name)) if method is not None]
    step = pilot_steps([longest(method) for method in methods], share, found.steps)
    return None if step is None else pilots_at(found, name, step)


def pilots(share: float = 0.2, **fields: object) -> Pilots:
    found = pilots_of(entry(**fields), "lora:4", share)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_pilot_is_the_best_rates_curve_up_to_the_last_evaluation_within_its_share() -> None:
    found = pilots(0.2)
    assert (found.step, found.steps) == (11, 64)
    assert found.full == {step: loss for step, loss in falling(1.0).items() if step <= 11}
    assert found.lora == {step: loss for step, loss in falling(2.0).items() if step <= 11}
    assert pilots(1.0).step == 64
    assert pilots_of(entry(), "lora:4", 0.01) is None
    assert pilots_of(entry(), "lora:5", 0.2) is None


def test_the_regret_is_a_share_of_what_full_fine_tuning_has_learned_over_the_last_three_evaluations() -> None:
    share = [1 - math.log2(1 + step / 2) / math.log2(1 + step) for step in (6, 8, 11)]
    assert pilots().regret() == pytest.approx(sum(share) / 3)


@pytest.mark.parametrize("lag", [1.3, 2.0, 3.0])
def test_the_lag_is_the_factor_in_steps(lag: float) -> None:
    assert pilots(1.0, lag=lag).lag() == pytest.approx(lag, rel=0.02)
    assert pilots(1.0, lag=1 / lag).lag() == pytest.approx(1 / lag, rel=0.05)


def test_the_slope_is_the_share_that_was_learned_in_the_last_doubling() -> None:
    assert pilots(1.0).slope() == pytest.approx((math.log2(65) - math.log2(33)) / math.log2(65))


def test_full_fine_tuning_that_learned_nothing_has_no_pilot() -> None:
    flat = RateCurve(learning_rate=1e-4, losses=dict.fromkeys(STEPS, BASE + 0.1))
    nothing = BankMethod(name="full", parameters=10_000, curves=(flat,))
    assert pilots_of(entry(methods=(nothing, method("lora:4", 2.0))), "lora:4", 0.2) is None


def test_shares_count_by_their_size_near_zero_and_by_their_logarithm_far_from_it() -> None:
    for share in (-0.3, -0.001, 0.0, 0.02, 0.9):
        assert straight(bent(share)) == pytest.approx(share)
    assert bent(0.001) == pytest.approx(0.001 / 0.02, rel=0.01)
    assert bent(0.8) - bent(0.4) == pytest.approx(math.log(2), rel=0.01)


def test_a_bank_in_which_lag_is_all_predicts_a_new_base_and_new_data() -> None:
    """LoRA is FullFT so many times later: pilots tell the regret at the end."""
    lags = [1.05 + 0.1 * n for n in range(24)]
    bank = [entry(lag, base=f"base {n % 6}", data=f"data {n % 4}") for n, lag in enumerate(lags)]
    model = RegretModel.of(bank, 0.2)
    assert model is not None
    assert (model.cases, model.comparisons) == (24, 24)
    new = entry(1.83, base="new", data="new")
    (case,) = cases([new], 0.2)
    found = model.forecast("lora:4", case.pilots, tolerance=0.05)
    assert found.share == pytest.approx(case.share, rel=0.15)
    assert found.share_interval[0] <= case.share <= found.share_interval[1]
    assert found.share_interval[1] - found.share_interval[0] < 1.2 * case.share
    assert abs(found.share - case.share) < 0.3 * abs(case.pilots.regret() - case.share)
    assert model.learned(case.pilots) == pytest.approx(case.learned, rel=0.1)
    assert found.regret_nats == pytest.approx(found.share * model.learned(case.pilots))
    assert found.chance_low < 0.05


def test_comparisons_whose_own_regret_is_unknown_judge_no_forecast() -> None:
    """FullFT that learned 0.02 nats, of which a regret is known to ± 300 %, would make every interval as wide."""
    bank = [entry(1.05 + 0.1 * n, base=f"base {n % 6}", data=f"data {n % 4}") for n in range(24)]
    noisy = [
        entry(
            2.0, base=f"noise {n}", methods=(method("full", 1.0, 10_000), method("lora:4", 2.0, regret=3.0, ci95=wide))
        )
        for n, wide in enumerate([(-5.0, 5.0), (0.0, 6.0), None])
    ]
    (case,) = cases([entry(1.83, base="new", data="new")], 0.2)
    with_them, without = RegretModel.of([*bank, *noisy], 0.2), RegretModel.of(bank, 0.2)
    assert with_them is not None
    assert without is not None
    assert with_them.forecast("lora:4", case.pilots, 0.05) == without.forecast("lora:4", case.pilots, 0.05)


def test_a_bank_is_read_at_the_length_of_the_pilots_not_at_a_shorter_one() -> None:
    """Evaluations a factor of √2 apart: one lies within 2^¼ of any share; the last within it may be half as long."""
    for share in (0.1, 0.15, 0.17, 0.2, 0.25, 0.3):
        step = nearest_step([falling(1.0)], share, 64)
        assert step is not None
        assert 2**-0.3 < step / (share * 64) < 2**0.3
    assert nearest_step([dict.fromkeys((1, 60), 1.0)], 0.2, 64) is None


def test_a_case_unlike_the_banks_has_a_wider_interval_than_one_like_them() -> None:
    bank = [entry(1.05 + 0.1 * n, base=f"base {n % 6}", data=f"data {n % 4}") for n in range(24)]
    model = RegretModel.of(bank, 0.2)
    assert model is not None
    (case,) = cases([entry(1.83, base="new", data="new")], 0.2)
    near = model.forecast("lora:4", case.pilots, 0.05)
    told = model.forecast("lora:4", replace(case.pilots, base_nll=400.0), 0.05)
    assert (near.far, told.far) == (False, True)
    reach = [bent(found.share_interval[1]) - bent(found.share_interval[0]) for found in (near, told)]
    assert reach[1] > 1.2 * reach[0]


def test_what_is_learned_has_an_interval_and_nats_have_that_of_both() -> None:
    bank = [entry(1.05 + 0.1 * n, base=f"base {n % 6}", data=f"data {n % 4}") for n in range(24)]
    model = RegretModel.of(bank, 0.2)
    assert model is not None
    (case,) = cases([entry(1.83, base="new", data="new")], 0.2)
    low, high = model.learned_interval(case.pilots)
    assert case.pilots.learned() <= low <= model.learned(case.pilots) <= high <= BASE
    found = model.forecast("lora:4", case.pilots, 0.05)
    assert found.nats_interval is not None
    assert found.nats_interval[0] <= found.share_interval[0] * low
    assert found.nats_interval[1] == found.share_interval[1] * high


def test_full_fine_tuning_that_learned_nothing_is_said_with_its_losses_and_a_longer_budget() -> None:
    flat = RateCurve(learning_rate=1e-4, losses=dict.fromkeys(STEPS, BASE + 0.1))
    nothing = BankMethod(name="full", parameters=10_000, curves=(flat,))
    new = entry(methods=(nothing, method("lora:4", 2.0)), identity="new")
    with pytest.raises(RecordsError, match=r"the best has 4\.1 nats.*base 4.*lower ones.*--budget 40%"):
        make_forecast(asked("full", "lora:4"), new, a_bank(), 0.2)
    with pytest.raises(RecordsError, match=r"lower ones \(--learning-rates, in another --out\)\.$"):
        make_forecast(asked("full", "lora:4"), new, a_bank(), 0.5)


def test_a_lora_that_is_worse_than_the_base_is_named_and_has_no_lag() -> None:
    above = RateCurve(learning_rate=1e-2, losses=dict.fromkeys(STEPS, BASE + 0.3))
    broken = BankMethod(name="lora:1", parameters=100, curves=(above,))
    new = entry(methods=(method("full", 1.0, 10_000), method("lora:4", 2.0), broken), identity="new")
    found = make_forecast(asked("full", "lora:1", "lora:4"), new, a_bank(), 0.2)
    told = found.of("lora:1")
    assert told is not None
    assert told.lag is None
    assert any("lora:1 is worse than the base" in note for note in found.notes)


def test_a_bank_of_one_base_and_data_is_no_model() -> None:
    assert RegretModel.of([entry(1.5), entry(2.5)], 0.2) is None
    assert RegretModel.of([entry(1.5), entry(2.5, data="e")], 0.01) is None


def test_a_forecast_is_against_plain_full_fine_tuning() -> None:
    """Every comparison of the bank has that; another optimizer comes to something else, and is no LoRA."""
    fields = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": ("lora:4", "full:adafactor")}
    with pytest.raises(SpecError, match="add it to --methods"):
        make_forecast(CompareSpec.model_validate(fields), entry(), Bank((), 0), 0.1)


def asked(*methods: str) -> CompareSpec:
    return CompareSpec.model_validate({
        "model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": methods,
    })  # fmt: skip


def a_bank() -> Bank:
    return Bank(tuple(entry(1.05 + 0.1 * n, base=f"base {n % 6}", data=f"data {n % 4}") for n in range(24)), 0)


def test_pilots_of_a_method_that_diverged_early_shorten_all_and_are_named() -> None:
    """A model of pilots of three steps is not asked about pilots of eleven."""
    curves = tuple(
        RateCurve(learning_rate=rate, losses={step: loss for step, loss in falling(2.0).items() if step <= 3})
        for rate in (1e-3, 2e-3)
    )
    diverged = BankMethod(name="lora:1", parameters=100, curves=curves)
    new = entry(methods=(method("full", 1.0, 10_000), method("lora:4", 2.0), diverged), identity="new")
    found = make_forecast(asked("full", "lora:1", "lora:4"), new, a_bank(), 0.2)
    assert found.step == 3
    alone = make_forecast(asked("full", "lora:4"), new, a_bank(), 3 / 64)
    assert found.of("lora:4") == alone.of("lora:4")
    assert [note for note in found.notes if "lora:1" in note and "beyond step 3" in note]
    assert found.cost == pytest.approx((3 * 11 + 3 * 11 + 2 * 3) / (3 * 7 * 64)), "the steps that were trained"
    assert not alone.notes


@pytest.mark.parametrize("steps", [44, 45, 46, 47, 300])
def test_a_share_of_a_step_over_the_steps_is_that_step(steps: int) -> None:
    for step in range(1, steps):
        assert pilot_steps([{step: 1.0, steps: 1.0}], step / steps, steps) == step


def test_what_the_bank_does_not_know_of_methods_is_said() -> None:
    methods = [method(name, lag) for name, lag in (("full", 1.0), ("full:adafactor", 1.1), ("lora:4:nf4", 2.0))]
    found = make_forecast(
        asked("full", "full:adafactor", "lora:4:nf4"),
        entry(methods=methods, identity="new"),
        a_bank(),
        0.2,
    )
    assert [note for note in found.notes if "narrower base" in note and "lora:4" in note]
    assert "Nothing is forecast of full:adafactor: the bank is of LoRAs against full." in found.notes


def test_cases_are_loras_by_the_regret_that_the_verdict_has() -> None:
    """Which is against plain full fine-tuning, however much better another optimizer's is; that one is no LoRA."""
    plain, better = method("full", 1.0), method("full:adafactor", 0.8, regret=-0.2)
    assert plain.loss is not None
    (case,) = cases([entry(methods=(plain, better, method("lora:4", 2.0, regret=0.3)))], 0.2)
    assert case.name == "lora:4"
    assert case.share == pytest.approx(0.3 / (BASE - plain.loss))


def test_the_reference_of_a_verdict_is_that_of_the_bank() -> None:
    """So that a bank takes a verdict's regrets as they are."""
    assert asked("full:muon", "full", "lora:4").reference.name == FULL


@pytest.mark.parametrize(
    "change",
    [
        {"fact_bits": 0.0}, {"fact_bits": -1.0}, {"steps": 10**400}, {"base_nll": -1.0}, {"base_nll": 1e308},
        {"epochs": 1e300},
    ],
)  # fmt: skip
def test_a_bank_whose_numbers_cannot_be_is_refused_by_its_line(change: dict[str, object]) -> None:
    stored = json.loads(to_json(entry().model_dump(mode="json")))
    with pytest.raises(RecordsError, match="bank:1: damaged"):
        parse_bank(json.dumps(stored | change), "bank")


def test_steps_before_the_first_and_losses_without_bounds_are_refused() -> None:
    stored = to_json(entry().model_dump(mode="json"))
    for wrong in (stored.replace('"2":', '"-2":'), stored.replace('"2": ', '"2": 1e308, "1": ')):
        assert wrong != stored
        with pytest.raises(RecordsError, match="bank:1: damaged"):
            parse_bank(wrong, "bank")


def test_a_bank_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no bank is there"):
        load_bank(tmp_path / "none.jsonl")


def test_a_bank_of_another_version_is_named_so_whatever_its_fields_are() -> None:
    with pytest.raises(RecordsError, match="bank:1: is of version 2 of the bank"):
        parse_bank('{"version": 2, "what": "nobody knows yet"}', "bank")


def test_of_two_that_change_a_bank_one_waits_for_the_other(tmp_path: Path) -> None:
    bank, order = tmp_path / "bank.jsonl", []

    def second() -> None:
        with changing(bank):
            order.append("second")

    other = threading.Thread(target=second)
    with changing(bank):
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_a_bank_of_too_few_cases_for_an_interval_gives_no_number() -> None:
    few = Bank(a_bank().entries[:8], 0)
    with pytest.raises(RecordsError, match=r"8 pairs of base and data with pilots of 17\.2% of a run"):
        make_forecast(asked("full", "lora:4"), entry(identity="new"), few, 0.2)
    assert make_forecast(asked("full", "lora:4"), entry(identity="new"), Bank(a_bank().entries[:9], 0), 0.2).forecasts

"""What is read off pilots: shares, lags and rates by curves whose answers are known."""

from __future__ import annotations

import math

import pytest

from lowregret.analysis.forecast.model import RegretModel, bent, cases, straight
from lowregret.analysis.forecast.pilots import Pilots, bits_of, pilots_of
from lowregret.runs.bank import BankEntry, BankMethod, RateCurve

STEPS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
BASE = 4.0


def falling(lag: float, factor: float = 1.0) -> dict[int, float]:
    """A loss that falls by 0.5 nats with every doubling of the steps, `lag` times the steps late; worse by a factor at
    a rate that is not the best."""
    return {step: BASE - 0.5 * math.log2(1 + step / lag) / factor for step in STEPS}


def method(name: str, lag: float, parameters: int = 1000, regret: float | None = None) -> BankMethod:
    rates = ((1e-4, 1.5), (2e-4, 1.0), (4e-4, 1.2))
    curves = tuple(RateCurve(learning_rate=rate, losses=falling(lag, factor)) for rate, factor in rates)
    loss = falling(lag)[64]
    return BankMethod(name=name, parameters=parameters, curves=curves, loss=loss, regret_nats=regret, ci95=(-1.0, 1.0))


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


def test_bits_are_the_facts_or_the_bases_loss_on_one_pass() -> None:
    assert bits_of(entry()) == pytest.approx(BASE * 1000 / math.log(2))
    assert bits_of(entry(fact_bits=800.0)) == 800.0


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
    assert found.share_interval[1] - found.share_interval[0] < 0.5 * case.share
    assert abs(found.share - case.share) < 0.3 * abs(case.pilots.regret() - case.share)
    assert model.learned(case.pilots) == pytest.approx(case.learned, rel=0.1)
    assert found.regret_nats == pytest.approx(found.share * model.learned(case.pilots))
    assert found.chance_low < 0.05


def test_a_bank_of_one_base_and_data_is_no_model() -> None:
    assert RegretModel.of([entry(1.5), entry(2.5)], 0.2) is None
    assert RegretModel.of([entry(1.5), entry(2.5, data="e")], 0.01) is None

"""A forecast before any training, and one beside what was measured."""

from __future__ import annotations

import math

import pytest

from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.make import make_free_forecast
from lowregret.analysis.forecast.model import RegretModel
from lowregret.analysis.forecast.pilots import Room, attention_alone
from lowregret.analysis.forecast.words import beside, expected_lines, sentences
from lowregret.errors import RecordsError, SpecError
from lowregret.runs.bank import BankEntry, BankMethod, RateCurve
from lowregret.runs.forecast import Forecast, ForecastedRegret
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.spec import CompareSpec

BITS, BASE, STEPS = 1000.0, 3.0, (2, 4, 8, 16)


def lost(each: float) -> float:
    """A regret that goes by bits a parameter alone."""
    return 0.02 * math.sinh(2 + math.log(each))


def entry(pair: int) -> BankEntry:
    curve = RateCurve(learning_rate=1e-3, losses={step: BASE - 0.5 * math.log2(step) / 4 for step in STEPS})
    full = BankMethod(name="full", parameters=10**6, curves=(curve,), loss=2.0)
    loras = [
        BankMethod(
            name=f"lora:{rank}",
            parameters=100 * rank,
            curves=(curve,),
            loss=2.0 + lost(BITS / 100 / rank),
            regret_nats=lost(BITS / 100 / rank),
            ci95=(-0.01, 0.01),
        )
        for rank in (1, 4, 16, 64 + pair)
    ]
    return BankEntry(
        identity=f"run {pair}",
        base=f"base {pair}",
        data="data",
        steps=16,
        batch_size=4,
        epochs=1.0,
        supervised_tokens=100,
        fact_bits=BITS,
        base_nll=BASE,
        methods=(full, *loras),
    )


def bank(pairs: int) -> Bank:
    return Bank(tuple(entry(pair) for pair in range(pairs)), 0)


def spec(**more: object) -> CompareSpec:
    fields = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": ["full", "lora:8"], **more}
    return CompareSpec.model_validate(fields)


def test_bits_a_parameter_alone_tell_a_regret_that_goes_by_them() -> None:
    room = Room(parameters=800, attention_alone=False)
    found = make_free_forecast(spec(), {"lora:8": room}, 16, "new", bank(12))
    (regret,) = found.forecasts
    assert regret.share == pytest.approx(lost(BITS / 800), rel=0.3)
    assert regret.share_interval[0] <= lost(BITS / 800) <= regret.share_interval[1]
    assert (regret.regret_nats, regret.nats_interval, regret.lag, regret.at_pilot) == (None, None, None, None)
    assert (found.step, found.cost, found.learned) == (0, 0.0, None)
    said = " ".join(sentences(found))
    assert "with nothing trained" in said
    assert "nats" not in said
    assert "--budget 10%" in said
    assert expected_lines(found, found.tolerance)[0].startswith("forecast: lora:8: a regret of ")


def test_a_small_bank_gives_no_number() -> None:
    room = Room(parameters=800, attention_alone=False)
    with pytest.raises(RecordsError, match=r"of 8 pairs of base and data, and an interval takes 9\. Add finished"):
        make_free_forecast(spec(), {"lora:8": room}, 16, "new", bank(8))
    with pytest.raises(RecordsError, match="an interval takes 9"):
        make_free_forecast(spec(), {"lora:8": room}, 16, "run 3", bank(9))  # a comparison says nothing of itself
    with pytest.raises(SpecError, match="--budget such as 10%"):
        make_free_forecast(spec(tolerance_of="loss"), {"lora:8": room}, 16, "new", bank(12))


def test_an_adapter_unlike_those_of_the_bank_is_far_and_its_interval_wider() -> None:
    near, far = (Room(parameters=n, attention_alone=False) for n in (400, 3))
    found = make_free_forecast(spec(), {"lora:4": near, "lora:8": far}, 16, "new", bank(12))
    inside, outside = found.forecasts
    assert outside.far
    assert not inside.far
    widths = [high - low for low, high in (inside.share_interval, outside.share_interval)]
    assert widths[1] > widths[0]


def test_a_model_without_pilots_says_nothing_of_what_is_learned() -> None:
    model = RegretModel.of(bank(12).entries, None)
    assert model is not None
    assert model.growth is None


@pytest.mark.parametrize(
    ("name", "alone"),
    [("lora:16:attention", True), ("lora:16", False), ("lora:16:attention+unembedding", True), ("lora:4:mlp", False),
     ("lora:4:linear", False), ("lora:4:attention+experts", False), ("lora:4:re:c_attn", True),
     ("lora:4:dora:re:(?:q|v)_proj", True), ("lora:4:re:self_attn", True), ("lora:4:re:c_proj", False),
     ("lora:4:re:_proj$", False)],
)  # fmt: skip
def test_placement_is_read_off_the_name(name: str, alone: bool) -> None:
    assert attention_alone(name) is alone


def test_a_record_that_still_tells_bits_a_parameter_is_read() -> None:
    stored = {"method": "lora:8", "share": 0.02, "share_interval": (-0.01, 0.06), "chance_low": 0.9, "far": False}
    known = ForecastedRegret.model_validate({**stored, "bits_per_parameter": 1.0})
    assert known == ForecastedRegret.model_validate(stored)
    assert "bits_per_parameter" not in known.model_dump()


def test_a_forecast_stands_beside_what_was_measured() -> None:
    regret = ForecastedRegret(method="lora:8", share=0.02, share_interval=(-0.01, 0.06), chance_low=0.9, far=False)
    found = Forecast(forecasts=(regret,), tolerance=0.05, step=12, steps=60, cost=0.1, bank="12 comparisons")
    inside = beside(found, verdict(0.05))
    assert inside == [
        "Forecast by pilots of 12 steps: a regret of +2.0% of what full fine-tuning learns (-1.0% to +6.0% in nine of "
        "ten cases); the measured +5.0% lies inside."
    ]
    assert beside(found, verdict(0.07))[0].endswith("lies outside.")
    assert beside(found, verdict(None)) == []
    wide = ForecastedRegret.model_validate(regret.model_dump() | {"share_interval": (-2.0, 3.0)})
    assert (regret.says_nothing, wide.says_nothing) == (False, True)
    assert beside(found.model_copy(update={"forecasts": (wide,)}), verdict(0.05)) == []


def verdict(share: float | None) -> Verdict:
    lora = MethodResult.model_construct(name="lora:8")
    return Verdict.model_construct(lora=lora, regret_learned=share)

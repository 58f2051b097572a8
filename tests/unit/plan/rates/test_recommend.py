"""Which rate to start from: the law and its terms."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.errors import SpecError
from lowregret.plan.rates.law import LAW, effective_rank, group_of
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec import FullFT, LoRA

LLAMA = find_model("Llama-3.1-8B")


def shapes(total: float, hidden: int = 4096, family: str = "llama") -> Shapes:
    """A model of which only what the law looks at is real."""
    matrix = Weight("all", "mlp", (1, int(total)), 1, 1)
    return replace(LLAMA, family=family, hidden_size=hidden, weights=(matrix,))


def at_the_sweep(method: FullFT | LoRA, model: Shapes = LLAMA, objective: Literal["sft", "rl"] = "sft") -> RatePrior:
    return recommend(method, model, batch_size=128, steps=780, schedule="linear", objective=objective)


def width(rate: RatePrior) -> float:
    return math.log(rate.high / rate.low)


def test_at_the_sweeps_setting_it_is_the_fitted_law_by_hand() -> None:
    offset = LAW.offsets["llama"]
    expected = LAW.level * (64 / 3) ** LAW.rank_power * (8030261248 / 1e10) ** LAW.size_power * math.exp(offset)
    rate = at_the_sweep(LoRA(rank=64))
    assert rate.value == pytest.approx(expected, rel=1e-12)
    assert rate.high / rate.value == pytest.approx(math.exp(LAW.width))
    assert rate.value / rate.low == pytest.approx(math.exp(LAW.width))
    assert len(rate.sources) == 1


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-VL-235B-A22B-Instruct"])
def test_relatives_share_their_familys_offset(model: str) -> None:
    assert group_of(find_model(model).family) == "qwen3"


def test_an_unknown_family_gets_the_middle_and_a_wider_interval_no_error() -> None:
    known, unknown = at_the_sweep(LoRA(rank=16)), at_the_sweep(LoRA(rank=16), shapes(LLAMA.total, family="llama4_text"))
    assert known.value / unknown.value == pytest.approx(math.exp(LAW.offsets["llama"]))
    assert width(unknown) > width(known)
    assert "llama4_text is not in it" in unknown.sources[0]


@given(
    rank=st.integers(1, 512),
    total=st.floats(1e6, 2e12),
    hidden=st.integers(64, 16384),
    batch=st.integers(1, 4096),
    steps=st.integers(1, 1_000_000),
    family=st.sampled_from([*LAW.offsets, "never heard of"]),
    objective=st.sampled_from(["sft", "rl"]),
)
def test_everywhere_it_is_a_sane_rate_inside_its_interval(
    rank: int, total: float, hidden: int, batch: int, steps: int, family: str, objective: Literal["sft", "rl"]
) -> None:
    model = shapes(total, hidden, family)
    rates = {}
    for method in (LoRA(rank=rank), FullFT()):
        rate = recommend(method, model, batch_size=batch, steps=steps, objective=objective)
        assert 0 < rate.low < rate.value < rate.high < 1
        assert 1e-7 < rate.value < 1e-1
        assert rate.high / rate.low < 1e4
        rates[method.name] = rate.value
    assert rates["full"] < recommend(LoRA(rank=32), model, batch_size=batch, steps=steps, objective=objective).value


def test_the_rate_rises_with_rank_falls_with_size_and_does_neither_in_jumps() -> None:
    ranks = [at_the_sweep(LoRA(rank=rank)).value for rank in range(1, 513)]
    sizes = [at_the_sweep(LoRA(rank=16), shapes(10 ** (power / 10))).value for power in range(60, 121)]
    widths = [at_the_sweep(FullFT(), shapes(1e9, hidden)).value for hidden in range(400, 800)]
    for rates, most in ((ranks, 1.25), (sizes[::-1], 1.18), (widths[::-1], 1.01)):
        steps = [after / before for before, after in itertools.pairwise(rates)]
        assert all(0.999 < step < most for step in steps)
    assert ranks[511] < 1.25 * ranks[127]  # it flattens where the sweep ends


def test_no_rank_counts_for_more_than_32() -> None:
    assert effective_rank(1) == pytest.approx(1, rel=0.04)
    assert effective_rank(65536) < 32


def test_the_interval_is_wider_where_nothing_was_measured() -> None:
    inside = width(at_the_sweep(LoRA(rank=16)))
    elsewhere: list[RatePrior] = [
        at_the_sweep(LoRA(rank=512)),
        at_the_sweep(LoRA(rank=16), shapes(1e6)),
        at_the_sweep(LoRA(rank=16), shapes(5e12)),
        at_the_sweep(LoRA(rank=16), objective="rl"),
        at_the_sweep(FullFT()),
        recommend(LoRA(rank=16), LLAMA, batch_size=8, steps=780),
        recommend(LoRA(rank=16), LLAMA, batch_size=128, steps=100),
    ]
    assert all(width(rate) > inside for rate in elsewhere)


def test_fullft_is_a_tenth_of_lora_in_long_runs_and_a_fifteenth_in_short_ones() -> None:
    for steps, expected in ((10, 15.0), (100, 15.0), (1000, 10.0), (10**6, 10.0)):
        lora, full = (recommend(m, LLAMA, batch_size=128, steps=steps).value for m in (LoRA(rank=32), FullFT()))
        assert lora / full == pytest.approx(expected)


@pytest.mark.parametrize("method", [LoRA(rank=16), FullFT()])
def test_batch_length_and_schedule_move_the_rate_by_the_powers_that_were_measured(method: FullFT | LoRA) -> None:
    def rate(**changed: Any) -> float:
        return recommend(method, LLAMA, **({"batch_size": 128, "steps": 2000, "schedule": "linear"} | changed)).value

    usual = rate()
    assert rate(batch_size=32) / usual == pytest.approx(0.25**0.30)
    assert rate(steps=16000) / usual == pytest.approx(8**-0.13)
    assert rate(steps=1) == rate(steps=25)  # no shorter run was seen to want more
    assert rate(schedule="constant") / usual == pytest.approx(0.38)
    assert rate(schedule="cosine") == usual
    assert rate(schedule="constant") < rate(schedule="wsd") < usual


def test_by_reward_the_batch_is_of_no_account_and_long_runs_go_slower() -> None:
    def rate(batch: int, steps: int) -> float:
        return recommend(LoRA(rank=16), LLAMA, batch_size=batch, steps=steps, objective="rl").value

    assert rate(8, 50) == rate(512, 50) == rate(8, 10)
    assert rate(8, 800) / rate(8, 50) == pytest.approx(0.5)


ATTENTION, MLP = LoRA(rank=256, targets=("attention",)), LoRA(rank=256, targets=("mlp",))


@pytest.mark.parametrize(
    ("method", "best"),
    [
        (LoRA(rank=1), 1.2e-4),
        (LoRA(rank=16), 2.2e-4),
        (LoRA(rank=256), 2.5e-4),
        (ATTENTION, 3.5e-4),
        (MLP, 3.0e-4),
        (FullFT(), 2.5e-5),
    ],
)
def test_on_another_public_sweep_it_is_within_a_factor_of_1_6(method: FullFT | LoRA, best: float) -> None:
    """Qwen3-4B, No Robots, batch 32, 200 steps at a constant rate: SCIENCE 4."""
    found = recommend(method, find_model("Qwen/Qwen3-4B"), batch_size=32, steps=200)
    assert max(found.value / best, best / found.value) <= 1.6
    assert found.low < best < found.high


@pytest.mark.parametrize(
    ("model", "method", "good", "destroys", "steps"),
    [
        # MATH, 50 steps of 32 x 8: the public sweep beside the project (rl_lr_sweep_math_qwen3_1.7b.csv)
        ("Qwen/Qwen3-1.7B", LoRA(rank=1), (3e-5, 8e-5), 2.5e-4, 50),
        ("Qwen/Qwen3-1.7B", LoRA(rank=256), (5e-5, 1e-4), 2e-4, 50),
        ("Qwen/Qwen3-1.7B", FullFT(), (1e-5, 2.5e-5), 4.5e-5, 50),
        # docs/findings/2026-11-24-rl-smollm2-sums.md
        ("HuggingFaceTB/SmolLM2-135M-Instruct", LoRA(rank=1), (1e-4, 3e-4), 1e-3, 40),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", LoRA(rank=16), (1e-4, 3e-4), 1e-3, 40),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", FullFT(), (3e-6, 1e-5), 1e-4, 40),
        # docs/findings/2026-11-24-rl-ranks-and-rates.md
        ("tiny", LoRA(rank=4), (5e-4, 2e-3), 3.2e-2, 60),
        ("tiny", FullFT(), (2.5e-4, 1e-3), 4e-3, 60),
    ],
)
def test_no_rate_by_reward_destroys_the_policy(
    model: str, method: FullFT | LoRA, good: tuple[float, float], destroys: float, steps: int
) -> None:
    found = recommend(method, find_model(model), batch_size=32, steps=steps, objective="rl")
    assert found.value < 0.6 * destroys
    assert found.low < math.sqrt(good[0] * good[1]) < found.high
    if model.startswith("Qwen"):
        assert good[0] / 1.6 <= found.value <= 1.6 * good[1]


def test_in_narrow_bases_the_ratio_shrinks_to_what_was_measured_on_tiny() -> None:
    tiny = find_model("tiny")
    lora, full = (recommend(m, tiny, batch_size=8, steps=400).value for m in (LoRA(rank=16), FullFT()))
    assert 1.8 <= lora / full <= 3.75


@pytest.mark.parametrize(
    ("changed", "factor"),
    [
        ({"targets": ("attention",)}, 1.4),
        ({"targets": ("mlp",)}, 1.2),
        ({"targets": ("attention", "mlp", "unembedding")}, 1.0),
        ({"targets": ("re:q_proj",)}, 1.4),  # attention alone, by another name
        ({"targets": ("re:q_proj|up_proj",)}, 1.0),
        ({"alpha": 128.0}, 0.5),
        ({"alpha": 8.0}, 2.0),
        ({"scaling": "alpha/sqrt(r)"}, 0.5),  # 16^(-1/4)
        ({"b_rate": 16.0}, 0.25),
        ({"init_scale": 4.0}, 1.0),
        ({"init": "pissa"}, 0.42),
        ({"init": "olora"}, 0.23),
        ({"dora": True}, 1.0),
        ({"optimizer": "adafactor"}, 4.0),
        ({"optimizer": "muon"}, 2.0),
    ],
)
def test_what_a_variant_does_to_the_rate(changed: dict[str, Any], factor: float) -> None:
    plain, variant = at_the_sweep(LoRA(rank=16)), at_the_sweep(LoRA(rank=16, **changed))
    assert variant.value / plain.value == pytest.approx(factor)
    assert variant.sources[0] == plain.sources[0]
    if changed.get("targets") != ("attention", "mlp", "unembedding"):
        assert len(variant.sources) == 2
        assert width(variant) > width(plain)


def test_ranks_come_together_in_a_short_run() -> None:
    """In 24 and 60 steps SmolLM2 wants one rate from rank 1 to 64; in the sweep's 780 steps 2.5 times as high a one
    (docs/findings/2026-11-29-rates-elsewhere.md)."""

    def apart(steps: int) -> float:
        low, high = (
            recommend(LoRA(rank=rank), find_model("smollm2-135m"), batch_size=4, steps=steps).value for rank in (1, 64)
        )
        return high / low

    assert [apart(10), apart(24)] == pytest.approx([1.0, 1.0])
    assert 1.0 < apart(60) < apart(200) < apart(779)
    assert [apart(780), apart(5000)] == pytest.approx([22.0**0.294] * 2, rel=0.01)


def test_the_family_of_adamw_has_one_rate() -> None:
    plain = at_the_sweep(FullFT())
    for kind in ("adamw8bit", "bf16", "bf16-split", "bf16-nearest"):
        assert at_the_sweep(FullFT(optimizer=kind, in_backward=True)) == plain
    assert at_the_sweep(FullFT(optimizer="muon")).value / plain.value == pytest.approx(2)


def test_every_source_says_where_it_comes_from() -> None:
    variant = LoRA(rank=256, alpha=64, targets=("attention",), init="pissa", b_rate=4, dora=True)
    methods = (variant, LoRA(rank=16, init_scale=2, targets=("re:q_proj|all",)), FullFT())
    methods += (FullFT(optimizer="adafactor"), LoRA(rank=4, optimizer="muon"))
    for method in methods:
        for model in (find_model("tiny"), shapes(1e13, family="new")):
            for objective in ("sft", "rl"):
                rate = recommend(method, model, batch_size=4, steps=50, objective=objective)
                for source in rate.sources:
                    assert any(
                        word in source for word in ("science.md", "docs/findings/", "sweep", "our assumption")
                    ), source
                    assert source.endswith(".")


@pytest.mark.parametrize(("batch", "steps", "field"), [(0, 10, "batch_size"), (8, 0, "steps")])
def test_impossible_settings_are_named(batch: int, steps: int, field: str) -> None:
    with pytest.raises(SpecError, match=field):
        recommend(FullFT(), LLAMA, batch_size=batch, steps=steps)

"""The plan as a whole: what holds for every model, method and device."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.edl import HeldOutPoint, excess_description_length
from lowregret.data.facts import DataFacts
from lowregret.errors import SpecError
from lowregret.plan.advice.advise import break_even_rank
from lowregret.plan.advice.capacity import FinishedRun
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.resources.flops import multiply_adds
from lowregret.plan.resources.hardware import catalogue, find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec import FullFT, LoRA
from lowregret.spec.plan import PlanSpec

NAMES = ("tiny", "SmolLM2-135M", "Llama-3.1-8B", "Qwen3-30B-A3B", "DeepSeek-V3", "Kimi-K2-Instruct")
FACTS = DataFacts(
    "rows.jsonl", "text", 10_000, 2_000_000, 1_000_000, 400, 512, 0, 1000, "10% of the rows", "exact", "tokenizer"
)
METHODS = st.one_of(st.just(FullFT()), st.integers(1, 512).map(lambda rank: LoRA(rank=rank)))


def finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    if isinstance(value, list):
        return all(finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


@given(st.sampled_from(NAMES), st.one_of(st.none(), METHODS), st.sampled_from([None, *catalogue()]), st.booleans())
def test_every_plan_adds_up(name: str, method: FullFT | LoRA | None, hardware: object, rewards: bool) -> None:
    shapes = find_model(name)
    request = PlanSpec(objective="rl" if rewards else "sft", method=method)
    found = build_plan(shapes, request, facts=FACTS, hardware=hardware)  # type: ignore[arg-type]
    form = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert finite(form)
    assert form["parameters"] == {"total": shapes.total, "active": shapes.active}
    assert form["method"] == (method or found.advice.choice.method).name
    assert sum(form["lora"]["by_target"].values()) == form["lora"]["parameters"]
    assert form["memory_bytes"]["total"] == sum(v for k, v in form["memory_bytes"].items() if k != "total")
    for side in form["sides"].values():
        assert side["learning_rate"]["low"] < side["learning_rate"]["value"] < side["learning_rate"]["high"]
        assert (side["seconds"] is None) == (form["hardware"] is None)
    lora, full = form["sides"]["lora"], form["sides"]["full"]
    assert lora["learning_rate"]["value"] > full["learning_rate"]["value"]
    if lora["trainable_parameters"] < 0.9 * full["trainable_parameters"]:
        assert lora["memory_bytes"]["optimizer"] < full["memory_bytes"]["optimizer"]


@pytest.mark.parametrize("device", catalogue(), ids=lambda device: device.name)
def test_the_micro_batch_is_the_largest_that_fits(device: object) -> None:
    found = build_plan(find_model("Llama-3.1-8B"), PlanSpec(batch_size=32), facts=FACTS, hardware=device)  # type: ignore[arg-type]
    side = found.lora
    if not side.fits:
        assert side.micro_batch == 1
        assert side.memory.total > found.hardware.memory_bytes  # type: ignore[union-attr]
        return
    assert side.memory.total <= found.hardware.memory_bytes  # type: ignore[union-attr]
    if side.micro_batch < 32:
        request = PlanSpec(batch_size=32, micro_batch_size=2 * side.micro_batch, method=side.method)
        more = build_plan(found.shapes, request, facts=FACTS, hardware=device)  # type: ignore[arg-type]
        assert more.lora.micro_batch <= side.micro_batch


def test_what_does_not_fit_gets_the_flag_that_makes_it_fit() -> None:
    device = find_hardware("A100 80GB")
    shapes = find_model("Llama-3.1-8B")
    found = build_plan(shapes, PlanSpec(method=FullFT()), facts=FACTS, hardware=device)
    assert found.full.fits is False
    assert any("does not fit" in warning for warning in found.advice.warnings)
    flag, devices = found.full.remedy.split()
    assert flag == "--devices"
    enough = PlanSpec(method=FullFT(), devices=int(devices))
    assert build_plan(shapes, enough, facts=FACTS, hardware=device).full.fits


def test_without_hardware_the_least_priced_device_is_assumed_and_said() -> None:
    found = build_plan(find_model("Llama-3.1-8B"), PlanSpec(), facts=FACTS)
    assert found.hardware_assumed
    assert found.asked.fits
    assert found.asked.money is not None
    cheaper = [d for d in catalogue() if d.price_per_hour and d.memory_bytes < found.hardware.memory_bytes]  # type: ignore[union-attr]
    for device in cheaper:
        same = PlanSpec(method=found.lora.method)
        assert build_plan(find_model("Llama-3.1-8B"), same, facts=FACTS, hardware=device).lora.fits is False
    named = build_plan(find_model("Llama-3.1-8B"), PlanSpec(), facts=FACTS, hardware=found.hardware)
    assert named.advice == found.advice
    assert not named.hardware_assumed


def test_the_device_assumed_holds_the_method_that_is_planned() -> None:
    """LoRA fits on a smaller one than the FullFT that is asked for."""
    shapes = find_model("Llama-3.1-8B")
    lora, full = (build_plan(shapes, PlanSpec(method=method), facts=FACTS) for method in (LoRA(rank=16), FullFT()))
    assert full.asked.fits
    assert full.hardware is not None
    assert lora.hardware is not None
    assert lora.hardware.memory_bytes < full.hardware.memory_bytes
    assert build_plan(shapes, PlanSpec(method=FullFT()), facts=FACTS, hardware=lora.hardware).full.fits is False


def test_a_price_is_per_hour_and_device() -> None:
    """LoRA trials have a device of their own where there are two; FullFT takes both."""
    device = find_hardware("H200")
    one, two = (
        build_plan(find_model("Qwen3-8B"), PlanSpec(devices=devices, price=2.0), facts=FACTS, hardware=device)
        for devices in (1, 2)
    )
    assert one.lora.seconds is not None
    assert two.full.seconds is not None
    assert one.lora.money == pytest.approx(2.0 * one.lora.seconds / 3600)
    assert two.lora.seconds == pytest.approx(one.lora.seconds, rel=0.01)
    assert two.lora.money == pytest.approx(one.lora.money, rel=0.01)
    assert two.full.money == pytest.approx(2 * 2.0 * two.full.seconds / 3600)


def test_more_data_take_longer_and_longer_rows_more_memory() -> None:
    shapes = find_model("Qwen3-8B")
    device = find_hardware("H100 SXM")
    usual = build_plan(shapes, PlanSpec(), facts=FACTS, hardware=device)
    twice = build_plan(shapes, PlanSpec(), facts=replace(FACTS, examples=20_000, tokens=4_000_000), hardware=device)
    assert twice.lora.seconds == pytest.approx(2 * usual.lora.seconds, rel=0.1)  # type: ignore[operator]
    longer = build_plan(shapes, PlanSpec(micro_batch_size=1), facts=replace(FACTS, longest=4096), hardware=device)
    short = build_plan(shapes, PlanSpec(micro_batch_size=1), facts=FACTS, hardware=device)
    assert longer.lora.memory.activations > short.lora.memory.activations


def test_a_pilot_decides_the_regime_and_the_rank() -> None:
    evaluations = [HeldOutPoint(share, 1.0) for share in (0.5, 0.625, 0.75, 0.875, 1.0)]
    elicits = excess_description_length([3.0, *[1.0] * 99], evaluations, 1.0)
    found = build_plan(
        find_model("tiny"), PlanSpec(), facts=FACTS, pilot=FinishedRun(elicits, "EDL of lora:16 in runs/one")
    )
    form = found.as_dict()["capacity"]
    assert form["regime"] == "elicit"
    assert form["edl_bits"] == pytest.approx(1_000_000 * 0.02 / math.log(2))
    assert form["expected_regret"]["regime"] == "elicit"


def test_a_pilot_of_two_evaluations_decides_no_regime_and_the_page_says_why() -> None:
    two = excess_description_length([3.0, *[1.0] * 99], [HeldOutPoint(0.5, 1.0), HeldOutPoint(1.0, 1.0)], 1.0)
    found = build_plan(
        find_model("tiny"), PlanSpec(), facts=FACTS, pilot=FinishedRun(two, "EDL of lora:16 in runs/one")
    )
    assert found.as_dict()["capacity"]["regime"] == "unknown"
    assert any(
        "the pilot has 2 evaluations in the second half of its first epoch" in sentence
        for sentence in found.advice.choice.would_change
    )


def square(rank: int) -> tuple[Shapes, LoRA]:
    weights = (Weight("model.layers.*.self_attn.o_proj.weight", "attention", (600, 600), 4, 4, layers=(1, 2, 3, 4)),)
    return replace(find_model("tiny"), weights=weights, attention=()), LoRA(rank=rank, targets=("attention",))


def test_the_break_even_of_square_matrices_is_a_sixth_of_their_width() -> None:
    shapes, lora = square(100)
    assert break_even_rank(shapes, lora) == 100


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-30B-A3B"])
def test_at_the_break_even_rank_both_methods_cost_the_same(name: str) -> None:
    """Against C's own count of multiply-adds; it leaves out what the first matrices need not compute."""
    shapes = find_model(name)
    rank = round(break_even_rank(shapes, LoRA(rank=16)))
    kinds = ("attention", "mlp", "experts", "unembedding", "adapters")

    def cost(method: FullFT | LoRA) -> float:
        adds = multiply_adds(shapes, method, 128)
        return sum(adds.forward.get(kind, 0) + adds.backward.get(kind, 0) for kind in kinds)

    assert cost(LoRA(rank=rank)) == pytest.approx(cost(FullFT()), rel=0.02)


def test_a_prompt_is_counted_once_a_group_in_rl() -> None:
    """Prompts of 400 and completions of 100 tokens: 8 rows are 1,200 tokens, in pairs 2,400; with dropout 4,000."""
    facts = replace(FACTS, tokens=4_000_000, supervised_tokens=0, held_out=0)
    device = find_hardware("H100 SXM")

    def made(method: LoRA, group: int) -> Plan:
        request = PlanSpec(
            objective="rl",
            method=method,
            group_size=group,
            batch_size=64 // group,
            micro_batch_size=8,
            steps=10,
            max_tokens=100,
        )
        return build_plan(find_model("Llama-3.1-8B"), request, facts=facts, hardware=device)

    alone, shared = made(LoRA(rank=16), 2).lora, made(LoRA(rank=16), 8).lora
    assert alone.seconds is not None
    assert shared.seconds is not None
    assert shared.seconds / alone.seconds == pytest.approx(1_200 / 2_400, rel=0.1)
    assert shared.memory.activations < 0.7 * alone.memory.activations
    apart, pairs = (made(LoRA(rank=16, dropout=0.1), group).lora for group in (8, 2))
    assert apart.seconds == pytest.approx(pairs.seconds)
    assert apart.seconds == pytest.approx(alone.seconds * 4_000 / 2_400, rel=0.1)
    assert apart.memory.activations == pairs.memory.activations


def test_bfloat16_weights_take_half_on_the_disk_and_what_is_not_trained_in_parts_is_not_planned() -> None:
    shapes = find_model("SmolLM2-135M")
    plain, narrow, scaled = (FullFT(), FullFT(optimizer="bf16"), FullFT(optimizer="adamw8bit"))
    sizes = [build_plan(shapes, PlanSpec(method=method)).full.shipped_bytes for method in (plain, narrow, scaled)]
    assert sizes[0] == 2 * sizes[1] == sizes[2]
    with pytest.raises(SpecError, match="rows of 576"):
        build_plan(shapes, PlanSpec(method=scaled, devices=2))
    build_plan(find_model("Llama-3.1-8B"), PlanSpec(method=scaled, devices=2))

"""How far a plan may be trusted: inside of what was measured, outside of it, and what to measure next."""

from __future__ import annotations

from dataclasses import replace

from lowregret.analysis.edl import ExcessDescriptionLength
from lowregret.plan.advice.advise import Advised
from lowregret.plan.advice.capacity import FinishedRun, Information, of_finished_run, rl_information, sft_information
from lowregret.plan.advice.choice import Advice, Choice
from lowregret.plan.advice.regret import expected_regret
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.resources.hardware import Hardware, find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes
from lowregret.plan.trust import Trust, trust
from lowregret.spec import FullFT, LoRA

QWEN, TINY = find_model("qwen3-8b"), find_model("tiny")
SWEPT = recommend(LoRA(rank=16), QWEN, batch_size=128, steps=780, schedule="linear")
USUAL = recommend(LoRA(rank=16), QWEN, batch_size=8, steps=300)


def judged(
    information: Information | None,
    rate: RatePrior = USUAL,
    parameters: int = 10**6,
    *,
    shapes: Shapes = QWEN,
    epochs: float = 2.0,
    steps: int = 300,
    full: RatePrior | None = None,
    hardware: Hardware | None = None,
) -> Trust:
    expected = (
        None if information is None else expected_regret(information, {"mlp": parameters}, shapes.total, epochs=epochs)
    )
    lora = LoRA(rank=16)
    choice = Choice(lora, 8, epochs, steps, None, lora, expected, "medium", "", (), ())
    found = Advised(
        Advice(choice, rate.value, ()), information, lora, lora, {"mlp": parameters}, expected, rate, full or rate
    )
    return trust(shapes, found, hardware)


def test_at_the_sweeps_setting_the_rate_is_inside_and_elsewhere_it_says_what_is_not() -> None:
    inside, outside = (judged(None, rate).parts[0] for rate in (SWEPT, USUAL))
    assert inside.inside
    assert not outside.inside
    for about in ("schedule", "batch", "length"):
        assert about in outside.said
        assert about not in inside.said
    pissa = recommend(LoRA(rank=16, init_scale=4), QWEN, batch_size=128, steps=780, schedule="linear")
    assert "the start of A (our assumption)" in judged(None, pissa).parts[0].said


def test_what_would_tell_most_is_what_is_missing_most() -> None:
    much, little = sft_information(10**6), sft_information(1000)
    narrow = replace(USUAL, low=USUAL.value / 1.5, high=USUAL.value * 1.5)
    assert judged(None).pilot.tells == "data"
    assert judged(much).pilot.tells == "regime"  # half of what is learned may be lost, or next to nothing
    assert judged(little).pilot.tells == "rate"
    assert judged(little, narrow).pilot.tells == "regret"
    assert judged(little, epochs=1.0).pilot.tells == "regime"  # facts are behind by then, at any rank
    told = of_finished_run(10**6, FinishedRun(ExcessDescriptionLength(0.1, "teach", 0.1, 1.0), "a pilot"))
    assert judged(told).pilot.tells == "rate"
    assert "tenth" in judged(told, steps=1000).pilot.said
    assert "tenth" not in judged(told, steps=999).pilot.said  # a tenth has other best rates


def test_a_pilot_of_other_data_is_a_doubt_of_the_regret() -> None:
    edl = ExcessDescriptionLength(0.1, "teach", 0.1, 1.0)
    said = judged(of_finished_run(10**6, FinishedRun(edl, "a pilot", "the pilot was trained on others"))).parts[1].said
    assert "the pilot was trained on others" in said


def test_by_reward_it_does_not_claim_what_was_found_with_examples() -> None:
    rates = tuple(recommend(m, QWEN, batch_size=8, steps=50, objective="rl") for m in (LoRA(rank=1), FullFT()))
    found = judged(rl_information(1000, 8, 0.5), rates[0], full=rates[1])
    assert "three sweeps" in found.parts[0].said
    assert "fit without it" not in found.parts[0].said
    assert found.pilot.tells == "rate"


def test_the_curve_of_capacity_is_trusted_where_it_was_measured_alone() -> None:
    facts = sft_information(10**4).with_facts(1600.0)
    for shapes, inside in ((TINY, True), (QWEN, False)):
        part = judged(facts, parameters=180_000, shapes=shapes).parts[1]
        assert part.about == "regret"
        assert part.inside is inside
        assert part.inside == ("1 M parameters" not in part.said)
    for outside in (judged(facts, parameters=2000, shapes=TINY), judged(facts, shapes=TINY, epochs=0.5)):
        assert not outside.parts[1].inside  # 0.8 bit a parameter, where 0.31 was measured; half an epoch
    unknown = judged(sft_information(10**4)).parts[1]
    assert not unknown.inside
    assert "bounded, not known" in unknown.said


def test_memory_and_time_were_checked_on_cpus() -> None:
    for kind, inside in (("cpu", True), ("gpu", False)):
        hardware = replace(find_hardware("H100"), kind=kind)
        part = judged(None, shapes=TINY, hardware=hardware).parts[-1]
        assert part.about == "memory and time"
        assert part.inside is inside

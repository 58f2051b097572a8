"""Time and money: what they grow with, and what a study is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowregret.plan.resources.cost import RunCost, packing_gain, run_cost, study_cost
from lowregret.plan.resources.flops import SharedPrefix, multiply_adds
from lowregret.plan.resources.hardware import Hardware, find_hardware
from lowregret.plan.resources.trainer import ENGINE, Trainer
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA

CPU = Hardware("a CPU", "cpu", 2**35, 1e11, 6e10, 0.97, 5e-6, None, "made up")
TINY, LARGE = find_model("tiny"), find_model("Llama-3.1-8B")


def test_a_large_model_on_a_fast_memory_takes_the_time_of_its_products() -> None:
    device = replace(find_hardware("H100 SXM"), bytes_per_second=1e18, call_seconds=0.0)
    adds = multiply_adds(LARGE, FullFT(), 512, 0.5)
    expected = 2 * 4 * 512 * adds.total / (device.flops_per_second * device.utilisation)
    run = run_cost(LARGE, FullFT(), device, rows=4, steps=1, length=512, supervised_share=0.5)
    assert run.step_seconds == pytest.approx(expected, rel=1e-4)


def test_a_small_model_on_a_fast_device_takes_the_time_of_its_calls() -> None:
    device = replace(CPU, flops_per_second=1e18, bytes_per_second=1e18)
    one, many = (run_cost(TINY, LoRA(rank=16), device, rows=1, steps=1, length=n).step_seconds for n in (8, 512))
    assert many == pytest.approx(one, rel=0.01)
    two_passes = run_cost(TINY, LoRA(rank=16), device, rows=4, steps=1, length=512).step_seconds
    assert two_passes == pytest.approx(2 * one, rel=0.01)


@pytest.mark.parametrize("method", [LoRA(rank=16), FullFT()], ids=lambda method: method.name)
def test_seconds_are_steps_and_evaluations(method: LoRA | FullFT) -> None:
    def seconds(steps: int, eval_tokens: float) -> float:
        return run_cost(TINY, method, CPU, rows=4, steps=steps, length=64, eval_tokens=eval_tokens).seconds

    assert seconds(20, 0) == pytest.approx(20 * run_cost(TINY, method, CPU, rows=4, steps=1, length=64).step_seconds)
    assert seconds(0, 4096) > 0
    assert seconds(20, 4096) == pytest.approx(seconds(20, 0) + seconds(0, 4096))
    # A token that is only judged costs less than one that is trained on.
    assert seconds(0, 4096) < seconds(16, 0)


def test_an_evaluation_moves_memory_too() -> None:
    """Where products and calls take no time, a judged token takes its forward half's share of a trained one's."""
    device = replace(CPU, flops_per_second=1e18, call_seconds=0.0)
    rows = {"rows": 64, "length": 64}
    judged = run_cost(TINY, LoRA(rank=4), device, steps=0, eval_tokens=64 * 64, **rows).seconds
    assert judged == pytest.approx(run_cost(TINY, LoRA(rank=4), device, steps=1, **rows).seconds / 3, rel=0.05)


def test_activation_checkpointing_computes_the_forward_pass_again() -> None:
    device = replace(find_hardware("H100"), bytes_per_second=1e18, call_seconds=0.0)
    plain, again = (
        run_cost(LARGE, FullFT(), device, rows=4, steps=1, length=512, checkpoint_activations=flag).step_seconds
        for flag in (False, True)
    )
    assert again / plain == pytest.approx(4 / 3, rel=0.01)


def test_a_given_price_beats_the_catalogue_and_none_gives_no_money() -> None:
    device = find_hardware("H100 SXM")
    assert device.price_per_hour is not None
    listed = run_cost(LARGE, LoRA(rank=16), device, rows=4, steps=10, length=512)
    given = run_cost(
        LARGE, LoRA(rank=16), device, rows=4, steps=10, length=512, price_per_hour=2 * device.price_per_hour
    )
    assert listed.money == pytest.approx(listed.seconds * device.price_per_hour / 3600)
    assert given.money == pytest.approx(2 * listed.money)  # type: ignore[operator]
    assert run_cost(TINY, LoRA(rank=16), CPU, rows=4, steps=10, length=64).money is None


def test_a_pack_gains_much_for_a_small_base_and_next_to_nothing_for_a_large_one() -> None:
    """The post's own kind of base fills a device with one trial; products cannot be shared."""
    small, large = (packing_gain(shapes, LoRA(rank=16), CPU, rows=1, length=32) for shapes in (TINY, LARGE))
    assert 1.2 < small <= 3
    assert 1 <= large < 1.05


def test_a_study_is_a_search_and_the_other_seeds_of_each_method() -> None:
    lora, full = RunCost(1.0, 100.0, 1.0), RunCost(1.5, 150.0, 1.5)
    one, three = (study_cost(lora, full, seeds=seeds) for seeds in (1, 3))
    assert three.trials - one.trials == 4
    assert three.seconds - one.seconds == pytest.approx(2 * (100 + 150))
    assert three.money == pytest.approx(three.seconds / 100)
    packed = study_cost(lora, full, packing=2.0)
    assert one.seconds < packed.seconds < three.seconds
    assert study_cost(replace(lora, money=None), full).money is None


def test_a_shared_prompt_takes_less_time_in_steps_and_none_less_in_evaluations() -> None:
    def run(shared: SharedPrefix, eval_tokens: float = 0.0) -> RunCost:
        return run_cost(
            LARGE, LoRA(rank=16), CPU, rows=8, steps=1, length=100, supervised_share=0.2, shared=shared,
            eval_tokens=eval_tokens,
        )  # fmt: skip

    alone, shared = SharedPrefix(80, 1), SharedPrefix(80, 8)
    assert run(shared).step_seconds == pytest.approx(run(alone).step_seconds * 240 / 800, rel=0.05)
    judged = [run(found, 1e5).seconds - run(found).seconds for found in (alone, shared)]
    assert judged[0] == pytest.approx(judged[1])


def test_a_gpu_is_given_its_operations_while_it_works() -> None:
    """The longer of the two, where a CPU does one after the other."""
    device = replace(find_hardware("H100 SXM"), call_seconds=0.0)
    run = {"rows": 1, "steps": 1, "length": 64}
    work = run_cost(TINY, LoRA(rank=16), device, **run).step_seconds
    calls = run_cost(TINY, LoRA(rank=16), find_hardware("H100 SXM"), **run).step_seconds
    assert calls > 2 * work
    assert run_cost(LARGE, LoRA(rank=16), find_hardware("H100 SXM"), rows=8, steps=1, length=512).step_seconds == (
        run_cost(LARGE, LoRA(rank=16), device, rows=8, steps=1, length=512).step_seconds
    )


def test_few_tokens_take_the_time_to_read_the_weights() -> None:
    device = replace(find_hardware("H100 SXM"), call_seconds=0.0)
    one, eight = (run_cost(LARGE, LoRA(rank=4), device, rows=n, steps=1, length=8).step_seconds for n in (1, 8))
    assert one > 2 * 2 * 7.5e9 / device.bytes_per_second
    assert eight < 1.5 * one


def test_each_adapted_matrix_moves_its_inputs_and_outputs_on_a_gpu() -> None:
    """Twice the matrices of like shape take twice as much beside their base; a CPU's figures hold that already."""
    device = replace(find_hardware("L40S"), flops_per_second=1e18, call_seconds=0.0)

    def step(targets: str, trainer: Trainer = ENGINE) -> float:
        return run_cost(
            LARGE, LoRA(rank=4, targets=(targets,)), device, rows=8, steps=1, length=512, trainer=trainer
        ).step_seconds

    def adapters(targets: str) -> float:
        return step(targets) - step(targets, replace(ENGINE, adapter_in=0.0, adapter_out=0.0))

    assert adapters("re:(gate|up)_proj") == pytest.approx(2 * adapters("re:up_proj"))
    assert adapters("re:up_proj") == pytest.approx(8 * 4096 * 32 * (4096 + 14336) / device.bytes_per_second)
    narrow, wide = (
        run_cost(LARGE, LoRA(rank=4), CPU, rows=1, steps=1, length=64, trainer=trainer)
        for trainer in (ENGINE, replace(ENGINE, adapter_in=99.0))
    )
    assert narrow == wide


def test_calls_go_by_layers_and_adapted_matrices() -> None:
    device = replace(CPU, flops_per_second=1e18, bytes_per_second=1e18, call_seconds=1e-3)
    run = {"rows": 1, "steps": 1, "length": 8}
    full, query, linear = (
        run_cost(TINY, method, device, **run).step_seconds / 1e-3
        for method in (FullFT(), LoRA(rank=4, targets=("re:q_proj",)), LoRA(rank=4, targets=("linear",)))
    )
    assert full == pytest.approx(120 * TINY.layers, rel=1e-3)
    assert query - full == pytest.approx(150 / 7 * TINY.layers, rel=1e-3)
    assert linear - full == pytest.approx(7 * (query - full), rel=1e-3)


def test_another_trainer_moves_other_bytes_in_full_fine_tuning() -> None:
    device = find_hardware("L40S")
    run = {"rows": 1, "steps": 1, "length": 64}
    ours = run_cost(LARGE, FullFT(), device, **run).step_seconds
    passes = run_cost(LARGE, FullFT(), device, **run, trainer=replace(ENGINE, extra_passes=3)).step_seconds
    assert passes - ours == pytest.approx(2 * 4 * LARGE.total / device.bytes_per_second)
    # Half the bytes of eight passes, and nothing to cast.
    half = run_cost(LARGE, FullFT(), device, **run, trainer=replace(ENGINE, full_bytes=2)).step_seconds
    cast = 2 * 6 * sum(count for kind, count in LARGE.by_kind().items() if kind in ("attention", "mlp", "unembedding"))
    assert ours - half == pytest.approx((16 * LARGE.total + cast) / device.bytes_per_second)


def test_a_tied_unembedding_that_stays_in_float32_is_cast_twice_a_pass() -> None:
    device, tied = find_hardware("L40S"), find_model("Llama-3.2-3B")

    def step(trainer: Trainer) -> float:
        return run_cost(tied, LoRA(rank=4), device, rows=4, steps=1, length=256, trainer=trainer).step_seconds

    cast = 2 * 6 * tied.vocabulary * tied.hidden_size / device.bytes_per_second
    assert step(ENGINE) - step(replace(ENGINE, frozen_float32=False)) == pytest.approx(cast)

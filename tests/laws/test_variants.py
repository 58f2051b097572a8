"""The variants of LoRA keep the laws of LoRA: beside others, cut into passes, saved, merged and resumed."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import collate, passes
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.export.merge import merge
from lowregret.export.peft import export_policy, load_adapter
from lowregret.lora.init import INITIALISATIONS
from lowregret.spec import LoRA

EVERYTHING = ("attention", "mlp", "unembedding")
MIXED = {
    "rslora": LoRA(rank=4, alpha=8, targets=EVERYTHING, scaling="alpha/sqrt(r)"),
    "lora+": LoRA(rank=4, alpha=8, targets=EVERYTHING, b_rate=4),
    "scaled": LoRA(rank=4, alpha=8, targets=EVERYTHING, init_scale=0.5, a_rate=2, b_rate=0.25),
    "all at once": LoRA(
        rank=4, alpha=8, targets=EVERYTHING, init="pissa", scaling="alpha/sqrt(r)", b_rate=4, dora=True
    ),
}
"""What is no entry of a registry (those have test_adapters.py), and several forms in one policy."""
STARTS: dict[str, LoRA] = {
    init: LoRA(rank=4 if entry.even_rank else 3, alpha=6, targets=EVERYTHING, init=init)  # type: ignore[arg-type]
    for init, entry in INITIALISATIONS.items()
    if init != "uniform"
}
VARIANTS = {**STARTS, "dora": LoRA(rank=4, alpha=8, targets=EVERYTHING, dora=True), **MIXED}
NEIGHBOURS = {
    "plain": LoRA(rank=4, alpha=8, targets=EVERYTHING),
    "dora dropped": LoRA(rank=4, alpha=4, targets=EVERYTHING, dora=True, dropout=0.3),
    "pissa dropped": LoRA(rank=2, alpha=4, targets=EVERYTHING, init="pissa", dropout=0.3),
}
PACK = {**VARIANTS, **NEIGHBOURS}
RATE = 5e-3
variants = pytest.mark.parametrize("variant", list(MIXED))


def engine_with(base: Any, *names: str, **options: Any) -> Engine:
    engine = Engine(base, **options)
    for name in names:
        engine.add_policy(name, PACK[name], seed=len(name))
    return engine


def train(bases: ModuleType, engine: Engine, names: list[str], steps: int, first: int = 0, **adam: Any) -> None:
    for step in range(first, first + steps):
        rows = {name: bases.examples(2 + len(name) % 3, seed=100 * step + len(name)) for name in names}
        engine.forward_backward({name: collate(own) for name, own in rows.items()})
        engine.optim_step({name: AdamParams(RATE, **adam) for name in names})


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@variants
def test_at_its_start_a_variant_is_the_base(bases: ModuleType, architecture: str, variant: str) -> None:
    """To the bit, several forms in one policy."""
    batch = collate(bases.examples(5))
    engine = Engine(bases.small_base(architecture))
    bare = engine.forward({"base": batch})["base"].logprobs
    engine.add_policy("lora", VARIANTS[variant])
    started = engine.forward({"lora": batch})["lora"].logprobs
    trained = engine.forward_backward({"lora": batch})["lora"].logprobs
    assert torch.equal(started, bare)
    assert torch.equal(trained, bare)


def test_dropout_leaves_the_start_as_it_is(bases: ModuleType) -> None:
    """What is dropped is the update, and of a residual init there is none yet."""
    batch = collate(bases.examples(5))
    engine = Engine(bases.small_base("llama"))
    bare = engine.forward({"base": batch})["base"].logprobs
    for name in ("dora dropped", "pissa dropped"):
        engine.add_policy(name, NEIGHBOURS[name])
        assert torch.equal(engine.forward_backward({name: batch})[name].logprobs, bare), name


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_a_packed_variant_equals_the_same_alone(bases: ModuleType, architecture: str) -> None:
    """All in one pass, dropout and plain neighbours among them, against each on an engine of its own."""
    pack = engine_with(bases.double_base(architecture), *PACK)
    start = {name: flat(pack.policies[name].weights.values()).clone() for name in PACK}
    train(bases, pack, list(PACK), 6)
    for name in PACK:
        alone = engine_with(bases.double_base(architecture), name)
        train(bases, alone, [name], 6)
        mine, its = (flat(engine.policies[name].weights.values()) for engine in (pack, alone))
        assert bases.distance(start[name], its) > 1e-3, f"{name} was not trained"
        assert bases.distance(mine, its) < 1e-7, f"{architecture} {name}"


@pytest.mark.parametrize("sick", [*STARTS, "dora", "all at once", "lora+"])
def test_a_nan_in_a_variant_leaves_its_neighbours_untouched(bases: ModuleType, sick: str) -> None:
    healthy, ill = (engine_with(bases.small_base("llama"), *PACK) for _ in range(2))
    with torch.no_grad():
        for weight in ill.policies[sick].weights.values():
            weight.fill_(math.nan)
    for engine in (healthy, ill):
        train(bases, engine, list(PACK), 2)
    for name in PACK:
        if name != sick:
            left, right = (bases.weights(engine.policies[name]) for engine in (healthy, ill))
            assert bases.same(left, right), name


def test_variants_leave_the_base_and_who_is_not_named_as_they_were(bases: ModuleType) -> None:
    engine = engine_with(bases.small_base("qwen3"), *PACK)
    before = {name: parameter.clone() for name, parameter in engine.model.named_parameters()}
    waiting = bases.weights(engine.policies["dora"]) | bases.weights(engine.policies["pissa"])
    named = [name for name in PACK if name not in ("dora", "pissa")]
    train(bases, engine, named, 2, weight_decay=0.1)
    assert bases.same(dict(engine.model.named_parameters()), before)
    assert bases.same(bases.weights(engine.policies["dora"]) | bases.weights(engine.policies["pissa"]), waiting)


def test_members_come_and_go_and_a_variant_does_not_notice(bases: ModuleType) -> None:
    """Views of weights, of their start and of each factor's own numbers follow the bank."""
    stays = ["all at once", "scaled"]
    busy = Engine(bases.small_base("llama"))
    busy.add_policy("early", LoRA(rank=4, targets=EVERYTHING, init="olora", dora=True))  # of one form, of another start
    busy.add_policy("early too", PACK["scaled"], seed=1)
    for name in stays:
        busy.add_policy(name, PACK[name], seed=len(name))
    quiet = engine_with(bases.small_base("llama"), *stays)
    train(bases, busy, [*stays], 2)
    busy.remove_policy("early")
    busy.remove_policy("early too")
    train(bases, busy, stays, 2, first=2)
    busy.add_policy("late", PACK["all at once"], seed=2)
    train(bases, busy, stays, 2, first=4)
    train(bases, quiet, stays, 6)
    for name in stays:
        mine, its = (flat(engine.policies[name].weights.values()) for engine in (busy, quiet))
        assert bases.distance(mine, its) < 1e-5, name


@variants
def test_merged_equals_unmerged(bases: ModuleType, architecture: str, variant: str) -> None:
    engine, batch = engine_with(bases.small_base(architecture), variant), collate(bases.examples(5))
    before = engine.forward({"base": batch})["base"].logprobs
    train(bases, engine, [variant], 4)
    beside = engine.forward({variant: batch})[variant].logprobs
    assert bases.distance(beside, before) > 1e-3, "the adapter does nothing, so this test says nothing"
    merge(engine, variant)
    assert bases.distance(engine.forward({"base": batch})["base"].logprobs, beside) < 1e-5


@pytest.mark.parametrize("name", list(PACK))
def test_resumed_equals_uninterrupted(bases: ModuleType, name: str, tmp_path: Path) -> None:
    """To the bit, and though the start was found with other rounding this time."""
    whole = engine_with(bases.small_base("llama"), name)
    train(bases, whole, [name], 3)
    whole.save(name, tmp_path / "state.safetensors")
    resumed = Engine(bases.small_base("llama"))
    resumed.add_policy("passing", PACK[name])
    policy: Any = resumed.add_policy(name, PACK[name], seed=len(name))
    resumed.remove_policy("passing")
    if policy.bank.initial is not None:
        policy.bank.initial.mul_(1 + 1e-6)
    resumed.load(name, tmp_path / "state.safetensors")
    for engine in (whole, resumed):
        train(bases, engine, [name], 3, first=3)
    assert bases.same(bases.weights(resumed.policies[name]), bases.weights(whole.policies[name]))


@variants
def test_an_exported_variant_is_read_back(bases: ModuleType, architecture: str, variant: str, tmp_path: Path) -> None:
    """A residual start as the plain LoRA of twice the rank that it amounts to."""
    engine, batch = engine_with(bases.small_base(architecture), variant), collate(bases.examples(5))
    train(bases, engine, [variant], 4)
    export_policy(engine, variant, tmp_path / "adapter")
    fresh = Engine(bases.small_base(architecture))
    again = load_adapter(fresh, "again", tmp_path / "adapter")
    method = VARIANTS[variant]
    assert again.method.init == "uniform"
    assert again.method.rank == (2 * method.rank if method.residual else method.rank)
    assert (again.method.dora, again.method.scaling) == (method.dora, method.scaling)
    assert again.method.scale == pytest.approx(method.scale, rel=1e-12)
    found = fresh.forward({"again": batch})["again"].logprobs
    assert bases.distance(found, engine.forward({variant: batch})[variant].logprobs) < 1e-6


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["plain", "dora", "dora dropped", "pissa dropped", "all at once"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
def test_no_way_through_the_engine_changes_the_gradients(bases: ModuleType, name: str, architecture: str) -> None:
    """In one pass, in several, with padding, with the base's own unembedding, with checkpointed activations."""
    batch = {name: collate(bases.examples(7, seed=1, longest=20))}
    ways: list[tuple[dict[str, Any], bool, bool, int | None]] = [
        ({}, True, True, None),
        ({}, True, True, 30),
        ({}, False, True, None),
        ({}, True, False, None),
        ({"checkpoint_activations": True}, True, True, None),
    ]
    gradients = []
    for options, padding_free, chunked, limit in ways:
        engine = Engine(bases.double_base(architecture), **options)
        engine.padding_free = padding_free
        engine._unembedding.chunked = chunked
        policy = engine.add_policy(name, PACK[name], seed=1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in policy.weights.values():
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
        for part in passes(batch, limit):
            engine.forward_backward(part)
        gradients.append({key: weight.grad.clone() for key, weight in policy.weights.items()})
    for way, other in zip(ways[1:], gradients[1:], strict=True):
        tolerance = 1e-9 if way[2] else 1e-6  # the softmax of the base's own logits is taken in float32
        for key, gradient in gradients[0].items():
            assert gradient.any(), key
            assert bases.distance(other[key], gradient) < tolerance, (key, way)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", list(PACK))
def test_gradients_are_the_slopes_of_the_loss(bases: ModuleType, name: str) -> None:
    """Of A, B and magnitudes, by differences in float64; DoRA's norm counts as a constant, so it is held."""
    engine = engine_with(bases.double_base("gpt2"), name)
    batch, policy = {name: collate(bases.examples(5, seed=2))}, engine.policies[name]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    with engine._routing.unchanging():
        engine.forward_backward(batch)
        slopes = {key: weight.grad.clone() for key, weight in policy.weights.items()}
        for key, weight in policy.weights.items():
            direction = torch.randn(weight.shape, generator=generator)
            losses = []
            for step in (1e-5, -2e-5):
                with torch.no_grad():
                    weight += step * direction
                losses.append(float(engine.forward_backward(batch)[name].loss))
            with torch.no_grad():
                weight += 1e-5 * direction
            expected = (losses[0] - losses[1]) / 2e-5
            assert float((slopes[key] * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-8), key


@pytest.mark.parametrize("name", [*STARTS, "dora", "all at once"])
def test_what_is_sampled_is_what_the_policy_says(bases: ModuleType, name: str) -> None:
    """And norms that are kept while sampling are forgotten when the weights move."""
    engine = engine_with(bases.small_base("llama"), name, "plain")
    prompts = [[5, 6, 7], [9, 8]]
    for first in (0, 3):
        train(bases, engine, [name], 3, first=first)
        found = engine.sample({name: prompts, "plain": prompts}, SamplingParams(max_tokens=6))[name]
        for prompt, completion in zip(prompts, found, strict=True):
            ids = [*prompt, *completion.token_ids]
            row = bases.Example(tuple(ids), (False,) * len(prompt) + (True,) * len(completion.token_ids))
            logprobs = engine.forward({name: collate([row])})[name].logprobs
            torch.testing.assert_close(logprobs, torch.tensor(completion.logprobs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*(init for init in STARTS if INITIALISATIONS[init].exact), "dora", "all at once"])
def test_bfloat16_products_change_little(bases: ModuleType, name: str) -> None:
    """A residual start is its change: the base's part is not taken off and added again in eight bits."""
    batch = collate(bases.examples(8))
    exact = Engine(bases.small_base("llama"))
    rounded = Engine(bases.small_base("llama"), precision="bfloat16")
    error = []
    for engine in (exact, rounded):
        engine.add_policy(name, PACK[name], seed=1)
    assert torch.equal(rounded.forward({name: batch})[name].logprobs, rounded.forward({"base": batch})["base"].logprobs)
    train(bases, exact, [name], 3)
    state = bases.weights(exact.policies[name])
    with torch.no_grad():
        for key, weight in rounded.policies[name].weights.items():
            weight.copy_(state[key])
        for key, weight in rounded.policies[name].initial.items():
            weight.copy_(exact.policies[name].initial[key])
    error = [
        bases.distance(rounded.forward({own: batch})[own].logprobs, exact.forward({own: batch})[own].logprobs)
        for own in (name, "base")
    ]
    assert error[0] < 3 * error[1] + 0.02


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("p", "q"), [(2.0, 0.5), (0.3, 7.0), (3.0, 3.0)])
def test_two_of_the_four_scales_are_a_matter_of_convention(bases: ModuleType, p: float, q: float) -> None:
    """SCIENCE 3.10: alpha / (pq), p · A, rates p and q train the same model, for an epsilon of nothing."""
    curves = []
    for method in (
        LoRA(rank=4, alpha=8, targets=EVERYTHING),
        LoRA(rank=4, alpha=8 / (p * q), targets=EVERYTHING, init_scale=p, a_rate=p, b_rate=q),
        LoRA(rank=4, alpha=8 / (p * q), targets=EVERYTHING, init_scale=p, a_rate=p, b_rate=2 * q),
        LoRA(rank=4, alpha=8 / (p * q), targets=EVERYTHING, init_scale=2 * p, a_rate=p, b_rate=q / 2),
    ):
        engine, found = Engine(bases.double_base("qwen3")), collate(bases.examples(8))
        engine.add_policy("lora", method, seed=5)
        losses = []
        for _ in range(12):
            losses.append(float(engine.forward_backward({"lora": found})["lora"].loss))
            engine.optim_step({"lora": AdamParams(0.01, eps=1e-150)})
        curves.append(losses)
    plain, same, steeper, slower = curves
    assert plain[-1] < plain[0] - 0.1
    assert same == pytest.approx(plain, abs=1e-9)
    # Both invariants matter: the first slope, alpha · init · rate of B, and init over rate of A at the same slope.
    assert abs(steeper[1] - plain[1]) > 1e-3
    assert slower[1] == pytest.approx(plain[1], abs=1e-9)
    assert max(abs(a - b) for a, b in zip(slower, plain, strict=True)) > 1e-3


def test_an_epsilon_scaled_by_one_over_p_keeps_the_invariance(bases: ModuleType) -> None:
    """Gradients of A scale by 1/p and those of B by 1/q; with p = q one epsilon serves both. Powers of two: exact."""
    finals = []
    for p in (1.0, 2.0):
        method = LoRA(rank=4, alpha=4 / p**2, targets=EVERYTHING, init_scale=p, a_rate=p, b_rate=p)
        engine, found = Engine(bases.small_base("qwen3")), collate(bases.examples(8))
        policy = engine.add_policy("lora", method)
        for _ in range(8):
            engine.forward_backward({"lora": found})
            engine.optim_step({"lora": AdamParams(0.02, eps=1e-6 / p)})
        finals.append({key: weight / p for key, weight in bases.weights(policy).items()})
    assert bases.same(*finals)


def test_rates_of_their_own_are_rates(bases: ModuleType) -> None:
    """LoRA+ of 1 is LoRA; of r, the first step of B is r times as long, and that of A as long as ever."""
    found = collate(bases.examples(4))
    moved = {}
    for rate in (1.0, 8.0):
        engine = Engine(bases.small_base("llama"))
        policy = engine.add_policy("lora", LoRA(rank=4, b_rate=rate))
        engine.forward_backward({"lora": found})
        engine.optim_step({"lora": AdamParams(1e-3)})
        moved[rate] = bases.weights(policy)
    for key, weight in moved[1.0].items():
        if key.endswith("lora_B"):
            torch.testing.assert_close(moved[8.0][key], 8 * weight)
        else:
            assert torch.equal(moved[8.0][key], weight)


def test_what_was_found_in_the_base_is_not_looked_for_again(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By policies alike, at whatever rate and however far trained; but anew when the base is another."""
    calls: list[int] = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    engine = engine_with(bases.small_base("llama"), "pissa")
    first = bases.weights(engine.policies["pissa"])
    once = len(calls)
    train(bases, engine, ["pissa"], 2)
    again = engine.add_policy("again", PACK["pissa"].model_copy(update={"b_rate": 4.0}), seed=9)
    assert len(calls) == once > 0
    assert bases.same(bases.weights(again), first)
    engine.add_policy("other", PACK["pissa"].model_copy(update={"alpha": 4.0}))
    assert len(calls) == 2 * once
    merge(engine, "again")
    assert len(calls) == 2 * once
    merge(engine, "pissa")
    engine.add_policy("new", PACK["pissa"])
    assert len(calls) == 3 * once


def test_a_pissa_holds_the_largest_part_of_the_base(bases: ModuleType) -> None:
    """Rank by rank: what is left of W has the other singular values; and a rank above W's is filled with zeros."""
    engine = Engine(bases.small_base("llama"))
    policy: Any = engine.add_policy("lora", LoRA(rank=20, alpha=40, init="pissa"))
    for name, adapter in policy.adapters.items():
        weight = engine.model.get_submodule(name).matrix
        values = torch.linalg.svdvals(weight)
        left = weight - adapter.scale * adapter.b @ adapter.a
        expected = torch.cat([values[20:], torch.zeros(min(20, len(values)))])
        # Bound as tests/unit/lora/test_init.py derives it.
        eps, size, rank = torch.finfo(weight.dtype).eps, max(weight.shape), min(20, len(values))
        bound = float(eps * (6 * size * values[0] + (rank / 2 + 3) * values[:rank].sum()))
        torch.testing.assert_close(torch.linalg.svdvals(left.detach()), expected, rtol=0, atol=bound)

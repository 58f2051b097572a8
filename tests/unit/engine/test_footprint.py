"""What a pass keeps is predicted from a probe, and a probe leaves no trace."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lowregret.data.batches import Batch, collate, passes
from lowregret.data.example import Example
from lowregret.engine import Engine, footprint
from lowregret.engine.footprint import CPU_PASS_TOKENS, bytes_per_token, default_budget, device_memory, max_tokens
from lowregret.engine.forward.checkpointing import checkpoint_layers
from lowregret.spec import FullFT, LoRA

METHODS = [LoRA(rank=4), LoRA(rank=16, dropout=0.1, targets=("attention", "mlp", "unembedding")), FullFT()]


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def engine(request: pytest.FixtureRequest, bases: ModuleType, architecture: str) -> Engine:
    engine = Engine(bases.small_base(architecture))
    engine.add_policy("policy", request.param)
    return engine


def kept_by_a_real_pass(engine: Engine, batch: Batch) -> int:
    """Bytes of the storages saved by a forward pass that a backward pass follows, weights left out."""
    weights = [*engine.model.parameters(), *engine.model.buffers(), *engine.policies["policy"].weights.values()]
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        engine.forward_backward({"policy": batch})
    return sum(kept.values())


def growth(bases: ModuleType, engine: Engine) -> float:
    """Bytes for each further token of a real pass: 24 rows of about 20 tokens against 8, logits of one position each (a
    chunk of them is kept on top, however many tokens there are)."""
    found = bases.examples(8, shortest=18, longest=24)
    few = [Example(one.token_ids, (False,) * (len(one.token_ids) - 1) + (True,)) for one in found]
    small, large = collate(few), collate(few * 3)
    gained = kept_by_a_real_pass(engine, large) - kept_by_a_real_pass(engine, small)
    return gained / (large.tokens - small.tokens)


def test_the_prediction_is_near_the_growth_of_a_real_pass(bases: ModuleType, engine: Engine) -> None:
    assert bytes_per_token(engine, ["policy"], 20) == pytest.approx(growth(bases, engine), rel=0.25)


def test_with_checkpointing_it_is_the_inputs_of_the_layers_and_one_layer_in_full(
    bases: ModuleType, engine: Engine
) -> None:
    plain, layers = growth(bases, engine), engine.model.config.num_hidden_layers
    checkpoint_layers(engine.model)
    inputs = growth(bases, engine)
    expected = inputs + (plain - inputs) / layers
    predicted = bytes_per_token(engine, ["policy"], 20)
    assert predicted == pytest.approx(expected, rel=0.25)
    assert predicted < 0.75 * plain
    assert growth(bases, engine) == inputs, "the probe left a layer without its checkpoint"


def test_a_probe_leaves_no_trace_and_repeats(bases: ModuleType, engine: Engine) -> None:
    batch = collate(bases.examples(4))
    fresh = bytes_per_token(engine, ["policy"])
    policy = engine.policies["policy"]
    engine.forward_backward({"policy": batch})
    before = {name: (weight.clone(), weight.grad.clone()) for name, weight in policy.weights.items()}
    state, passed = {name: value.clone() for name, value in policy.optimizer.state().items()}, policy.steps
    assert bytes_per_token(engine, ["policy"]) == fresh
    for name, weight in policy.weights.items():
        assert torch.equal(weight, before[name][0])
        assert torch.equal(weight.grad, before[name][1])
    assert bases.same(policy.optimizer.state(), state)
    assert policy.steps == passed


def test_of_several_policies_the_hungriest_counts(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    engine.add_policy("small", LoRA(rank=1))
    engine.add_policy("large", LoRA(rank=64))
    small, large = (bytes_per_token(engine, [name]) for name in ("small", "large"))
    assert small < large == bytes_per_token(engine, ["large", "small"])


def test_passes_of_so_many_tokens_keep_to_the_budget(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    bases.adapted(engine, "policy")
    batch, budget = collate(bases.examples(40, longest=30)), 300_000
    whole = kept_by_a_real_pass(engine, batch)
    assert whole > 2 * budget
    cut = passes({"policy": batch}, max_tokens(engine, ["policy"], budget))
    kept = [kept_by_a_real_pass(engine, part["policy"]) for part in cut]
    assert max(kept) < 1.25 * budget
    assert len(kept) <= whole / budget + 2, "far more passes than needed"


def test_a_pass_has_a_token_and_on_a_cpu_no_more_than_pay(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"), device="cpu")
    engine.add_policy("policy", LoRA(rank=4))
    assert max_tokens(engine, ["policy"], 0) == 1
    assert max_tokens(engine, ["policy"], 10**15) == CPU_PASS_TOKENS
    assert max_tokens(engine, ["policy"]) == CPU_PASS_TOKENS
    assert max_tokens(engine, ["policy"], 10 * bytes_per_token(engine, ["policy"])) == 10


def test_the_default_budget_is_what_weights_gradients_and_moments_leave(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    share = footprint.ACTIVATION_SHARE
    base = sum(parameter.numel() for parameter in engine.model.parameters()) * 4
    assert default_budget(engine) == int(share * (device_memory(engine.device) - base))
    lora = engine.add_policy("policy", LoRA(rank=4)).trainable_parameters
    assert default_budget(engine) == int(share * (device_memory(engine.device) - base - 16 * lora))
    engine.remove_policy("policy")
    engine.add_policy("policy", FullFT())
    assert default_budget(engine) == int(share * (device_memory(engine.device) - 4 * base))


@pytest.mark.parametrize(("in_backward", "each"), [(False, 6), (True, 4)])
def test_narrow_weights_leave_more(bases: ModuleType, in_backward: bool, each: int) -> None:
    """Matrices alone, whose scales are one in 256, or one of a small weight; vectors stay float32."""
    engine = Engine(bases.small_base("llama"), precision="bfloat16")
    policy = engine.add_policy("policy", FullFT(optimizer="bf16", in_backward=in_backward))
    matrices = [weight for weight in policy.weights.values() if weight.ndim >= 2]
    vectors = sum(weight.numel() for weight in policy.weights.values() if weight.ndim < 2)
    scales = 2 * 4 * sum(-(-weight.numel() // 256) for weight in matrices)
    stays = each * sum(weight.numel() for weight in matrices) + scales + (12 if in_backward else 16) * vectors
    assert policy.trained_bytes == 2 * sum(weight.numel() for weight in matrices) + 4 * vectors
    share = footprint.ACTIVATION_SHARE
    assert default_budget(engine) == int(share * (device_memory(engine.device) - stays))


@pytest.mark.parametrize(("limit", "found"), [("1000000\n", 1_000_000), ("max\n", None), ("9" * 30, None)])
def test_a_control_group_may_have_less_than_the_machine(
    limit: str, found: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "_CGROUP_LIMITS", (tmp_path / "nowhere",))
    machine = device_memory(torch.device("cpu"))
    assert machine > 2**28
    (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(footprint, "_CGROUP_LIMITS", (tmp_path / "nowhere", tmp_path / "limit"))
    assert device_memory(torch.device("cpu")) == (found or machine)

"""Layers computed twice: the same gradients to the bit, and far less kept in between."""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.engine.forward.checkpointing import checkpoint_layers, decoder_layers
from lowregret.errors import ModelError
from lowregret.spec import FullFT, LoRA


def put_on(bases: ModuleType, engine: Engine, method: FullFT | LoRA) -> None:
    if isinstance(method, LoRA):
        engine.add_policy("other", LoRA(rank=2, dropout=0.5), seed=1)
    policy = engine.add_policy("policy", method)
    if isinstance(method, LoRA):  # B not zero, so that A has a gradient
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for adapter in policy.adapters.values():
                adapter.b.copy_(0.3 * torch.randn(adapter.b.shape, generator=generator))


def trained(bases: ModuleType, engine: Engine) -> tuple[dict[str, torch.Tensor], int]:
    """Every policy's weights after two steps of two passes, and the bytes saved in the first pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batches = [{name: collate(bases.examples(5, seed)) for name in engine.policies} for seed in range(4)]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        engine.forward_backward(batches[0])
    engine.forward_backward(batches[1])
    for batch in batches[2:]:
        engine.optim_step(dict.fromkeys(engine.policies, AdamParams(1e-2)))
        engine.forward_backward(batch)
    found = {}
    for name, policy in engine.policies.items():
        for key, weight in policy.weights.items():
            found |= {f"{name}/{key}": weight.detach().clone(), f"{name}/{key}/gradient": weight.grad.clone()}
    return found, sum(kept.values())


@pytest.mark.parametrize(
    "method",
    [LoRA(rank=3, targets=("attention", "mlp", "unembedding")), LoRA(rank=4, dropout=0.2), FullFT()],
    ids=lambda method: method.name,
)
def test_training_is_the_same_to_the_bit_and_keeps_less(
    bases: ModuleType, architecture: str, method: FullFT | LoRA
) -> None:
    plain, checkpointed = Engine(bases.small_base(architecture)), Engine(bases.small_base(architecture))
    checkpoint_layers(checkpointed.model)
    for engine in (plain, checkpointed):
        put_on(bases, engine, method)
    expected, most = trained(bases, plain)
    found, least = trained(bases, checkpointed)
    assert bases.same(found, expected)
    assert least < 0.6 * most


def test_the_bases_own_dropout_stays_off(bases: ModuleType) -> None:
    """OPT drops out in its layers whenever they are said to be training."""
    engine = Engine(bases.small_base("opt"))
    assert engine.model.config.dropout > 0
    checkpoint_layers(engine.model)
    assert not any(module.training for module in engine.model.modules())


def test_evaluation_and_sampling_are_not_touched(bases: ModuleType, architecture: str) -> None:
    base = bases.small_base(architecture)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = base.model(ids, use_cache=True)
        checkpoint_layers(base.model)
        found = base.model(ids, use_cache=True)
    assert torch.equal(found.logits, expected.logits)
    assert found.past_key_values.get_seq_length() == 4


def test_a_copy_of_a_checkpointed_model_computes_with_its_own_layers(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    checkpoint_layers(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in decoder_layers(copied)[0].parameters():
            parameter.zero_()
    ids = torch.tensor([[3, 4, 5]])
    assert not torch.equal(copied(ids).logits, model(ids).logits)


def test_a_base_without_known_layers_is_refused(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="checkpoint_activations"):
        checkpoint_layers(model)

"""The load-balancing loss is the base's own, the same for both methods, and off unless asked for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.spec import FullFT, LoRA

BALANCED = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe"]


@pytest.mark.parametrize("architecture", BALANCED)
def test_gradients_are_those_of_transformers_own_loss(bases: ModuleType, architecture: str) -> None:
    """Rows of one length, because transformers counts padding unless it is masked."""
    found = bases.examples(5, shortest=8, longest=8)
    base = bases.small_base(architecture)
    base.model.config.router_aux_loss_coef = base.model.router_aux_loss_coef = 0.5
    reference = bases.copied(base)
    ids, _, labels = bases.padded(found)
    # The last token of a row predicts nothing: our engine leaves it out, and so does this.
    logits = reference(input_ids=ids[:, :-1], output_router_logits=True)
    nll = torch.nn.functional.cross_entropy(logits.logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    last = max(int(torch.where(row != -100)[0].max()) for row in labels)
    if last < ids.shape[1] - 1:
        pytest.fail("the last position must be supervised in some row for the tokens to be the same")
    (nll + 0.5 * logits.aux_loss).backward()
    engine = Engine(base, balance_experts=True)
    engine.padding_free = False  # all tokens of the rectangle, as above
    engine.add_policy("full", FullFT())
    result = engine.forward_backward({"full": collate(found)})["full"]
    assert float(result.loss) == pytest.approx(nll.item(), abs=1e-5), "what is reported is without it"
    own = dict(reference.named_parameters())
    for name, weight in engine.policies["full"].weights.items():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, own[name].grad, rtol=1e-4, atol=1e-5)


def test_in_a_pack_each_policy_has_its_own(bases: ModuleType) -> None:
    batches = {name: collate(bases.examples(4, seed)) for seed, name in enumerate("ab")}

    def gradients(names: str) -> dict[str, Any]:
        base = bases.small_base("qwen3_moe")
        base.model.config.router_aux_loss_coef = 1.0
        engine = Engine(base, balance_experts=True)
        for seed, name in enumerate("ab"):
            if name in names:
                bases.stir(engine.add_policy(name, LoRA(rank=4, targets=("attention", "mlp", "router")), seed), seed)
        engine.forward_backward({name: batches[name] for name in names})
        policies = engine.policies
        return {name: {key: w.grad.clone() for key, w in policies[name].weights.items()} for name in names}  # type: ignore[union-attr]

    together = gradients("ab")
    for name in "ab":
        for key, gradient in gradients(name)[name].items():
            torch.testing.assert_close(together[name][key], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "deepseek_v3"])
def test_a_base_without_one_is_refused(bases: ModuleType, architecture: str) -> None:
    with pytest.raises(ModelError, match="defines no load-balancing loss"):
        Engine(bases.small_base(architecture), balance_experts=True)

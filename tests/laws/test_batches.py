"""What a loss is must not depend on how rows come together: in batches, pieces, groups or padding."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import pytest
import torch

from lowregret.data.batches import collate, passes
from lowregret.engine import Engine
from lowregret.spec import FullFT, LoRA

EVERYTHING = ("attention", "mlp", "unembedding")


def gradients(engine: Engine, pieces: list) -> dict[str, torch.Tensor]:
    for piece in pieces:
        engine.forward_backward({"policy": piece})
    found = {name: weight.grad for name, weight in engine.policies["policy"].weights.items()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items()}


@pytest.mark.parametrize("method", [LoRA(rank=4, targets=EVERYTHING), FullFT()], ids=lambda method: method.name)
def test_splitting_a_batch_does_not_change_the_gradient(bases: ModuleType, architecture: str, method: object) -> None:
    batch = collate(bases.examples(9))
    found = []
    for rows in (9, 1, 4):
        engine = Engine(bases.small_base(architecture))
        if isinstance(method, LoRA):
            bases.adapted(engine, "policy", rank=4)  # B not zero, so that A has a gradient
        else:
            engine.add_policy("policy", method)
        pieces = [part["policy"] for part in passes({"policy": batch}, max_rows=rows)]
        found.append(torch.cat([g.flatten() for g in gradients(engine, pieces).values()]))
    whole, *split = found
    assert all(bases.distance(gradient, whole) < 1e-6 for gradient in split)


def reference_logprobs(bases: ModuleType, model: torch.nn.Module, found: list) -> list[torch.Tensor]:
    """log p of every example's supervised tokens, from full logits with an attention mask, in the model's dtype."""
    ids, mask, labels = bases.padded(found)
    with torch.no_grad():
        logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    chosen = logprobs.gather(2, ids[:, 1:, None])[..., 0]
    return [row[keep] for row, keep in zip(chosen, labels[:, 1:] != -100, strict=True)]


def test_the_head_on_supervised_positions_equals_full_logits(bases: ModuleType, architecture: str) -> None:
    """Padded on the right without a mask, against an attention mask; whatever comes after the head (Gemma-2 caps its
    logits at 2 here) is done too."""
    base, found = bases.small_base(architecture), bases.examples(7)
    expected = torch.cat(reference_logprobs(bases, bases.copied(base), found))
    if architecture == "gemma2":
        assert base.model.config.final_logit_softcapping == 2.0
    engine = Engine(base)
    torch.testing.assert_close(engine.forward({"base": collate(found)})["base"].logprobs, expected, rtol=0, atol=1e-5)
    engine.add_policy("lora", LoRA(rank=2, targets=EVERYTHING))
    torch.testing.assert_close(engine.forward({"lora": collate(found)})["lora"].logprobs, expected, rtol=0, atol=1e-5)


def test_padding_changes_nothing_whatever_the_pad_token(bases: ModuleType, architecture: str) -> None:
    engine, found = Engine(bases.small_base(architecture)), bases.examples(6)
    alone = torch.cat([engine.forward({"base": collate([example])})["base"].logprobs for example in found])
    for pad_id in (0, 5):
        padded = engine.forward({"base": collate(found, pad_id)})["base"].logprobs
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_evaluation_equals_a_float64_reference(bases: ModuleType, architecture: str) -> None:
    base, found = bases.small_base(architecture), bases.examples(40, longest=20)
    reference = bases.copied(base).double()
    # One by one: in float64 transformers' masks make NaN of padding that a sliding window leaves without any key.
    expected = [-float(reference_logprobs(bases, reference, [example])[0].sum()) for example in found]
    nll, tokens = Engine(base).evaluate(["base"], found)["base"]
    assert tokens == [example.supervised_tokens for example in found]
    assert nll == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_evaluation_of_the_bundled_base_equals_a_float64_reference(
    bases: ModuleType, tiny: Engine, arithmetic: list
) -> None:
    reference = bases.copied(tiny.base).double()
    expected = [-float(row.sum()) for row in reference_logprobs(bases, reference, arithmetic)]
    nll, tokens = tiny.evaluate(["base"], arithmetic)["base"]
    assert [a / n for a, n in zip(nll, tokens, strict=True)] == pytest.approx(
        [e / n for e, n in zip(expected, tokens, strict=True)], abs=1e-5
    )


def test_an_example_is_judged_the_same_in_any_company(bases: ModuleType, architecture: str) -> None:
    """Alone, and in groups padded to other lengths; under a LoRA too."""
    engine, found = Engine(bases.small_base(architecture)), bases.examples(30, longest=24)
    bases.adapted(engine)
    for policy in ("base", "lora"):
        together, _ = engine.evaluate([policy], found)[policy]
        alone = list(
            itertools.chain.from_iterable(engine.evaluate([policy], [example])[policy][0] for example in found)
        )
        assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_evaluation_is_in_the_order_of_the_examples_and_repeats_to_the_bit(bases: ModuleType) -> None:
    engine, found = Engine(bases.small_base("qwen3")), bases.examples(30, longest=24)
    first = engine.evaluate(["base"], found)["base"]
    assert engine.evaluate(["base"], found)["base"] == first
    backwards = engine.evaluate(["base"], found[::-1])["base"]
    assert backwards[1] == first[1][::-1]
    assert backwards[0] == pytest.approx(first[0][::-1], rel=1e-5)


def test_losses_are_in_nats_and_the_weights_of_a_batch_sum_to_one(bases: ModuleType) -> None:
    """A base that knows nothing costs log(vocabulary)."""
    base = bases.small_base("llama")
    with torch.no_grad():
        base.model.lm_head.weight.zero_()
    result = Engine(base).forward({"base": collate(bases.examples(5))})["base"]
    assert float(result.loss) == pytest.approx(math.log(64), rel=1e-6)

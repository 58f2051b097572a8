"""The engine's own rules: names, company, devices."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.engine.device import choose_device, choose_dtype
from lowregret.engine.losses import cross_entropy, token_logprobs
from lowregret.errors import SpecError, TargetError
from lowregret.spec import FullFT, LoRA


@pytest.fixture
def engine(bases: ModuleType) -> Engine:
    return Engine(bases.small_base("llama"))


def test_a_name_is_used_once(engine: Engine) -> None:
    engine.add_policy("a", LoRA(rank=1))
    with pytest.raises(SpecError, match="'a' already"):
        engine.add_policy("a", LoRA(rank=2))
    engine.remove_policy("a")
    engine.add_policy("a", LoRA(rank=2))


def test_full_fine_tuning_is_alone(engine: Engine) -> None:
    engine.add_policy("lora", LoRA(rank=1))
    with pytest.raises(SpecError, match="only policy"):
        engine.add_policy("full", FullFT())
    engine.remove_policy("lora")
    engine.add_policy("full", FullFT())
    with pytest.raises(SpecError, match="only policy"):
        engine.add_policy("lora", LoRA(rank=1))


def test_an_unknown_target_leaves_no_policy(engine: Engine) -> None:
    with pytest.raises(TargetError):
        engine.add_policy("a", LoRA(rank=1, targets="re:nothing"))
    assert engine.policies == {}


def test_trainable_parameters(engine: Engine) -> None:
    """A linear costs rank · (d_in + d_out); FullFT all there is."""
    for targets in ("all", "linear"):
        matrices = [matrix for matrix in engine.matrices if targets == "all" or matrix.group != "unembedding"]
        policy = engine.add_policy("lora", LoRA(rank=5, targets=targets))  # type: ignore[arg-type]
        assert policy.trainable_parameters == 5 * sum(matrix.d_in + matrix.d_out for matrix in matrices)
        engine.remove_policy("lora")
    full = engine.add_policy("full", FullFT())
    assert full.trainable_parameters == sum(parameter.numel() for parameter in engine.model.parameters())


def test_a_seed_decides_the_start_of_a_policy_whatever_else_is_there(bases: ModuleType) -> None:
    alone = Engine(bases.small_base("llama")).add_policy("x", LoRA(rank=2), seed=5)
    engine = Engine(bases.small_base("llama"))
    engine.add_policy("other", LoRA(rank=3), seed=1)
    torch.manual_seed(99)
    assert bases.same(bases.weights(engine.add_policy("x", LoRA(rank=2), seed=5)), bases.weights(alone))


def test_results_carry_no_graph_and_say_which_positions(engine: Engine, bases: ModuleType) -> None:
    batch = collate(bases.examples(4))
    bases.adapted(engine, "a")
    trained = engine.forward_backward({"a": batch})["a"]
    assert not trained.loss.requires_grad
    assert not trained.logprobs.requires_grad
    assert torch.equal(trained.supervised, batch.supervised)
    assert trained.logprobs.shape == (int(batch.supervised.sum()),)
    looked = engine.forward({"a": batch})["a"]
    assert torch.equal(looked.logprobs, trained.logprobs)


def test_gradients_add_up_until_the_step(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    policy = bases.adapted(engine, "a")
    batch = collate(bases.examples(4))
    engine.forward_backward({"a": batch})
    once = {name: weight.grad.clone() for name, weight in policy.weights.items()}
    engine.forward_backward({"a": batch})
    for name, weight in policy.weights.items():
        torch.testing.assert_close(weight.grad, 2 * once[name])
    engine.optim_step({"a": AdamParams(1e-3)})
    assert not any(weight.grad.any() for weight in policy.weights.values())


def test_a_loss_of_ones_own_reaches_the_weights(bases: ModuleType) -> None:
    """(log-probabilities, weights) → scalar: twice the loss gives twice the gradient."""
    norms = []
    for factor in (1.0, 2.0):
        engine = Engine(bases.small_base("llama"))
        bases.adapted(engine, "a")
        batch = {"a": collate(bases.examples(4))}
        engine.forward_backward(batch, lambda logprobs, weights, f=factor: f * cross_entropy(logprobs, weights))
        norms.append(engine.optim_step({"a": AdamParams(1e-3)})["a"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-6)


def test_losses_are_pure_sums() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 2])
    logprobs = token_logprobs(logits, targets)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[torch.arange(5), targets])
    weights = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0])
    assert float(cross_entropy(logprobs, weights)) == pytest.approx(float(-(logprobs * weights).sum()))
    assert token_logprobs(logits.bfloat16(), targets).dtype is torch.float32


def test_bfloat16_is_the_arithmetic_and_never_the_trained_weights(bases: ModuleType) -> None:
    for method in (LoRA(rank=2), FullFT()):
        base = bases.small_base("llama")
        base.model.to(torch.bfloat16)
        engine = Engine(base, precision="bfloat16")
        policy = engine.add_policy("a", method)
        result = engine.forward_backward({"a": collate(bases.examples(4))})["a"]
        assert result.logprobs.dtype is torch.float32
        assert torch.isfinite(result.loss)
        engine.optim_step({"a": AdamParams(1e-3)})
        assert {weight.dtype for weight in policy.weights.values()} == {torch.float32}


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_dtype("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(SpecError, match=r"device 'nonsense' is not available.*Use auto, cpu or cuda:N"):
        choose_device("nonsense")


def test_saved_and_loaded_is_the_same_policy(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    policy = bases.adapted(engine, "a")
    engine.save("a", tmp_path / "a.safetensors", {"note": "kept"})
    before = bases.weights(policy)
    engine.forward_backward({"a": collate(bases.examples(4))})
    engine.optim_step({"a": AdamParams(1e-2)})
    assert not bases.same(bases.weights(policy), before)
    assert engine.load("a", tmp_path / "a.safetensors")["note"] == "kept"
    assert bases.same(bases.weights(policy), before)


def test_the_loss_taken_with_the_unembedding_is_the_same(bases: ModuleType) -> None:
    """Beside one that leaves the unembedding out, and the loss said in other words, which computes logits twice."""
    methods = {
        "a": LoRA(rank=3),
        "b": LoRA(rank=3, targets=("attention", "mlp")),
        "c": LoRA(rank=2, dora=True),
        "d": LoRA(rank=4, init="pissa"),
    }
    batch = collate(bases.examples(6))
    found = []
    for loss in (cross_entropy, lambda logprobs, weights: cross_entropy(logprobs, weights)):
        engine = Engine(bases.small_base("qwen3"))
        for name, method in methods.items():
            bases.stir(engine.add_policy(name, method))
        results = engine.forward_backward(dict.fromkeys(methods, batch), loss)
        weights = batch.weights[batch.supervised]
        for name, policy in engine.policies.items():
            assert results[name].loss.item() == pytest.approx(-(results[name].logprobs @ weights).item(), rel=1e-5)
            gradients = {weight: value.grad.clone() for weight, value in policy.weights.items()}  # type: ignore[union-attr]
            found.append((name, gradients))
    half = len(found) // 2
    for (name, one), (_, other) in zip(found[:half], found[half:], strict=True):
        for weight, gradient in one.items():
            assert gradient.abs().sum() > 0, (name, weight)
            torch.testing.assert_close(gradient, other[weight], atol=1e-6, rtol=1e-4)

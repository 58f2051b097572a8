"""Policies with losses and targets of their own in one pass: each as it is alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lowregret.data.batches import Batch
from lowregret.engine import AdamParams, Engine
from lowregret.engine.losses import LOSSES, Loss
from lowregret.engine.sampling.likely import likely_next
from lowregret.models.load import load_base, resolve
from lowregret.serve.tinker.ledger import Kept, Ledger
from lowregret.serve.tinker.operations import Operations
from lowregret.serve.tinker.passing import pass_all
from lowregret.serve.tinker.tensors import Datum, Passing
from lowregret.serve.tinker.work import Step, Task
from lowregret.spec import LoRA

METHODS = {"a": LoRA(rank=4), "b": LoRA(rank=12, targets=("attention", "mlp")), "c": LoRA(rank=12)}
PARAMS = {"a": AdamParams(1e-3), "b": AdamParams(3e-3, beta1=0.8, clip_norm=1.0), "c": AdamParams(5e-4, eps=1e-6)}
ASKED = {"a": ("cross_entropy", {}), "b": ("ppo", {"clip_high_threshold": 1.1}), "c": ("importance_sampling", {})}
EXACT = {"rtol": 1e-4, "atol": 1e-5}


def passing(name: str, number: int) -> Passing:
    loss, config = ASKED[name]
    random = np.random.default_rng([number, ord(name)])
    data = []
    for length in random.integers(3, 20, 4):
        inputs = {"target_tokens": random.integers(3, 1000, length)}
        if loss == "cross_entropy":
            inputs["weights"] = random.normal(size=length).astype(np.float32)
        else:
            inputs |= {
                "advantages": random.normal(size=length).astype(np.float32),
                "logprobs": -random.random(length, np.float32) * 9,
            }
        data.append(Datum(random.integers(3, 1000, length), inputs))
    return Passing(name, None, loss, dict(config), data, forward_only=False)


def trained(groups: list[list[str]]) -> dict[str, list[float]]:
    """The losses of three steps of each policy, the policies of a group together."""
    engine = Engine(load_base(resolve("tiny")), precision="float32")
    for number, (name, method) in enumerate(METHODS.items()):
        engine.add_policy(name, method, number)
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for step in range(3):
        for group in groups:
            for name, answer in pass_all(engine, {name: passing(name, step) for name in group}, 64).items():
                found[name].append(answer.values["metrics"]["loss:sum"])
            engine.optim_step({name: PARAMS[name] for name in group})
    return found


def test_tenants_of_unlike_ranks_rates_and_losses_train_as_alone() -> None:
    together, alone = trained([["a", "b", "c"]]), trained([["c"], ["a"], ["b"]])
    for name in METHODS:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, err_msg=name)
        assert all(first != second for first, second in pairwise(together[name]))


def test_a_step_without_a_pass_is_the_same_for_a_policy_that_was_on_the_disk(tmp_path: Path) -> None:
    """Its gradients are zeros, and what Adam has kept moves the weights."""
    engine, ledger = Engine(load_base(resolve("tiny")), precision="float32"), Ledger(tmp_path)
    operations = Operations(engine, ledger, 64, 9, lambda model: 0)
    task = Task(Kept("a:3", "a", 3, "step", b"", "json", 0.0), Step(PARAMS["a"]))
    engine.add_policy("a", METHODS["a"])
    pass_all(engine, {"a": passing("a", 0)}, 64)
    engine.optim_step({"a": PARAMS["a"]})
    engine.save("a", tmp_path / "state")
    found = []
    for there in (engine, Engine(load_base(resolve("tiny")), precision="float32")):
        if there is not engine:
            operations = Operations(there, ledger, 64, 9, lambda model: 0)
            there.add_policy("a", METHODS["a"])
            there.load("a", tmp_path / "state")
        before = {name: weight.detach().clone() for name, weight in there.policies["a"].weights.items()}
        operations.step({task: PARAMS["a"]})
        found.append(there.policies["a"].weights)
        assert any(not torch.equal(before[name], weight) for name, weight in found[-1].items())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, msg=name)


def several(engine: Engine, each: int, seed: int = 0) -> Batch:
    """Rows of which each position has so many targets."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([7, 4])
    supervised = torch.arange(7)[None] < lengths[:, None]
    ids = torch.randint(3, 1000, (2, 7), generator=generator)
    targets = torch.randint(3, 1000, (2, 7, each), generator=generator)
    weights = torch.rand(2, 7, each, generator=generator)
    return Batch(ids, targets, supervised, weights, torch.arange(2), lengths)


@pytest.mark.parametrize("loss", ["cross_entropy", "dro"])
@pytest.mark.parametrize("chunked", [True, False])
def test_several_targets_of_a_position_are_as_many_batches_of_one(tiny: Engine, loss: str, chunked: bool) -> None:
    tiny._unembedding.chunked = chunked
    tiny.add_policy("a", LoRA(rank=4))
    policy = tiny.policies["a"]
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.normal_(std=0.05)
    batch = several(tiny, 3)
    more: dict[str, torch.Tensor] = {}
    if loss == "dro":
        drawn = torch.Generator().manual_seed(1)
        uniform = [torch.rand(2, 7, 3, generator=drawn) for _ in range(2)]
        more = {"advantages": uniform[0], "sampler_logprobs": -uniform[1]}
    batch = replace(batch, columns=more)
    function: Loss = LOSSES[loss].function

    def gradients(batches: list[Batch]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        results = [tiny.forward_backward({"a": each}, function)["a"] for each in batches]
        found = {}
        for name, weight in policy.weights.items():
            assert weight.grad is not None
            found[name] = weight.grad.clone()
            weight.grad.zero_()
        return [result.logprobs for result in results], found

    (whole,), together = gradients([batch])
    parts = []
    for place in range(3):
        columns = {name: column[..., place] for name, column in more.items()}
        one = replace(batch, targets=batch.targets[..., place], weights=batch.weights[..., place], columns=columns)
        parts.append(one)
    each, apart = gradients(parts)
    torch.testing.assert_close(whole.view(-1, 3), torch.stack(each, 1), **EXACT)
    for name, gradient in together.items():  # sums of thrice as many terms: to the rounding of the largest
        size = float(apart[name].abs().max())
        torch.testing.assert_close(gradient, apart[name], rtol=1e-4, atol=1e-5 * size)
        assert size > 0


def test_the_likely_next_tokens_are_those_of_a_pass(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, too."""
    tiny.add_policy("a", LoRA(rank=4))
    with torch.no_grad():
        for weight in tiny.policies["a"].weights.values():
            weight.normal_(std=0.05)
    prompt = [5, 9, 200, 31, 7, 8]
    for policy in ("a", "base"):
        monkeypatch.undo()
        ids, logprobs = likely_next(tiny, policy, prompt, 4)
        monkeypatch.setattr("lowregret.engine.sampling.likely.LOGITS", 2048)
        for one, other in zip((ids, logprobs), likely_next(tiny, policy, prompt, 4), strict=True):
            torch.testing.assert_close(one, other, **EXACT)
        one = torch.tensor([prompt[:-1]])
        places = torch.ones(1, 5, dtype=torch.bool)
        batch = Batch(one, ids[None], places, torch.ones(1, 5, 4), torch.arange(1), torch.tensor([5]))
        torch.testing.assert_close(tiny.forward({policy: batch})[policy].logprobs, logprobs.flatten(), **EXACT)
        assert bool((logprobs.diff(dim=1) <= 0).all())


def test_each_policy_of_a_pass_has_its_own_loss(tiny: Engine) -> None:
    """A wrong one would give the other's gradient."""
    for name in "ab":
        tiny.add_policy(name, LoRA(rank=4), seed=1)
    batch = several(tiny, 1)
    batch = replace(batch, targets=batch.targets[..., 0], weights=batch.weights[..., 0])
    half: Loss = partial(lambda loss, logprobs, weights: loss(logprobs, weights) / 2, LOSSES["cross_entropy"].function)
    results = tiny.forward_backward({"a": batch, "b": batch}, {"a": LOSSES["cross_entropy"].function, "b": half})
    torch.testing.assert_close(results["a"].loss, 2 * results["b"].loss)
    for name, weight in tiny.policies["a"].weights.items():
        torch.testing.assert_close(weight.grad, 2 * tiny.policies["b"].weights[name].grad)

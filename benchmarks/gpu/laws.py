"""The laws in bfloat16, where rounding blurs them: how far apart two ways are, and how far they may be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import Drawn, rows, uneven
from torch import Tensor

from lowregret.data.batches import Batch, collate
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.policy import LoRAPolicy
from lowregret.export.merge import merge
from lowregret.lora.kernels import CPU, Kernels
from lowregret.spec import LoRA

METHODS = {
    "a": LoRA(rank=16, alpha=16, dropout=0.1),
    "b": LoRA(rank=16, alpha=32),
    "c": LoRA(rank=12, alpha=8),
    "d": LoRA(rank=8, targets=("attention",)),
}
STEPS, RATE = 3, 1e-3
GRADIENT, NATS, WORST = 0.05, 0.02, 0.25
"""How far gradients may be apart, as a share of their norm; losses; and single log-probabilities (bfloat16 has 8 bits,
and the engine's own probe allows as much: engine/forward/path.py)."""


@dataclass(frozen=True)
class Measured:
    """How a law fared."""

    apart: float
    most: float

    @property
    def holds(self) -> bool:
        return self.apart <= self.most


@dataclass(frozen=True)
class World:
    """A base and rows of unlike length for each policy."""

    card: Card
    base: Drawn
    length: int

    def engine(self, *names: str, kernels: Kernels | None = None) -> Engine:
        """With these policies, whose B is not zero."""
        found = Engine(self.base.base(self.card.device), device=str(self.card.device), precision="bfloat16")
        if kernels is not None:
            found._slots.kernels = kernels
        for name in names:
            policy = found.add_policy(name, METHODS[name], seed=ord(name))
            generator = torch.Generator().manual_seed(ord(name))
            with torch.no_grad():
                for weight in (own for key, own in policy.weights.items() if key.endswith("lora_B")):
                    weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        return found

    def batches(self, *names: str, step: int = 0) -> dict[str, Batch]:
        lengths = dict(zip(METHODS, uneven(3, self.length, len(METHODS), step), strict=True))
        return {name: collate(self.rows(lengths[name], step, name), 0) for name in names}

    def rows(self, lengths: list[int], step: int, name: str) -> list[Example]:
        return rows(lengths, int(self.base.values["vocab_size"]), 100 * step + ord(name))


def _train(engine: Engine, world: World, *names: str, first: int = 0, steps: int = STEPS) -> dict[str, float]:
    """The losses of the step after these."""
    for step in range(first, first + steps):
        engine.forward_backward(world.batches(*names, step=step))
        engine.optim_step({name: AdamParams(RATE) for name in names})
    found = engine.forward(world.batches(*names, step=first + steps))
    return {name: float(result.loss) for name, result in found.items()}


def _gradient(engine: Engine, name: str) -> Tensor:
    policy = engine.policies[name]
    assert isinstance(policy, LoRAPolicy)
    assert policy._flat.grad is not None
    return policy._flat.grad.clone()


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


def packed_alone(world: World) -> Measured:
    """Gradients of a pack of unlike policies, with dropout, beside those of each alone."""
    pack, batches = world.engine(*METHODS), world.batches(*METHODS)
    pack.forward_backward(batches)
    worst = 0.0
    for name in METHODS:
        alone = world.engine(name)
        alone.forward_backward({name: batches[name]})
        worst = max(worst, _apart(_gradient(alone, name), _gradient(pack, name)))
    return Measured(worst, GRADIENT)


def packed_alone_trained(world: World) -> Measured:
    """Losses after some steps of the same."""
    pack = _train(world.engine(*METHODS), world, *METHODS)
    alone = {name: _train(world.engine(name), world, name)[name] for name in METHODS}
    return Measured(max(abs(pack[name] - alone[name]) for name in METHODS), NATS)


def resumed_uninterrupted(world: World) -> Measured:
    """Losses after a save and a load half-way, beside those without."""
    whole = _train(world.engine("a"), world, "a", steps=2 * STEPS)
    first, second = world.engine("a"), world.engine("a")
    _train(first, world, "a")
    with tempfile.TemporaryDirectory() as folder:
        first.save("a", Path(folder) / "a")
        second.load("a", Path(folder) / "a")
    return Measured(abs(_train(second, world, "a", first=STEPS)["a"] - whole["a"]), NATS)


def merged_unmerged(world: World) -> Measured:
    """Mean distance of log-probabilities of a LoRA, and of the base with it added to its weights."""
    engine, batch = world.engine("b"), world.batches("b")["b"]
    unmerged = engine.forward({"b": batch})["b"].logprobs
    merge(engine, "b")
    merged = engine.forward({"base": batch})["base"].logprobs
    return Measured(float((merged - unmerged).abs().mean()), NATS)


def starts_as_the_base(world: World) -> Measured:
    """Log-probabilities of a training pass of a pack with B = 0, beside the base's."""
    engine, batches = world.engine(), world.batches("b", "c")
    expected = {name: engine.forward({"base": batch})["base"].logprobs for name, batch in batches.items()}
    for name in batches:
        engine.add_policy(name, METHODS[name])
    found = engine.forward_backward(batches)
    return Measured(max(float((found[n].logprobs - own).abs().max()) for n, own in expected.items()), WORST)


def its_kernels(world: World) -> Measured:
    """Gradients with the device's kernels, prompts that rows share included, beside those with a CPU's on it."""
    batch = collate(world.rows([world.length] * 4, 0, "b"), 0)
    shared = batch.input_ids.clone()
    shared[:] = torch.where(batch.supervised.cumsum(1) > 0, shared, shared[:1])
    prompts = replace(batch, input_ids=shared, prompts=torch.zeros(4, dtype=torch.int64))
    asked = {**world.batches("c", "d"), "b": prompts}
    own = world.engine(*asked)
    plain = world.engine(*asked, kernels=replace(CPU, counted=own._slots.kernels.counted))
    for engine in (own, plain):
        engine.forward_backward(asked)
    return Measured(max(_apart(_gradient(plain, name), _gradient(own, name)) for name in asked), GRADIENT)


def sampled_scored(world: World) -> Measured:
    """Mean distance of what sampling says of its tokens, and what a pass says of them."""
    engine = world.engine("b")
    prompts = [list(row.token_ids[: 3 + place]) for place, row in enumerate(world.rows([12] * 3, 0, "b"))]
    completions = engine.sample({"b": prompts}, SamplingParams(max_tokens=8, stop_ids=()))["b"]
    examples = [
        Example((*prompt, *found.token_ids), (False,) * len(prompt) + (True,) * len(found.token_ids))
        for prompt, found in zip(prompts, completions, strict=True)
    ]
    scored = engine.forward({"b": collate(examples, 0)})["b"].logprobs
    drawn = torch.tensor([nats for found in completions for nats in found.logprobs], device=scored.device)
    return Measured(float((scored - drawn).abs().mean()), NATS)


LAWS: Mapping[str, Callable[[World], Measured]] = MappingProxyType(
    {
        "packed = alone, gradients": packed_alone,
        "packed = alone, losses after 3 steps": packed_alone_trained,
        "resumed = uninterrupted, losses after 6 steps": resumed_uninterrupted,
        "merged = unmerged, log-probabilities": merged_unmerged,
        "B = 0 is the base, log-probabilities": starts_as_the_base,
        "its kernels = plain ones, gradients": its_kernels,
        "sampled = scored, log-probabilities": sampled_scored,
    }
)
"""By name."""


def world_of(card: Card, *, small: bool) -> World:
    """Widths of Qwen3-0.6B, of four layers; or those of a rehearsal."""
    from benchmarks.gpu.drawn import SMALL

    changed = SMALL if small else {"num_hidden_layers": 4}
    return World(card, Drawn("Qwen/Qwen3-0.6B", tuple(changed.items())), 24 if small else 256)

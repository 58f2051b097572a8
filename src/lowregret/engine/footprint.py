"""What a pass keeps in memory until its backward pass, measured; and from it, how many tokens a pass may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lowregret.data.batches import Batch, collate
from lowregret.data.example import Example
from lowregret.engine.engine import Engine
from lowregret.engine.forward.checkpointing import decoder_layers, last_layer_plain
from lowregret.engine.full import FullPolicy
from lowregret.engine.losses import cross_entropy
from lowregret.engine.optim.in_backward import InBackward
from lowregret.engine.parallel.fsdp import reshard
from lowregret.engine.parallel.lead import together
from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.engine.sampling.decode import CachedDecoder
from lowregret.engine.sampling.pools import capacity
from lowregret.models.four_bit import FourBitWeight, stored_bytes
from lowregret.models.sharded import here
from lowregret.spec import FullFT, LoRA
from lowregret.spec.optimizer import NUMBER_BYTES

ACTIVATION_SHARE = 0.5
"""Of the memory that weights, gradients and moments leave. The rest is for what a pass needs beside the activations it
keeps: the temporaries of a layer and of its backward pass, a chunk of logits, the allocator's gaps, other programs."""
CPU_PASS_TOKENS = 1024
"""Tokens of a pass on a CPU, at most: larger ones are no faster there and need more memory (times:
docs/findings/2026-11-24-engine-choices.md)."""
PROBE_LENGTH = 64
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@together
def max_tokens(
    engine: Engine, policies: Sequence[str], budget: int | None = None, *, longest: int = PROBE_LENGTH
) -> int:
    """Tokens of a pass of these policies whose activations stay within `budget` bytes; `default_budget` when None.

    `longest` is the length of the longest row to come, in tokens: it matters for a base whose attention keeps all
    scores. At least 1, on a CPU at most CPU_PASS_TOKENS. The same on every call with the same engine and policies.
    Of many ranks each takes its part: as many times the tokens.
    """
    each = bytes_per_token(engine, policies, longest)
    allowed = (default_budget(engine) if budget is None else budget) // each
    if engine.offloads:  # they wait on the host, and about one layer's are on the device
        on_host = int(ACTIVATION_SHARE * device_memory(torch.device("cpu"))) // each
        allowed = min(allowed * max(len(decoder_layers(engine.model)), 1), on_host)
    allowed = min(allowed, CPU_PASS_TOKENS) if engine.device.type == "cpu" else allowed
    return max(allowed * engine.ranks.data.count, 1)


def bytes_per_token(engine: Engine, policies: Sequence[str], length: int = PROBE_LENGTH) -> int:
    """Bytes that each token of a row of `length` tokens keeps until the backward pass; of several policies the most.

    Measured: what a forward pass of two such rows keeps beyond one of a single row. So what does not grow with the
    tokens is left out, such as weights and copies of them in another type. Weights, gradients, moments and the dropout
    masks to come stay as they are. With activation checkpointing the need is greatest when the backward pass has
    computed its first layer again: the last layer is counted in full.
    """
    alike: dict[FullFT | LoRA, str] = {}  # policies of one method keep the same
    for name in policies:
        policy = engine.policies[name]
        assert isinstance(policy, LoRAPolicy | FullPolicy)
        alike[policy.method] = name
    most = 0
    for name in alike.values():
        one, two = (_kept_bytes(engine, name, _rows(engine, count, length)) for count in (1, 2))
        most = max(most, math.ceil((two - one) / length))
    return max(most, 1)


def max_decode_rows(engine: Engine, length: int) -> int:
    """Rows of up to `length` tokens that decode together within `default_budget`: keys, values and logits. At least 1.

    From the base's configuration; a base that keeps less than keys and values of every layer gets fewer than fit. A
    base that is sampled without a cache keeps logits alone, and its passes have a size of their own.
    """
    config = engine.model.config.get_text_config()
    path = engine.sampling_path
    columns = capacity(length) if path.kind is CachedDecoder else length
    cache = _cache_numbers(config) * engine.dtype.itemsize * columns if path.cached else 0
    return max(default_budget(engine) // (cache + _LOGITS_COPIES * 4 * int(config.vocab_size)), 1)


def _cache_numbers(config: Any) -> int:
    """Numbers that keys and values of a token take in all layers; of a base without heads, as if it had one of all."""
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else config.hidden_size)
    return int(2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads or 1) * width)


_LOGITS_COPIES = 4
"""Of a row's logits in float32 while a token is drawn: logits, odds, and those sorted for top-p."""


def default_budget(engine: Engine) -> int:
    """Bytes for activations: a share of what the device has beside the weights, gradients and moments of all policies.

    From the device's size, not from what happens to be free, so that a run can be repeated.
    """
    left = device_memory(engine.device) - _resident_bytes(engine)
    return int(ACTIVATION_SHARE * max(left, 0))


def device_memory(device: torch.device) -> int:
    """Bytes that the device has in all; on a CPU no more than the process's control group may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = int(psutil.virtual_memory().total)
    for file in map(Path, _CGROUP_LIMITS):
        if file.exists() and (limit := file.read_text().strip()).isdecimal():
            found = min(found, int(limit))
    return found


def _resident_bytes(engine: Engine) -> int:
    """The base, and each policy's weights, gradients and what its optimizer keeps."""
    found = sum(stored_bytes(here(parameter)) for parameter in engine.model.parameters())
    for policy in engine.policies.values():
        found += sum(_trained_bytes(policy, name, here(weight).numel()) for name, weight in policy.weights.items())
        found += NUMBER_BYTES * sum(start.numel() for start in policy.initial.values())
    return found


def _trained_bytes(policy: Policy, name: str, numbers: int) -> int:
    """Of so many numbers of a weight: gradients, what the optimizer keeps, and the weight itself, unless it is the
    base's own."""
    weight, full = policy.weights[name], isinstance(policy, FullPolicy)
    copies = (0 if isinstance(policy.optimizer, InBackward) else 1) + (0 if full else 1)
    kept = policy.optimizer.declared(name, tuple(weight.shape)).values()
    state = sum(math.prod(shape) * dtype.itemsize for shape, dtype in kept if shape)
    if policy.slices is not None:
        state //= policy.slices.axis.count
    return copies * numbers * weight.element_size() + state * numbers // max(weight.numel(), 1)


def _rows(engine: Engine, count: int, length: int) -> Batch:
    """`count` rows of `length` positions. The last one is supervised; all are where logits are kept for each."""
    embedding: Any = engine.model.get_input_embeddings()
    vocabulary: int = embedding.weight.shape[0]
    ids = tuple(index % vocabulary for index in range(length + 1))
    mask = (False, *[not engine._unembedding.chunked] * (length - 1), True)
    return collate([Example(ids, mask)] * count, engine.base.pad_id)


def _kept_bytes(engine: Engine, name: str, batch: Batch) -> int:
    """Bytes of all storages that a forward pass saves for the backward pass, those of weights included."""
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> None:
        if isinstance(tensor, FourBitWeight):
            return  # the same in every pass
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage  # held, so that no later one can have the same address

    def never(_: None) -> Tensor:
        raise AssertionError("a probe has no backward pass")

    # The inside of Engine.forward_backward, up to its backward pass.
    engine.policies[name].before_backward()
    layout = engine._lay_out({name: batch})
    with torch.enable_grad(), engine._passing(layout), last_layer_plain(engine.model), saved_tensors_hooks(note, never):
        engine._forward(layout, {name: batch}, cross_entropy)
    reshard(engine.model)
    return sum(storage.nbytes() for storage in saved.values())

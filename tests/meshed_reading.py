"""A base that the ranks of a mesh read part by part; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from lowregret.engine import Engine
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.models.bare import bare_base
from lowregret.models.load import load_base, resolve
from lowregret.models.sharded import here, whole
from sharded import Case, batch_of

READ: dict[str, tuple[str, str, dict[str, int]]] = {
    "tensor: llama": ("llama", "float32", {"tensor": 2}),
    "tensor: qwen3, tied": ("qwen3", "bfloat16", {"tensor": 2}),
    "expert: qwen3_moe": ("qwen3_moe", "bfloat16", {"expert": 2}),
    "expert: gpt_oss": ("gpt_oss", "float32", {"expert": 2}),
    "shard and tensor: llama": ("llama", "bfloat16", {"tensor": 2}),
    "shard and tensor: qwen3, tied": ("qwen3", "float32", {"tensor": 2}),
    "shard and expert: mixtral": ("mixtral", "float32", {"expert": 2}),
    "tensor and expert: qwen3_moe": ("qwen3_moe", "float32", {"tensor": 2, "expert": 2}),
}
"""Bases that are read by the ranks of a mesh: two of them, or four where it has two dimensions."""


@dataclass(frozen=True)
class Read:
    """What came of it."""

    digests: dict[str, str]
    """Of the whole of each weight and table: type and bytes."""
    held: int
    """Bytes of weights on this rank."""
    due: float
    """The same by what is cut in halves, over tensor or expert ranks and over those of FSDP2."""
    loss: float
    """Of a row."""


def read(name: str, folder: Path, *, alone: bool = False) -> Read:
    """`alone`: by one process that reads all."""
    base, precision, mesh = READ[name]
    source, parts = resolve(str(folder / base)), "shard" in name
    ranks = ALONE if alone else Ranks.of_group("cpu", **mesh)
    loaded = load_base(source) if alone else bare_base(source, torch.float32)
    engine = Engine(loaded, device="cpu", precision=precision, ranks=ranks, base_in_parts=parts)
    cuts, found, due = engine.cuts, {}, 0.0
    for key, tensor in [*engine.model.named_parameters(), *engine.model.named_buffers()]:
        owner, _, kind = key.rpartition(".")
        own = whole(tensor.detach()).clone()
        if kind == "bias" and owner in cuts.rowwise:
            own = ranks.tensor.first(own)
        own = cuts.weights[key].joined(own) if key in cuts.weights else own
        found[key] = f"{own.dtype} {sha256(own.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()}"
        if isinstance(tensor, torch.nn.Parameter):
            due += own.nbytes / (1 + (key in cuts.weights)) / (1 + (parts and not alone))
    held = sum(here(weight).nbytes for weight in engine.model.parameters())
    return Read(found, held, due, float(engine.forward({"base": batch_of(Case(()), 3, 1)})["base"].loss))

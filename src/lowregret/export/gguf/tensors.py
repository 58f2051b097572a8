"""Which tensors a GGUF file has of a model, and how each is made of the model's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gguf
import torch
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.export.gguf.architecture import SERVE, Architecture
from lowregret.export.weights import Weights

_EACH_EXPERT = re.compile(
    r"(?P<block>model\.layers\.\d+)\.mlp\.experts\.(?P<expert>\d+)\.(?P<part>gate|up|down)_proj\.weight"
)
_FUSED = re.compile(r"(?P<block>model\.layers\.\d+)\.mlp\.experts\.(?P<part>gate_up|down)_proj")
_COMPUTED = re.compile(r".*(rotary_emb\.inv_freq|attn\.bias|masked_bias|position_ids)")
"""Buffers that some folders have and no model reads."""
FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Planned:
    """One tensor of the file."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    """The model's tensors that it is made of: one, or one for each expert."""
    half: int | None = None
    """Of a fused gate and up: which half of the rows."""
    heads: int | None = None
    """Of queries and keys that are permuted: how many heads."""
    plus: float = 0.0
    """Added to all values."""

    def read(self, weights: Weights) -> Tensor:
        """The values in float32, [..., rows, columns] as transformers has them."""
        if len(self.sources) > 1:
            made = torch.empty(self.shape)
            for place, source in enumerate(self.sources):
                made[place] = weights.read(source)
            return made
        found = weights.read(self.sources[0]).to(torch.float32)
        if self.half is not None:
            found = found.chunk(2, dim=1)[self.half]
        if self.heads is not None:
            found = permuted(found, self.heads)
        return found + self.plus if self.plus else found


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order of llama.cpp's Llama: dimension i of a head beside i + half instead of in
    halves, since its rotary embedding turns neighbours (ggml, `GGML_ROPE_TYPE_NORMAL`). [heads × width, …], a bias too.
    """
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def stored_name(known: Architecture, name: str) -> str | None:
    """llama.cpp's name of a plain tensor; None where the family has none."""
    names = gguf.get_tensor_name_map(known.arch, known.layers)
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    return found


def heads_of(known: Architecture, name: str) -> int | None:
    """How many heads a tensor's rows are permuted by; None for none."""
    if not known.permuted or ".attn_" not in name:
        return None
    part = name.split(".")[2]
    return {"attn_q": known.heads, "attn_k": known.kv_heads}.get(part)


def plan_tensors(weights: Weights, known: Architecture) -> list[Planned]:
    """The tensors of the file in its order; ModelError for one that llama.cpp has no place for, and for one missing."""
    tied = weights.config.get("tie_word_embeddings", known.name.startswith("gemma"))
    found: dict[str, Planned] = {}
    experts: dict[str, dict[int, str]] = {}
    for name in weights.names:
        if _COMPUTED.fullmatch(name) or (tied and name == "lm_head.weight"):
            continue
        if match := _EACH_EXPERT.fullmatch(name):
            stacked = f"blk.{match['block'].split('.')[2]}.ffn_{match['part']}_exps.weight"
            experts.setdefault(stacked, {})[int(match["expert"])] = name
            continue
        for planned in _planned(weights, known, name):
            found[planned.name] = planned
    for stacked, sources in experts.items():
        found[stacked] = _stacked(weights, known, stacked, sources)
    if "output.weight" in found and not known.may_untie:
        raise ModelError(
            f"{weights.folder}: has an unembedding of its own, and llama.cpp ties it to the embedding in every "
            f"{known.name}. {SERVE}"
        )
    _check_whole(weights, known, found, bool(tied))
    return [found[name] for name in sorted(found, key=_place)]


def _planned(weights: Weights, known: Architecture, name: str) -> list[Planned]:
    shape = weights.shape(name)
    if match := _FUSED.fullmatch(name):
        block = f"blk.{match['block'].split('.')[2]}"
        if match["part"] == "down":
            return [Planned(f"{block}.ffn_down_exps.weight", shape, (name,))]
        half = (shape[0], shape[1] // 2, shape[2])
        return [
            Planned(f"{block}.ffn_{part}_exps.weight", half, (name,), half=place)
            for place, part in enumerate(("gate", "up"))
        ]
    stored = stored_name(known, name)
    if stored is None:
        raise ModelError(
            f"{weights.folder}: has the weight {name}, which llama.cpp's {known.name} has no place for. {SERVE}"
        )
    plus = 1.0 if known.norms_from_one and stored.endswith("norm.weight") else 0.0
    return [Planned(stored, shape, (name,), heads=heads_of(known, stored), plus=plus)]


def _stacked(weights: Weights, known: Architecture, name: str, sources: Mapping[int, str]) -> Planned:
    count = int(known.keys["expert_count"])
    if lacking := sorted(set(range(count)) - set(sources)):
        raise ModelError(f"{weights.folder}: expert {lacking[0]} has no weight for {name}. Fetch its files again.")
    return Planned(name, (count, *weights.shape(sources[0])), tuple(sources[number] for number in range(count)))


def _check_whole(weights: Weights, known: Architecture, found: Mapping[str, Planned], tied: bool) -> None:
    """ModelError when a tensor is missing, one that other layers have or an end: a half-written folder."""
    last = {name.split(".", 2)[2] for name in found if name.startswith("blk.")}
    wanted = ["token_embd.weight", "output_norm.weight", *([] if tied else ["output.weight"])]
    wanted += [f"blk.{layer}.{part}" for layer in range(known.layers) for part in sorted(last)]
    if lacking := next((name for name in wanted if name not in found), None):
        raise ModelError(f"{weights.folder}: has no weight for {lacking}: it is not whole. Fetch its files again.")
    if found["token_embd.weight"].shape[0] != known.rows:
        raise ModelError(
            f"{weights.folder}: its embedding has {found['token_embd.weight'].shape[0]} rows, and config.json says "
            f"vocab_size = {known.rows}. Fetch its files again."
        )


def _place(name: str) -> tuple[int, Sequence[int | str]]:
    """In which order tensors lie: the embedding, the layers, the rest."""
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        return 1, (int(layer), rest)
    return (0 if name == "token_embd.weight" else 2), (0, name)

"""Bases with the shapes of published models and weights that are drawn, and rows of random tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lowregret.data.example import Example
from lowregret.models.load import Base, Source
from lowregret.plan.shapes.catalogue.entries import find_entry
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.weights import Shapes

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}
"""What a rehearsal has instead."""


@dataclass(frozen=True)
class Drawn:
    """A base to be drawn."""

    name: str
    """Of the catalogue, such as Qwen/Qwen3-8B."""
    changed: tuple[tuple[str, Any], ...] = ()
    """Of its configuration."""

    @property
    def values(self) -> dict[str, Any]:
        """Its config.json."""
        entry = find_entry(self.name)
        assert entry is not None
        known = {key: value for key, value in entry.config.items() if key != "torch_dtype"}
        return {**known, **dict(self.changed)}

    @property
    def shapes(self) -> Shapes:
        """As the plan counts it."""
        return shapes_of(self.values, self.name, ())

    def model(self, device: torch.device, seed: int = 0, **how: Any) -> PreTrainedModel:
        """In bfloat16, on the device from the start."""
        values = self.values
        config = AutoConfig.for_model(values.pop("model_type"), **values, eos_token_id=1, pad_token_id=0)
        torch.manual_seed(seed)
        with torch.device(device):
            found: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **how).eval()
        return found

    def base(self, device: torch.device, seed: int = 0) -> Base:
        """With a tokenizer of one word a token, for nobody reads a text here."""
        words = {"<pad>": 0, "<eos>": 1} | {f"w{index}": index for index in range(2, 256)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
        )
        return Base(self.model(device, seed), tokenizer, Source(self.name, self.name))


def rows(lengths: Sequence[int], vocabulary: int, seed: int = 0, *, supervised: float = 0.5) -> list[Example]:
    """Rows of so many predictions, the last `supervised` share of which count."""
    draw = random.Random(f"rows {seed}")
    found = []
    for length in lengths:
        tokens = tuple(draw.randrange(2, vocabulary) for _ in range(length + 1))
        prompt = length + 1 - max(round(supervised * length), 1)
        found.append(Example(tokens, (False,) * prompt + (True,) * (length + 1 - prompt)))
    return found


def uneven(count: int, length: int, policies: int, seed: int = 0) -> list[list[int]]:
    """Lengths of each policy's rows, from a half to one and a half of `length`, no two policies with equally many."""
    draw = random.Random(f"uneven {seed}")
    found = [[max(draw.randint(length // 2, length + length // 2), 2) for _ in range(count)] for _ in range(policies)]
    for place, own in enumerate(found):
        own[0] += next(more for more in range(policies + 1) if sum(own) + more not in map(sum, found[:place]))
    return found

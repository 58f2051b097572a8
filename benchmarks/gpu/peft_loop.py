"""The contender from PEFT: a LoRA by the loop that a user writes, with SDPA and fused AdamW, in bfloat16 autocast.

All rows have one length, so that nothing is padded. The largest number of rows that fits is found by halving.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import Drawn, rows
from benchmarks.gpu.ours import SUPERVISED, Size

from lowregret.data.example import Example

LABEL = "PEFT LoRA r16, SDPA"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_IGNORED = -100


def measure(base: Drawn, card: Card, size: Size) -> dict[str, Any]:
    """Seconds of each step, tokens a second, bytes, and rows of a pass."""
    from peft import LoraConfig, get_peft_model

    card.forget()
    network: Any = get_peft_model(
        base.model(card.device, attn_implementation="sdpa"),
        LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), task_type="CAUSAL_LM"),
    )
    network.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0, fused=True)
    examples = rows([size.length] * size.rows, int(base.values["vocab_size"]), supervised=SUPERVISED)
    at_once = len(examples)
    while True:
        try:
            for _ in range(size.warmup):
                _step(network, optimizer, examples, at_once, card)
            break
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once = -(-at_once // 2)
            optimizer.zero_grad()
            card.forget()
    seconds = [_step(network, optimizer, examples, at_once, card) for _ in range(size.repeats)]
    tokens = size.rows * size.length
    return {
        "label": LABEL,
        "seconds": seconds,
        "passes": -(-len(examples) // at_once),
        "tokens": tokens,
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_bytes": card.peak_bytes,
        "reserved_bytes": card.reserved_bytes,
    }


def _step(
    network: Any, optimizer: torch.optim.Optimizer, examples: Sequence[Example], at_once: int, card: Card
) -> float:
    began = card.clock()
    for start in range(0, len(examples), at_once):
        chosen = examples[start : start + at_once]
        ids = torch.tensor([row.token_ids for row in chosen])
        labels = ids.masked_fill(~torch.tensor([row.supervised for row in chosen]), _IGNORED)
        with torch.autocast(card.device.type, dtype=torch.bfloat16):
            found = network(input_ids=ids.to(card.device), labels=labels.to(card.device), use_cache=False)
        (found.loss * len(chosen) / len(examples)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return card.clock() - began

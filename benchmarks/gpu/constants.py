"""What the plan assumes of a GPU, measured: `plan/resources/hardware.json` holds the first two for a device.

The others are of all devices: CUDA_CONTEXT and GPU_FRAGMENTATION in `plan/resources/memory.py`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import Drawn

from lowregret.plan.resources.hardware import CATALOGUE
from lowregret.strict_json import to_json

CALLS = 2000
REPEATS = 10


def measure(base: Drawn, card: Card, tokens: int, contenders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Utilisation by products, seconds of a call, bytes a second, bytes of the context, share of gaps."""
    card.forget()
    flops = _product_rate(base, card, tokens)
    found: dict[str, Any] = {
        "flops_per_second": flops,
        "call_seconds": _call_seconds(card),
        "bytes_per_second": _copy_rate(card),
        "context_bytes": card.context_bytes,
    }
    if card.known:
        found["utilisation"] = flops / card.hardware.flops_per_second
    gaps = [
        each["reserved_bytes"] / each["peak_bytes"] - 1 for each in contenders if each.get("peak_bytes") is not None
    ]
    found["fragmentation"] = statistics.median(gaps) if gaps else None
    return found


def _product_rate(base: Drawn, card: Card, tokens: int) -> float:
    """Operations a second of the products of a layer, in bfloat16."""
    values = base.values
    hidden, inner, head = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    queries, keys = values["num_attention_heads"] * head, values["num_key_value_heads"] * head
    pairs = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    pairs += [(hidden, inner), (hidden, inner), (inner, hidden)]
    how: dict[str, Any] = {"dtype": torch.bfloat16, "device": card.device}
    inputs = {d_in: torch.randn(tokens, d_in, **how) for d_in, _ in pairs}
    weights = [torch.randn(d_out, d_in, **how) for d_in, d_out in pairs]
    seconds = []
    for _ in range(REPEATS):
        began = card.clock()
        for weight in weights:
            inputs[weight.shape[1]] @ weight.T
        seconds.append(card.clock() - began)
    return 2 * tokens * sum(d_in * d_out for d_in, d_out in pairs) / statistics.median(seconds)


def _call_seconds(card: Card) -> float:
    """For one small operation, when many are given one after the other."""
    x = torch.zeros(16, device=card.device)
    began = card.clock()
    for _ in range(CALLS):
        x.add_(1.0)
    return (card.clock() - began) / CALLS


def _copy_rate(card: Card) -> float:
    """Bytes a second, read and written."""
    numbers = 2**28 if card.is_gpu else 2**20
    x = torch.zeros(numbers, device=card.device)
    y = torch.empty_like(x)
    seconds = []
    for _ in range(REPEATS):
        began = card.clock()
        y.copy_(x)
        seconds.append(card.clock() - began)
    return 2 * 4 * numbers / statistics.median(seconds)


def write(name: str, found: Mapping[str, Any], file: Path = CATALOGUE) -> None:
    """Put what was measured of a device into the plan's catalogue, beside what its maker says."""
    document = json.loads(file.read_text(encoding="utf-8"))
    entry = next(each for each in document["gpus"] if each["name"] == name)
    entry |= {"utilisation": round(found["utilisation"], 3), "call_seconds": float(f"{found['call_seconds']:.2g}")}
    head = [f"  {to_json(key)}: {to_json(value)}," for key, value in document.items() if key != "gpus"]
    gpus = ",\n".join(f"    {to_json(each)}" for each in document["gpus"])
    file.write_text("{\n" + "\n".join(head) + '\n  "gpus": [\n' + gpus + "\n  ]\n}\n", encoding="utf-8")

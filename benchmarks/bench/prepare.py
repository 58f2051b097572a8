"""What all contenders of a figure start from: the same tokens, labels, prompts and initial adapters, as files.

Made once by a process of its own, so that no contender's time or memory holds the making. Adapters are in PEFT's
format, which both sides read, and on the matrices of the layers: TRL refuses one on the unembedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from benchmarks.bench.worker import Channel

    from lowregret.data.example import Example
    from lowregret.engine import Engine
    from lowregret.spec import LoRA

ROWS, SHORT, PROMPTS = "rows.json", "short.json", "prompts.json"
SHORT_TOKENS = 160
STREAM_TOKENS = 65
"""A row of the stream: 64 predictions."""
LORA_ALPHA = 32.0


def gsm8k(channel: Channel, *, model: str, data: str, folder: str, steps: int, ranks: Sequence[int]) -> None:
    """Rows in training order, short rows, chat prompts; adapters r<rank> at their start and p0 … p7 as if trained."""
    from lowregret.data.batches import batch_indices
    from lowregret.data.prepare import prepare_held_out
    from lowregret.engine import Engine
    from lowregret.models.load import load_base, resolve
    from lowregret.spec import DataSpec

    base = load_base(resolve(model))
    train, _ = prepare_held_out(DataSpec(train=f"{data}/train.jsonl", max_length=512), base.tokenizer)
    chosen = [train[index] for step in range(steps) for index in batch_indices(len(train), 8, 0, step)]
    short = [example for example in train if len(example.token_ids) <= SHORT_TOKENS][: 2 * steps]
    asked, _ = prepare_held_out(DataSpec(train=f"{data}/test.jsonl", max_length=512, max_eval=8), base.tokenizer)
    out = Path(folder)
    _write_rows(chosen, out / ROWS)
    _write_rows(short, out / SHORT)
    prompts = [list(example.token_ids[: example.supervised.index(True)]) for example in asked]
    (out / PROMPTS).write_text(to_json(prompts))
    engine = Engine(base, device="cpu", precision="float32")
    _write_adapters(engine, ranks, out)
    _write_trained(engine, 8, out)
    channel.ready()


def stream(channel: Channel, *, folder: str, rows: int, ranks: Sequence[int]) -> None:
    """Rows of 64 predictions each, all supervised, for the bundled base; adapters r<rank> at their start."""
    from lowregret.data.example import Example
    from lowregret.data.prepare import prepare_held_out
    from lowregret.engine import Engine
    from lowregret.models.load import load_base, resolve
    from lowregret.spec import DataSpec

    base = load_base(resolve("tiny"))
    out = Path(folder)
    examples, _ = prepare_held_out(DataSpec(train="builtin:instructions:size=256,test_size=4096"), base.tokenizer)
    tokens = [token for example in examples for token in example.token_ids]
    pieces = [tokens[start : start + STREAM_TOKENS] for start in range(0, len(tokens), STREAM_TOKENS)]
    if len(pieces) <= rows:
        raise ValueError(f"{len(pieces) - 1} rows of {STREAM_TOKENS} tokens; {rows} are needed.")
    supervised = (False, *[True] * (STREAM_TOKENS - 1))
    _write_rows([Example(tuple(piece), supervised) for piece in pieces[:rows]], out / ROWS)
    _write_adapters(Engine(base, device="cpu", precision="float32"), ranks, out)
    channel.ready()


def read_rows(folder: str | Path, name: str = ROWS) -> list[dict[str, Any]]:
    """[{"input_ids": [int], "completion_mask": [0 or 1]}]: the mask is 1 where the loss counts the token."""
    found: list[dict[str, Any]] = json.loads((Path(folder) / name).read_text())
    return found


def read_prompts(folder: str | Path) -> list[list[int]]:
    """The prompts' token ids."""
    found: list[list[int]] = json.loads((Path(folder) / PROMPTS).read_text())
    return found


def _write_rows(examples: Iterable[Example], path: Path) -> None:
    rows = [
        {"input_ids": list(example.token_ids), "completion_mask": [int(on) for on in example.supervised]}
        for example in examples
    ]
    path.write_text(to_json(rows))


def _lora(rank: int) -> LoRA:
    from lowregret.spec import LoRA

    return LoRA(rank=rank, alpha=LORA_ALPHA, targets="linear")


def _write_adapters(engine: Engine, ranks: Sequence[int], out: Path) -> None:
    from lowregret.export.peft import export_policy

    for rank in ranks:
        engine.add_policy(f"r{rank}", _lora(rank), seed=rank)
        export_policy(engine, f"r{rank}", out / f"r{rank}")
        engine.remove_policy(f"r{rank}")


def _write_trained(engine: Engine, count: int, out: Path) -> None:
    """Adapters of rank 16 with a B that is not zero, so that each policy says something else."""
    import torch

    from lowregret.export.peft import export_policy

    for number in range(count):
        name = f"p{number}"
        policy = engine.add_policy(name, _lora(16), seed=number)
        generator = torch.Generator().manual_seed(1000 + number)
        with torch.no_grad():
            for weight in (weight for key, weight in policy.weights.items() if key.endswith("lora_B")):
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        export_policy(engine, name, out / name)
        engine.remove_policy(name)

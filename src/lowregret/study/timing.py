"""Times of LoRA and FullFT steps on bases made for it, in turns, with nothing else running: the question of compute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine, step_params
from lowregret.environment import environment
from lowregret.models.load import Base, Source, load_tokenizer, resolve
from lowregret.models.targets import find_targets
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.files import timing_file
from lowregret.spec import FullFT, LoRA
from lowregret.spec.optimizer import NUMBER_BYTES
from lowregret.train.interrupt import Interrupted

_ROW = 64
_HEAD = 32


def time_steps(
    question: ComputeQuestion, folder: Path, say: Callable[[str], None], should_stop: Callable[[], bool]
) -> None:
    """Leave folder/width-N.json for each width; those that are there for the same ranks stay as they are."""
    make_folder(folder)
    for width in question.widths:
        path = folder / timing_file(width)
        if path.exists():
            continue
        if should_stop():
            raise Interrupted
        found = _time_width(question, width)
        write_json(path, found | {"environment": environment() | {"threads": torch.get_num_threads()}})
        ratios = ", ".join(
            f"rank {rank}: {_median(seconds) / _median(found['full_seconds']):.2f} (theory {found['theory'][rank]:.2f})"
            for rank, seconds in found["lora_seconds"].items()
        )
        say(f"compute, hidden size {width}: LoRA's step over FullFT's: {ratios}")


def _time_width(question: ComputeQuestion, width: int) -> dict[str, Any]:
    engines = {"full": _engine(question, width), "lora": _engine(question, width)}
    engines["full"].add_policy("full", FullFT(), optimizer=question.optimizer.name)
    for rank in question.ranks:
        engines["lora"].add_policy(
            f"lora:{rank}", LoRA(rank=rank, targets=question.targets), optimizer=question.optimizer.name
        )
    rows = max(1, question.tokens // _ROW)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, _vocabulary(engines["full"]), (rows, _ROW), generator=draw).tolist()
    batch = collate([Example(tuple(row), (False,) + (True,) * (_ROW - 1)) for row in ids], engines["full"].base.pad_id)
    seconds: dict[str, list[float]] = {name: [] for name in ("full", *engines["lora"].policies)}
    for turn in range(question.repeats + 1):  # in the first turn memory is touched for the first time
        for name, times in seconds.items():
            engine = engines["full" if name == "full" else "lora"]
            _wait(engine)
            began = time.perf_counter()
            engine.forward_backward({name: batch})
            engine.optim_step({name: step_params(question.optimizer, 1e-4)})
            _wait(engine)
            if turn:
                times.append(time.perf_counter() - began)
    bytes_each = question.optimizer.bytes_per_parameter()
    base = sum(parameter.numel() for parameter in engines["lora"].model.parameters())
    trained = {rank: engines["lora"].policies[f"lora:{rank}"].trainable_parameters for rank in question.ranks}
    return {
        "width": width,
        "tokens": rows * _ROW,
        "parameters": base,
        "full_seconds": seconds["full"],
        "lora_seconds": {str(rank): seconds[f"lora:{rank}"] for rank in question.ranks},
        "full_bytes": bytes_each * base,
        "lora_bytes": {str(rank): NUMBER_BYTES * base + bytes_each * size for rank, size in trained.items()},
        "theory": {str(rank): _theory(engines["lora"], rank, question.targets) for rank in question.ranks},
    }


def _engine(question: ComputeQuestion, width: int) -> Engine:
    """A Qwen3 of this width with random weights, shaped as the bundled bases are."""
    tokenizer = load_tokenizer(resolve("tiny"))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=question.depth,
        num_attention_heads=max(1, width // _HEAD),
        num_key_value_heads=max(1, width // _HEAD),
        head_dim=_HEAD,
        intermediate_size=3 * width,
        max_position_embeddings=2 * _ROW,
        tie_word_embeddings=True,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    name = f"random-{width}"
    base = Base(model, tokenizer, Source(name, name))
    return Engine(base, device=question.device, precision=question.precision)


def _vocabulary(engine: Engine) -> int:
    found: int = engine.model.get_output_embeddings().weight.shape[0]
    return found


def _theory(engine: Engine, rank: int, targets: Sequence[str]) -> float:
    """Multiply-adds of a LoRA step over those of a FullFT step (SCIENCE 3.9), the unembedding included.

    Attention scores, norms and the optimizer, which a count of matrix products leaves out, are left out.
    """
    adapted = find_targets(engine.model, engine.matrices, targets)
    base = sum(m.d_in * m.d_out for m in engine.matrices)
    return (2 * base + 3 * rank * sum(m.d_in + m.d_out for m in adapted)) / (3 * base)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _wait(engine: Engine) -> None:
    """For the device to be done."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)

"""A training on a mesh of ranks, by cases, in float64 too; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from bases import GROUPED, MIXTURES, examples, small_config, small_tokenizer
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.state import state_tensors
from lowregret.models.load import Base, Source, load_base, resolve
from lowregret.spec import FullFT, LoRA
from sharded import Case, batch_of

FOUR_HEADS = {**GROUPED, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
ALL = ("attention", "mlp", "unembedding")


@dataclass(frozen=True)
class Meshed:
    """A case, and the ranks that train it."""

    case: Case
    tensor: int = 1
    expert: int = 1
    ranks: int = 2
    double: bool = True
    """In float64."""


def config_of(name: str) -> PretrainedConfig:
    """Small bases whose heads two ranks divide."""
    if name == "llama":
        return transformers.LlamaConfig(**FOUR_HEADS, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    if name == "qwen3":
        return transformers.Qwen3Config(**{**FOUR_HEADS, "vocab_size": 65}, tie_word_embeddings=True)
    if name == "gemma2":
        capped = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0, "sliding_window": 6}
        return transformers.Gemma2Config(**FOUR_HEADS, **capped, query_pre_attn_scalar=8)
    if name in MIXTURES:
        config: Any = small_config(name)
        if name in ("qwen3_moe", "mixtral", "qwen2_moe"):  # the attention of the others is not cut
            config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 8
        return config
    raise ValueError(name)


def base_of(name: str, *, double: bool) -> Base:
    if name == "tiny":
        base = load_base(resolve("tiny"))
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(name), dtype=torch.float32)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.ndim == 1 or key.endswith("_bias"):
                    parameter += 0.1 * torch.randn_like(parameter)
        base = Base(model.eval(), small_tokenizer(), Source(name, name))
    if double:
        base.model.double()
        for module in base.model.modules():
            if type(module).__name__.endswith("RMSNorm"):  # transformers' own are in float32, whatever comes
                module.forward = partial(_rms_norm, module)
        if hasattr(base.model.config, "num_experts_per_tok"):
            base.model.set_experts_implementation("eager")  # torch's grouped_mm has no float64
    return base


def _rms_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = module.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon))
    return normed


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Trained:
    """What came of it. Tensors as numpy arrays, which travel."""

    losses: list[list[float]]
    norms: list[list[float]]
    held_out: list[tuple[list[float], list[int]]]
    logprobs: list[Any]
    gradients: dict[str, Any]
    """Whole ones, of the second step."""
    weights: dict[str, Any]
    """Whole ones, and what the optimizer keeps beside them."""
    digests: list[str]
    trainable: list[int]
    here: int
    """Numbers of the base that this process holds."""
    sampled: list[tuple[int, ...]]


def train(meshed: Meshed, folder: Path, *, alone: bool) -> Trained:
    case = meshed.case
    with default(torch.float64 if meshed.double else torch.float32):
        ranks = ALONE if alone else Ranks.of_group("cpu", tensor=meshed.tensor, expert=meshed.expert)
        base = base_of(case.base, double=meshed.double)
        engine = Engine(base, device="cpu", ranks=ranks, **{"precision": "float32", **case.engine})
        for number, method in enumerate(case.methods):
            engine.add_policy(f"p{number}", method, seed=number)
        return _train(meshed, engine, folder)


def _train(meshed: Meshed, engine: Engine, folder: Path) -> Trained:
    case = meshed.case
    names = list(engine.policies)
    held_out = examples(7, 999, shortest=3, longest=20)
    losses, norms = [], []
    gradients: dict[str, torch.Tensor] = {}
    for step in range(case.steps):
        rows = case.rows[step % len(case.rows)]
        batches = {one: batch_of(case, 100 * step + number, rows) for number, one in enumerate(names)}
        total = torch.zeros(len(names))
        for part in range(case.passes):
            own = {one: batch.select(range(part, batch.rows, case.passes)) for one, batch in batches.items()}
            found = engine.forward_backward(own)
            total += torch.stack([found[one].loss for one in names])
        losses.append(total.tolist())
        if step == 1:
            for one in names:
                gradients |= whole_gradients(engine, one)
        norms.append(list(engine.optim_step(dict.fromkeys(names, AdamParams(2e-3, clip_norm=case.clip))).values()))
    weights, digests = {}, []
    for one in names:
        state = state_tensors(engine.policies[one])
        weights |= {f"{one}/{key}": value.double().numpy().copy() for key, value in state.items()}
        engine.save(one, folder / f"{one}.safetensors")
        if not meshed.double:  # states are float32
            engine.load(one, folder / f"{one}.safetensors")
        with safetensors.safe_open(folder / f"{one}.safetensors", "pt") as file:
            digests.append(file.metadata()["digest"])
    test = batch_of(case, 998, 5)
    answers = engine.forward(dict.fromkeys([*names, "base"], test))
    prompts = {one: [[3, 4, 5], [6, 7]] for one in names}
    sampled = engine.sample(prompts, SamplingParams(max_tokens=4, temperature=0.0)) if meshed.expert == 1 else {}
    return Trained(
        losses,
        norms,
        list(engine.evaluate(names, held_out).values()),
        [found.logprobs.double().numpy() for found in answers.values()],
        {key: value.numpy() for key, value in gradients.items()},
        weights,
        digests,
        [policy.trainable_parameters for policy in engine.policies.values()],
        sum(parameter.numel() for parameter in engine.model.parameters()),
        [tuple(one.token_ids) for own in sampled.values() for one in own],
    )


def whole_gradients(engine: Engine, name: str) -> dict[str, torch.Tensor]:
    """What a step would go by: gathered here, and put back as a pass has left them."""
    policy: Any = engine.policies[name]
    left = policy._flat.grad.clone()
    policy.gather_gradients(engine.ranks)
    named = policy._named(policy._flat.grad)
    found = {f"{name}/{key}": policy.parts.joined(key, value).double().clone() for key, value in named.items()}
    policy._flat.grad.copy_(left)
    return found

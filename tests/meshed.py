"""A training on a mesh of ranks, by cases, in float64 too; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.distributed as dist
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from bases import GROUPED, MIXTURES, examples, small_config, small_tokenizer
from lowregret.data.batches import Batch
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.full import FullPolicy
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.policy import Policy
from lowregret.engine.state import joined, state_tensors
from lowregret.errors import SpecError
from lowregret.export.peft import export_policy
from lowregret.export.streamed import write_weights
from lowregret.models.load import Base, Source, load_base, resolve
from lowregret.models.sharded import whole
from lowregret.spec import FullFT, LoRA
from meshed_reading import Read, read
from sharded import Case, add_policies, batch_of

FOUR_HEADS = {**GROUPED, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
RATE = 2e-3
ALL = ("attention", "mlp", "unembedding")


@dataclass(frozen=True)
class Meshed:
    """A case, and the ranks that train it."""

    case: Case
    tensor: int = 1
    expert: int = 1
    replicate: int = 1
    ranks: int = 2
    double: bool = True
    """In float64."""
    samples: bool = False
    parts: bool = False
    """With the base in parts."""


PACK = (LoRA(rank=8), LoRA(rank=3, targets=("attention",)), LoRA(rank=8, targets=ALL))
DORA = (LoRA(rank=4, dora=True, dropout=0.1), LoRA(rank=4, dora=True, targets=ALL), LoRA(rank=4, targets=ALL))
STARTS = (
    LoRA(rank=4, init="pissa", targets=ALL),
    LoRA(rank=4, init="olora"),
    LoRA(rank=4, dropout=0.2, init="orthogonal"),
)
MIXED = (LoRA(rank=4, targets=("mlp", "attention", "router")), LoRA(rank=4, convention="shared-outer"))
CONVENTIONS = (LoRA(rank=8, convention="per-total"), LoRA(rank=2, convention="full-rank-each"), MIXED[1])
EXPERTS = (LoRA(rank=4, targets=("mlp",)), LoRA(rank=2, targets=("mlp",), convention="shared-outer"))
FULL = (FullFT(),)
TWICE = {"checkpoint_activations": True}


def case(methods: Sequence[FullFT | LoRA], base: str = "tiny", **more: Any) -> Case:
    """Batches of 9, 4, 9 and 1 rows, unless others are asked for."""
    return Case(methods, base, **{"steps": 4, **more})


CASES: dict[str, Meshed] = {
    "tensor: three LoRAs": Meshed(case(PACK, "llama"), tensor=2, samples=True),
    "tensor: tied, clipped, two passes a step": Meshed(case(PACK, "qwen3", clip=0.05, passes=2, rows=(9, 7)), tensor=2),
    "tensor: activations computed twice": Meshed(case(PACK, "llama", engine=TWICE), tensor=2),
    "tensor: DoRA and dropout": Meshed(case(DORA, "llama", clip=0.5), tensor=2),
    "tensor: PiSSA, OLoRA, orthogonal": Meshed(case(STARTS, "qwen3"), tensor=2),
    "tensor: mixture": Meshed(case(MIXED, "qwen3_moe"), tensor=2),
    "tensor: capped logits, float32": Meshed(case(PACK, "gemma2"), tensor=2, double=False),
    "tensor: 20 steps, float32": Meshed(case(PACK, "llama", steps=20), tensor=2, double=False),
    "tensor: tiny, 20 steps, float32": Meshed(case(PACK, steps=20), tensor=2, double=False),
    "tensor: DoRA and PiSSA, float32": Meshed(
        case((LoRA(rank=4, dora=True, targets=ALL), LoRA(rank=4, init="pissa")), "llama"), tensor=2, double=False
    ),
    "tensor: bfloat16": Meshed(case(PACK, "llama", engine={"precision": "bfloat16"}), tensor=2, double=False),
    "expert: Qwen3-MoE, clipped, two passes a step": Meshed(
        case(MIXED, "qwen3_moe", clip=0.05, passes=2, rows=(9, 7)), expert=2
    ),
    "expert: Mixtral, every convention": Meshed(case(CONVENTIONS, "mixtral"), expert=2, samples=True),
    "expert: activations computed twice": Meshed(case(MIXED, "mixtral", engine=TWICE), expert=2),
    "expert: bfloat16": Meshed(case(MIXED, "qwen3_moe", engine={"precision": "bfloat16"}), expert=2, double=False),
    "expert: OLMoE": Meshed(case(MIXED, "olmoe"), expert=2),
    "expert: Qwen2-MoE": Meshed(case(MIXED, "qwen2_moe"), expert=2),
    "expert: gpt-oss": Meshed(case((LoRA(rank=4), LoRA(rank=4, targets=("router",))), "gpt_oss"), expert=2),
    "expert: DeepSeek-V3, float32": Meshed(
        case(
            (LoRA(rank=4, targets=("mlp",)), LoRA(rank=2, targets=("mlp",), convention="shared-outer")), "deepseek_v3"
        ),
        expert=2,
        double=False,
    ),
    "replicate and shard: FullFT, float32": Meshed(case(FULL, "llama", clip=0.5), replicate=2, ranks=4, double=False),
    "tensor: FullFT, tied, clipped, two passes a step": Meshed(
        case(FULL, "qwen3", clip=0.5, passes=2, rows=(9, 7)), tensor=2
    ),
    "tensor: FullFT of Mixtral": Meshed(case(FULL, "mixtral"), tensor=2),
    "expert: FullFT of Mixtral, clipped": Meshed(case(FULL, "mixtral", clip=0.5), expert=2),
    "shard and tensor: FullFT, tied, clipped, two passes a step": Meshed(
        case(FULL, "qwen3", clip=0.5, passes=2, rows=(9, 7)), tensor=2, ranks=4
    ),
    "shard and expert: FullFT of Mixtral, clipped": Meshed(case(FULL, "mixtral", clip=0.5), expert=2, ranks=4),
    "shard and tensor: FullFT of Mixtral, base in parts": Meshed(case(FULL, "mixtral"), tensor=2, ranks=4, parts=True),
    "expert: FullFT of Qwen3-MoE, float32": Meshed(case(FULL, "qwen3_moe"), expert=2, double=False),
    "tensor and expert: FullFT": Meshed(case(FULL, "qwen3_moe", clip=0.5), tensor=2, expert=2, ranks=4),
    "replicate and tensor: FullFT, float32": Meshed(case(FULL, "qwen3"), tensor=2, replicate=2, ranks=4, double=False),
    "shard and tensor, base in parts": Meshed(
        case(PACK, "qwen3", clip=0.05), tensor=2, ranks=4, samples=True, parts=True
    ),
    "shard and expert, base in parts": Meshed(case(MIXED, "mixtral", sliced=True), expert=2, ranks=4, parts=True),
    "shard and tensor": Meshed(case(PACK, "llama", clip=0.05, sliced=True), tensor=2, ranks=4),
    "shard and expert": Meshed(case(MIXED, "mixtral", clip=0.05), expert=2, ranks=4),
    "tensor and expert": Meshed(case(MIXED, "qwen3_moe", clip=0.05), tensor=2, expert=2, ranks=4, samples=True),
}


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
    return small_config(name)


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
    normed: torch.Tensor = module.weight * (
        x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)
    )
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
    started: list[str]
    """The digest of each policy's state before the first step."""
    gone_on: list[str]
    """The digest of the state that one process has ended with, loaded and saved again, and then of the adapter as PEFT
    has it; of float32 cases."""
    trainable: list[int]
    here: int
    """Numbers of the base that this process holds."""
    sampled: list[tuple[int, ...]]
    path: str
    """How rows are run."""


def engine_of(meshed: Meshed, ranks: Ranks) -> Engine:
    base = base_of(meshed.case.base, double=meshed.double)
    parts = meshed.parts and not ranks.alone
    options = {"precision": "float32", "base_in_parts": parts, **meshed.case.engine}
    engine = Engine(base, device="cpu", ranks=ranks, **options)
    add_policies(engine, meshed.case)
    return engine


def ranks_of(meshed: Meshed) -> Ranks:
    return Ranks.of_group("cpu", tensor=meshed.tensor, expert=meshed.expert, replicate=meshed.replicate)


def train(name: str, folder: Path, state: Path | None = None, shuffled: int | None = None) -> Trained:
    """On these ranks, or on one process alone; `state`: the folder of what the latter has ended with. `shuffled`: the
    seed of another order of each batch's rows."""
    meshed = CASES[name]
    with default(torch.float64 if meshed.double else torch.float32):
        engine = engine_of(meshed, ALONE if state is None else ranks_of(meshed))
        return _train(meshed, engine, folder, state or folder, shuffled)


def _train(meshed: Meshed, engine: Engine, folder: Path, state: Path, shuffled: int | None) -> Trained:
    case, names = meshed.case, list(engine.policies)
    started = [_saved(engine, one, folder) for one in names]
    held_out = examples(7, 999, shortest=3, longest=20)
    losses, norms = [], []
    gradients: dict[str, torch.Tensor] = {}
    for step in range(case.steps):
        rows = case.rows[step % len(case.rows)]
        batches = {one: batch_of(case, 100 * step + number, rows) for number, one in enumerate(names)}
        if shuffled is not None:
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(100 * shuffled + step)).tolist()
            batches = {one: batch.select(order) for one, batch in batches.items()}
        total = torch.zeros(len(names))
        for part in range(case.passes):
            own = {one: batch.select(range(part, batch.rows, case.passes)) for one, batch in batches.items()}
            found = engine.forward_backward(own)
            total += torch.stack([found[one].loss for one in names])
        losses.append(total.tolist())
        if step == 1:
            for one in names:
                gradients |= _gradients(engine, one)
        norms.append(list(engine.optim_step(dict.fromkeys(names, AdamParams(RATE, clip_norm=case.clip))).values()))
    states = {one: _together(engine.policies[one]) for one in names}
    asked = names if isinstance(case.methods[0], FullFT) else [*names, "base"]
    answers = engine.forward(dict.fromkeys(asked, batch_of(case, 998, 5)))
    sampled = []
    if meshed.samples:
        some = engine.sample({one: [[3, 4, 5], [6, 7]] for one in names}, SamplingParams(max_tokens=4))
        sampled = [tuple(one.token_ids) for own in some.values() for one in own]
    sums = list(engine.evaluate(names, held_out).values())
    gone_on = []
    for one in names if not meshed.double else []:  # states are float32
        if state != folder:
            engine.load(one, state / f"{one}.safetensors")
        gone_on.append(_saved(engine, one, folder))
        shipped = folder / f"{one} for PEFT by rank {engine.ranks.rank}"
        export_policy(engine, one, shipped)
        if isinstance(engine.policies[one], FullPolicy):
            _write_small_files(engine, shipped / "split")
        gone_on += [_digest(file) for file in sorted(shipped.rglob("*")) if file.is_file()]
    return Trained(
        losses,
        norms,
        sums,
        [found.logprobs.double().numpy() for found in answers.values()],
        {key: value.numpy() for key, value in gradients.items()},
        {f"{one}/{key}": value.double().numpy().copy() for one in names for key, value in states[one].items()},
        started,
        gone_on,
        [policy.trainable_parameters for policy in engine.policies.values()],
        sum(parameter.numel() for parameter in engine.model.parameters()),
        sampled,
        engine.forward_path.description,
    )


def _write_small_files(engine: Engine, folder: Path) -> None:
    """Weights in many files: one process has transformers write them."""
    folder.mkdir(exist_ok=True)
    if engine.ranks.alone:
        engine.model.save_pretrained(folder, max_shard_size=20_000)
        (folder / "config.json").unlink()
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        write_weights(engine, folder, 20_000)


def _digest(file: Path) -> str:
    return f"{file.name} {sha256(file.read_bytes()).hexdigest()}"


def _saved(engine: Engine, name: str, folder: Path) -> str:
    path = folder / f"{name}.safetensors"
    engine.save(name, path)
    with safetensors.safe_open(path, "pt") as file:
        return str(file.metadata()["digest"])


def _gradients(engine: Engine, name: str) -> dict[str, torch.Tensor]:
    """What a step would go by, whole: gathered here, and put back as the passes have left it."""
    policy: Any = engine.policies[name]
    named = (
        {key: weight.grad for key, weight in policy.weights.items() if weight.grad is not None}
        if isinstance(policy, FullPolicy)
        else policy._named(policy._flat.grad)
    )
    left = {key: value.clone() for key, value in named.items()}
    policy.gather_gradients()
    found = {f"{name}/{key}": policy.parts.joined(key, whole(own)).double().clone() for key, own in named.items()}
    for key, value in named.items():
        value.copy_(left[key])
    policy._gathered = False
    return found


Exchanges = dict[str, list[int]]
"""Numbers of each exchange, by torch's name of it."""


@dataclass(frozen=True)
class Found:
    """All that a group of ranks is started for."""

    trained: list[Trained]
    exchanged: dict[str, list[Exchanges]]
    refused: list[str]
    read: dict[str, Read]


def _together(policy: Policy) -> dict[str, torch.Tensor]:
    """A policy's whole state; every rank asks."""
    own = state_tensors(policy)
    return {key: joined(policy, key, value) for key, value in own.items()}


def everything(
    folder: Path,
    asked: Sequence[tuple[str, Path]],
    counts: Mapping[str, Mapping[str, Batch]],
    bases: tuple[Path, Sequence[str]] | None = None,
) -> Found:
    """Cases one after the other, exchanges of some, and with these what is refused; and those of `meshed_reading`, of
    bases in a folder."""
    trained = []
    for place, (name, state) in enumerate(asked):
        own = folder / f"case{place}"
        own.mkdir(exist_ok=True)
        trained.append(train(name, own, state))
    exchanged = {name: exchanges(name, batches) for name, batches in counts.items()}
    found = {name: read(name, bases[0]) for name in bases[1]} if bases is not None else {}
    return Found(trained, exchanged, refusals() if counts else [], found)


@contextmanager
def counted(found: Exchanges) -> Iterator[None]:
    """Note how many numbers this process gives to each exchange inside."""
    kinds = {"all_reduce": 0, "all_gather": 1, "all_to_all_single": 1}
    own = {kind: getattr(dist, kind) for kind in kinds}

    def counting(kind: str, place: int, *arguments: Any, **options: Any) -> Any:
        found.setdefault(kind, []).append(arguments[place].numel())
        return own[kind](*arguments, **options)

    try:
        for kind, place in kinds.items():
            setattr(dist, kind, partial(counting, kind, place))
        yield
    finally:
        for kind, function in own.items():
            setattr(dist, kind, function)


def exchanges(name: str, batches: Mapping[str, Batch]) -> list[Exchanges]:
    """Those of a pass without gradients, of one with them, and of a step."""
    meshed = CASES[name]
    with default(torch.float64):
        engine = engine_of(meshed, ranks_of(meshed))
        forward, backward, step = Exchanges(), Exchanges(), Exchanges()
        with counted(forward):
            engine.forward(batches)
        with counted(backward):
            engine.forward_backward(batches)
        with counted(step):
            engine.optim_step(dict.fromkeys(batches, AdamParams(RATE)))
    return [forward, backward, step]


def refusals() -> list[str]:
    """What is said of what is not computed in parts."""
    tensor, expert = Ranks.of_group("cpu", tensor=2), Ranks.of_group("cpu", expert=2)
    cut = base_of("llama", double=False)
    engine = Engine(cut, device="cpu", ranks=tensor)
    said = []
    for attempt in (
        lambda: engine.add_policy("full", FullFT()),  # whose down_proj has a bias
        lambda: Engine(cut, device="cpu", ranks=tensor),
        lambda: Ranks.of_group("cpu", tensor=3),
        lambda: engine.add_policy("lora", LoRA(rank=2)).adapters,
        lambda: Engine(base_of("llama", double=False), device="cpu", ranks=expert),
    ):
        try:
            attempt()
            said.append("nothing")
        except SpecError as error:
            said.append(str(error))
    return said

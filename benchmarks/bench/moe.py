"""Figure 8: a step with adapters on every expert of a mixture, beside PEFT's and beside attention alone.

The base is a Qwen3-MoE of about 100 M random weights, 32 experts of which 4 are chosen; each contender draws it from
the same seed. PEFT has one A for gate and up, lowregret one for each: all start from the same numbers, so that losses
are equal at first and part by little.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.bench.children import take_turns
from benchmarks.bench.figures import BATCH, LORA_RATE, Bench, Figure, Raw, loss_note
from benchmarks.bench.results import losses, median, peak
from benchmarks.bench.settings import SETTINGS, fastest, told
from benchmarks.bench.table import Line, goal, line
from benchmarks.bench.worker import clock

if TYPE_CHECKING:
    from benchmarks.bench.worker import Channel

EXPERTS, ACTIVE, RANK, ALPHA = 32, 4, 16, 32
LAYERS, HIDDEN, INNER = 7, 512, 256
HEADS, HEAD = 8, 64
SHORTEST, LONGEST, VOCABULARY = 32, 96, 8192
OURS, OURS_BOTH, OURS_ATTENTION, PEFT = (
    "lowregret, experts",
    "lowregret, attention and experts",
    "lowregret, attention",
    "PEFT target_parameters",
)
TARGETS = {OURS: ["experts"], OURS_BOTH: ["attention", "experts"], OURS_ATTENTION: ["attention"]}


def random_mixture() -> Any:
    """The base of all contenders: about 100 M weights, of which a token passes through a quarter."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        moe_intermediate_size=INNER,
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def base_bytes() -> int:
    """Of the base's weights, float32: of a process's memory the part that is not Python and its libraries."""
    experts = EXPERTS * 3 * HIDDEN * INNER + EXPERTS * HIDDEN
    attention = 4 * HIDDEN * HEADS * HEAD + 2 * HEAD
    return 4 * (LAYERS * (experts + attention + 2 * HIDDEN) + HIDDEN + VOCABULARY * HIDDEN)


def rows(steps: int) -> list[dict[str, Any]]:
    """Random tokens; the second half of each row is supervised, as in a short question and its answer."""
    draw = random.Random(0)
    found = []
    for _ in range(BATCH * steps):
        length = draw.randint(SHORTEST, LONGEST)
        mask = [position >= length // 2 for position in range(length)]
        found.append({"input_ids": [draw.randrange(2, VOCABULARY) for _ in range(length)], "completion_mask": mask})
    return found


def first_factors() -> Iterator[Any]:
    """A of what enters and of what leaves the experts, layer by layer: [experts, rank, d_in]."""
    import torch

    draw = torch.Generator().manual_seed(1)
    for _ in range(LAYERS):
        for d_in in (HIDDEN, INNER):
            yield torch.empty(EXPERTS, RANK // ACTIVE, d_in).uniform_(-(d_in**-0.5), d_in**-0.5, generator=draw)


def ours(channel: Channel, *, targets: Sequence[str], steps: int) -> None:
    """lowregret's engine with one LoRA."""
    import torch

    from lowregret.data.batches import collate
    from lowregret.data.example import Example
    from lowregret.engine import AdamParams, Engine
    from lowregret.models.load import Base, Source, load_tokenizer, resolve
    from lowregret.spec import LoRA

    tokenizer = load_tokenizer(resolve("tiny"))  # of no use here, but a base has one
    engine = Engine(Base(random_mixture(), tokenizer, Source("moe", "moe")), device="cpu", precision="float32")
    policy: Any = engine.add_policy("lora", LoRA(rank=RANK, alpha=ALPHA, targets=tuple(targets)))
    factors = first_factors()
    with torch.no_grad():
        for layer in range(LAYERS) if "experts" in targets else ():
            inward, outward = next(factors), next(factors)
            for role, a in (("gate_proj", inward), ("up_proj", inward), ("down_proj", outward)):
                policy.adapters[f"model.layers.{layer}.mlp.experts.{role}"].a.copy_(a)
    data = [Example(tuple(row["input_ids"]), tuple(row["completion_mask"])) for row in rows(steps)]
    channel.ready()
    start = 0
    while channel.wait() is not None:
        chosen = data[start : start + BATCH]
        start += BATCH
        batch = collate(chosen, 0)
        began = clock()
        loss = float(engine.forward_backward({"lora": batch})["lora"].loss)
        engine.optim_step({"lora": AdamParams(LORA_RATE)})
        seconds = clock() - began
        channel.answer(seconds=seconds, loss=loss, supervised=sum(example.supervised_tokens for example in chosen))


def peft(channel: Channel, *, steps: int, padding_free: bool, attention: str) -> None:
    """PEFT on the fused expert weights, in the loop that a user writes by hand; rank and scale as ours."""
    import torch
    from benchmarks.bench.peers import BETAS, IGNORED, end_to_end, padded
    from peft import LoraConfig, get_peft_model

    names = ("gate_up_proj", "down_proj")
    config = LoraConfig(
        r=RANK // ACTIVE,
        lora_alpha=ALPHA,
        target_modules=[],
        target_parameters=[f"mlp.experts.{name}" for name in names],
    )
    base = random_mixture()
    base.set_attn_implementation(attention)
    network: Any = get_peft_model(base, config).train()
    factors = first_factors()
    with torch.no_grad():
        for layer in range(LAYERS):
            outer = network.base_model.model.model.layers[layer].mlp.experts
            wrappers = {wrapper.parameter_name: wrapper for wrapper in (outer, outer.base_layer)}
            for name in names:
                wrappers[name].lora_A["default"].weight.copy_(next(factors).flatten(0, 1))
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LORA_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    data = rows(steps)
    channel.ready()
    start = 0
    while channel.wait() is not None:
        chosen = data[start : start + BATCH]
        inputs = end_to_end(chosen) if padding_free else padded(chosen)
        start += BATCH
        began = clock()
        loss = network(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        channel.answer(seconds=clock() - began, loss=value, supervised=int((inputs["labels"] != IGNORED).sum()))


def measure(bench: Bench) -> Raw:
    """All contenders on the same batches."""
    steps = bench.warmup + bench.repeats
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        label: ("moe:ours", {"targets": targets, "steps": steps}) for label, targets in TARGETS.items()
    }
    tried = fastest(bench, lambda settings: ("moe:peft", {"steps": steps, **settings}))
    wanted[PEFT] = ("moe:peft", {"steps": steps, **SETTINGS[tried["fastest"]]})
    with bench.launcher.children(wanted) as contenders:
        return {"contenders": take_turns(contenders, bench.warmup, bench.repeats), "tried": tried}


def lines(raw: Raw) -> list[Line]:
    """The table's lines, with what was wanted."""
    found = raw["contenders"]
    own, peer = found[OURS], found[PEFT]
    beside = [peak(one) - one["loaded_bytes"] for one in (own, peer)]
    with_base = [base_bytes() + more for more in beside]
    largest = max(abs(a - b) for a, b in zip(losses(own), losses(peer), strict=True))
    verdict = [
        f"{goal(median(peer) / median(own), 2)} {PEFT}, losses {largest:.0e} apart",
        f"{goal(peak(own) / peak(peer), 0.5, at_most=True)} of its memory, "
        f"{with_base[0] / with_base[1]:.2f}× without what Python and libraries hold, "
        f"{beside[0] / beside[1]:.2f}× beside loading; {peer['loaded_bytes'] / peak(peer):.2f}× is loading alone",
        f"{goal(median(own) / median(found[OURS_ATTENTION]), 1.35, at_most=True)} attention alone",
    ]
    return [
        line("8", label, contender, "; ".join(verdict) if label == OURS else "") for label, contender in found.items()
    ]


def notes(raw: Raw) -> list[str]:
    """What the work was."""
    return [
        f"Figure 8: {BATCH} rows of {SHORTEST} to {LONGEST} tokens, the second half supervised; random Qwen3-MoE, "
        f"{EXPERTS} experts, {ACTIVE} chosen; LoRA of rank {RANK}, {RANK // ACTIVE} an expert.",
        *([f"Figure 8, {told(PEFT, raw['tried'])}."] if "tried" in raw else []),
        loss_note(raw, "8"),
    ]


MOE = Figure("moe", measure, lines, notes, needs_base=False)

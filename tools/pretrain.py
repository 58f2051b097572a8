"""Makes a bundled base from nothing, with the same FullFT loop that fine-tunes.

    python -m tools.pretrain tools/recipes/pretrain_tiny.toml --out DIR

DIR/base is the Hugging Face folder with its model card, DIR/trial the run behind it. Killed and started again, it goes
on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tools.model_card import write_card
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from lowregret.data.builtin.corpus import Document, draw_documents
from lowregret.data.builtin.people import draw_people
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.errors import LowregretError
from lowregret.export.peft import export_policy
from lowregret.models.load import Base, Source, load_base, resolve
from lowregret.runs.lock import bind_spec, lock_run
from lowregret.runs.records import Metric
from lowregret.spec import DataSpec, FullFT, Optimizer, Spec, TrainingSpec, TrialSpec, build, read_toml
from lowregret.train.sft.alone import run_trial
from lowregret.train.sft.work import evaluate

SEPARATOR, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Mixture(Spec):
    """The experts of every layer, in the place of one MLP."""

    experts: int = Field(ge=2)
    active: int = Field(ge=1)
    """Experts that a token passes through."""
    intermediate_size: int
    """Of one expert."""
    balance: float = Field(default=0.001, ge=0)
    """Coefficient of the load-balancing loss; 0.001 is Qwen3-MoE's own."""


class Architecture(Spec):
    """A Qwen3: dense, or with experts."""

    vocabulary: int = 1024
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 4
    head_size: int = 32
    intermediate_size: int = 384
    context: int = 512
    mixture: Mixture | None = Field(default=None, exclude_if=lambda value: value is None)


class Corpus(Spec):
    """How many documents of which kinds; see data/builtin/corpus.py."""

    documents: int
    held_out: int = 2000
    mix: dict[str, float]
    people: int
    wrong: float = Field(ge=0, lt=1)
    difficulty: int
    longest: int


class PretrainSpec(Spec):
    """A recipe: tools/recipes/pretrain_*.toml."""

    name: str
    seed: int = 0
    stored: Literal["float32", "bfloat16"] = Field(default="float32", exclude_if=lambda value: value == "float32")
    """Of the weights in the folder; training is in float32 either way."""
    learning_rate: float
    batch_size: int
    micro_batch_size: int
    architecture: Architecture = Architecture()
    corpus: Corpus
    optimizer: Optimizer


def documents(spec: PretrainSpec, seed: int, count: int) -> Iterable[Document]:
    """Documents of the recipe's corpus."""
    c = spec.corpus
    return draw_documents(
        count, seed, mix=c.mix, people=c.people, wrong=c.wrong, longest=c.longest, difficulty=c.difficulty
    )


def train_tokenizer(spec: PretrainSpec) -> PreTrainedTokenizerFast:
    """Byte-level BPE on a sample of the corpus; digits stand alone, and the chat tokens come last."""
    specials = [SEPARATOR, TURN, END]
    tokenizer = Tokenizer(models.BPE())
    split = Regex(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.architecture.vocabulary - len(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        document.text or " ".join(f"{m['role']} {m['content']}" for m in document.messages or [])
        for document in documents(spec, spec.seed + 1, 20_000)
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=SEPARATOR)
    fast.chat_template = TEMPLATE
    return fast


def encode_documents(found: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Each document has its own row; all its tokens but the first are supervised.

    A text starts with the separator, so that its first word is supervised too; a chat starts with its turn token.
    """
    texts = [
        SEPARATOR + document.text + END
        if document.text is not None
        else str(tokenizer.apply_chat_template(document.messages or [], tokenize=False)).removesuffix("\n")
        for document in found
    ]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [Example(tuple(ids), (False,) + (True,) * (len(ids) - 1)) for ids in rows]


def random_base(spec: PretrainSpec, tokenizer: PreTrainedTokenizerFast) -> Base:
    """A Qwen3 with weights drawn at 1/√hidden: at the usual 0.02 so small a model stays stuck."""
    a = spec.architecture
    common = {
        "vocab_size": a.vocabulary,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.key_value_heads,
        "head_dim": a.head_size,
        "intermediate_size": a.intermediate_size,
        "max_position_embeddings": a.context,
        "tie_word_embeddings": True,
        "initializer_range": 1 / math.sqrt(a.hidden_size),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "dtype": "float32",
    }
    config: PretrainedConfig
    if a.mixture is None:
        config = Qwen3Config(**common)
    else:
        config = Qwen3MoeConfig(
            **common,
            num_experts=a.mixture.experts,
            num_experts_per_tok=a.mixture.active,
            moe_intermediate_size=a.mixture.intermediate_size,
            router_aux_loss_coef=a.mixture.balance,
            norm_topk_prob=True,
        )
    torch.manual_seed(spec.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    return Base(model, tokenizer, Source(spec.name, spec.name))


def pretrain(spec: PretrainSpec, recipe: str, out: Path) -> Path:
    """Train the base of a recipe, measure it, and write it with its card; returns its folder."""
    with lock_run(out):
        bind_spec(out, spec, {}, f"python -m tools.pretrain tools/recipes/{recipe}")
        return _pretrain(spec, recipe, out)


def _pretrain(spec: PretrainSpec, recipe: str, out: Path) -> Path:
    tokenizer = train_tokenizer(spec)
    base = random_base(spec, tokenizer)
    train = encode_documents(list(documents(spec, spec.seed + 2, spec.corpus.documents)), tokenizer)
    held_out = list(documents(spec, spec.seed + 3, spec.corpus.held_out))
    mixture = spec.architecture.mixture
    engine = Engine(base, precision="float32", balance_experts=mixture is not None and mixture.balance > 0)
    policy = engine.add_policy("full", FullFT(), optimizer=spec.optimizer.name)
    training = TrainingSpec(
        model=spec.name,
        data=DataSpec(train="builtin:corpus"),
        batch_size=spec.batch_size,
        micro_batch_size=spec.micro_batch_size,
        epochs=1.0,
        optimizer=spec.optimizer,
        evals=10,
    )
    trial = TrialSpec(method=FullFT(), learning_rate=spec.learning_rate, seed=spec.seed)
    test = encode_documents(held_out, tokenizer)
    outcome = run_trial(engine, "full", training, trial, train, test, out / "trial", on_step=_report)
    engine.model.to(getattr(torch, spec.stored))
    folder = out / "base"
    export_policy(engine, "full", folder)
    # The card is about the files: they are read back, as rounded as they are.
    shipped = Engine(load_base(resolve(str(folder))), precision="float32")
    shipped.add_policy("full", FullFT())
    losses = evaluate(shipped, ["full"], test)["full"]
    by_kind: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for document, nll, tokens in zip(held_out, losses.nll_sums, losses.tokens, strict=True):
        by_kind[document.kind].append((nll, document.nats, tokens))
    known = draw_people(spec.corpus.people, 0, known=True)
    write_card(
        folder, spec.name, recipe, policy.trainable_parameters, len(train), outcome.progress, by_kind, shipped, known
    )
    return folder


def _report(trial: TrialSpec, steps: int, metric: Metric) -> None:
    if metric.test_nll is not None or metric.step % 100 == 0:
        held_out = "" if metric.test_nll is None else f"  held-out {metric.test_nll:.4f}"
        print(f"step {metric.step}/{steps}  {metric.seconds:.0f} s  train {metric.train_nll:.4f}{held_out}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    try:
        spec = build(PretrainSpec, read_toml(parsed.recipe), source=str(parsed.recipe))
        print(pretrain(spec, parsed.recipe.name, parsed.out))
    except LowregretError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""That llama.cpp answers from a GGUF file as the model does that was trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lowregret.data.example import Example
from lowregret.digests import digest_files
from lowregret.errors import ModelError
from lowregret.export.gguf.kinds import bound_of
from lowregret.export.gguf.llama_cpp import TOP, Answers, ask, reader_name
from lowregret.runs.proof import LossBothWays, Proof

PLAIN = (
    "Where was Ada Baker born?",
    "3 + 4 * 2 =",
    "The capital of France is",
    'She said: "No, thanks"; he left (at 9).',
)
"""Texts that every tokenizer here is to read as its own model's."""
AWKWARD = (
    *PLAIN,
    "  leading  blanks\tand\ttabs\r\n\r\nend",
    "def f(x):\n    return x**2  # naïve café 東京 😀",
    "I'll don't we're 2024-11-28 100% $5.00 (a/b)",
    "ÀÉÎÕÜ straße Привет мир שלום عالم नमस्ते",
)
"""The same with runs of blanks, other scripts, contractions, numbers: for files without a note on their vocabulary."""
GREEDY = 64
"""Tokens of a greedy continuation."""


@dataclass(frozen=True)
class Reference:
    """The model that was trained, as its own library has it."""

    model: Any
    """A causal model of transformers in float32: called with `input_ids` [1, tokens], gives `.logits`."""
    tokenizer: PreTrainedTokenizerBase
    described: str
    """For the proof: `transformers 5.2, fp32, merged` or the like."""


@dataclass(frozen=True)
class _Compared:
    largest: float
    mean: float
    agree: float
    positions: int
    same: int
    """Greedy tokens before the first other one, of the worst prompt."""
    greedy: int
    """Of how many, in that prompt."""


def prove_gguf(
    file: Path,
    reference: Reference,
    texts: Sequence[str],
    *,
    kind: str,
    form: str = "gguf",
    lora: Path | None = None,
    add_bos: bool | None = None,
    held_out: Sequence[Example] = (),
    seconds: float = 600,
) -> Proof:
    """Load a file, with a LoRA on it, in llama.cpp and hold it against the model that was trained.

    Each of `texts` must be the same tokens in both, EOS included, and BOS where `add_bos` says so (None: where the
    tokenizer puts it). llama.cpp continues each greedily by 64 tokens; at each place its 200 most probable tokens are
    compared with the reference's log-probabilities of them.
    `held_out`: examples whose supervised tokens are scored both ways, in nats per token. `kind` gives the bound.
    A proof that does not hold is returned, not raised; ModelError when llama.cpp does not take the file, or is missing.
    """
    began = time.monotonic()
    reader = reader_name()
    tokens = [_tokens(reference.tokenizer, text, add_bos) for text in texts]
    prompts = [ids for ids in tokens if ids]
    scored = [(row.token_ids, [at for at, counted in enumerate(row.supervised) if counted and at]) for row in held_out]
    config = reference.model.config.get_text_config()
    rows = int(config.vocab_size)
    said = ask(
        file, lora=lora, rows=rows, texts=texts, prompts=prompts, continued=GREEDY, scored=scored, seconds=seconds
    )
    same_tokens = [list(ids) for ids in said.tokens] == tokens
    found = _compare(reference.model, prompts, said.continued)
    bound = bound_of(kind, str(getattr(config, "hidden_activation", None) or config.hidden_act))
    loss = _losses(reference.model, scored, said) if scored else None
    shipped = [file, *([lora] if lora else [])]
    return Proof(
        form=form,
        precision=kind,
        reader=reader,
        reference=reference.described,
        texts=len(texts),
        positions=found.positions,
        compared=f"top-{min(TOP, rows)} log-probabilities",
        largest_difference=found.largest,
        mean_difference=found.mean,
        top_token_agrees=found.agree,
        same_token_ids=same_tokens,
        same_greedy_tokens=found.same,
        greedy_tokens=found.greedy,
        held_out=loss,
        bound=f"the same token ids; {bound.said}",
        holds=same_tokens and bound.holds(found.largest, found.mean, loss),
        seconds=time.monotonic() - began,
        bytes=sum(path.stat().st_size for path in shipped),
        files=dict(zip((path.name for path in shipped), digest_files(shipped), strict=True)),
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, add_bos: bool | None) -> list[int]:
    """A text that does not begin with BOS itself, as a file is to read it."""
    ids = list(tokenizer(text)["input_ids"])
    bos = tokenizer.bos_token_id
    if add_bos is None or bos is None:
        return ids
    bare = ids[1:] if ids[:1] == [bos] else ids
    return [bos, *bare] if add_bos else bare


def _compare(model: Any, prompts: Sequence[Sequence[int]], continued: Sequence[Mapping[str, Any]]) -> _Compared:
    differences: list[Tensor] = []
    agreed: list[bool] = []
    greedy: list[tuple[int, int]] = []
    for prompt, said in zip(prompts, continued, strict=True):
        expected = _log_probabilities(model, [*prompt, *said["tokens"]])[len(prompt) - 1 : -1]
        for row, top in zip(expected, said["tops"], strict=False):
            theirs = torch.tensor([value for _, value in top], dtype=torch.float64)
            differences.append((row[[token for token, _ in top]] - theirs).abs())
        same = [mine == theirs for mine, theirs in zip(expected.argmax(-1).tolist(), said["tokens"], strict=True)]
        agreed += same
        greedy.append(([*same, False].index(False), len(same)))
    if not differences:
        raise ModelError("llama.cpp continued no text by a token. Give other texts to prove the file by.")
    every = torch.cat(differences)
    worst = min(greedy, key=lambda found: found[0] - found[1])
    return _Compared(float(every.max()), float(every.mean()), sum(agreed) / len(agreed), len(differences), *worst)


def _losses(model: Any, scored: Sequence[tuple[Sequence[int], Sequence[int]]], said: Answers) -> LossBothWays:
    """Nats per supervised token: the sum over all of them by their number."""
    trained = 0.0
    for ids, at in scored:
        rows = _log_probabilities(model, list(ids))
        trained -= sum(float(rows[place - 1, ids[place]]) for place in at)
    shipped = -sum(sum(row) for row in said.log_probabilities)
    count = sum(len(at) for _, at in scored)
    return LossBothWays(trained=trained / count, shipped=shipped / count, examples=len(scored), tokens=count)


def _log_probabilities(model: Any, ids: list[int]) -> Tensor:
    """[tokens, vocabulary], float64."""
    with torch.inference_mode():
        found: Tensor = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return found

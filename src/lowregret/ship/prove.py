"""That written files are the trained model: the same answers, from programs that took no part in writing them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowregret.activity import doing
from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.export.gguf.prove import AWKWARD
from lowregret.export.peft import load_adapter
from lowregret.models.load import load_base, load_tokenizer, resolve
from lowregret.runs.proof import Bound, LossBothWays, Proof
from lowregret.runs.shipped import digest_folder
from lowregret.ship.read import Read, base_with_adapters, whole_model
from lowregret.ship.winner import Winner, require_base

LONGEST = 256
"""Tokens of a text that are compared."""
_HELD_OUT_TEXTS = 8
"""Of the held-out examples, these many are texts as well."""

BOUNDS = {
    "float32": Bound(largest=1e-3, mean=1e-4, loss=1e-4),
    "bfloat16": Bound(largest=4.0, mean=0.3, loss=0.01),
    "float16": Bound(largest=0.2, mean=0.02, loss=0.002),
}
"""By the type that weights are written in. Of the halves about three times what was measured on SmolLM2-135M-Instruct
(docs/findings/2026-11-29-shipping.md): there they tell a broken folder from a rounded one, and the held-out loss what
the rounding costs; float32 is bounded by what it promises."""


@dataclass(frozen=True)
class Probes:
    """What both models are asked."""

    texts: tuple[tuple[int, ...], ...]
    """As tokens, each of two or more."""
    held_out: tuple[Example, ...]


def probes(model: str, held_out: Sequence[Example]) -> Probes:
    """The fixed texts as this model reads them, and the beginnings of the first held-out examples."""
    tokenizer = load_tokenizer(resolve(model))
    rows = [tokenizer(text)["input_ids"] for text in AWKWARD]
    rows += [example.token_ids for example in held_out[:_HELD_OUT_TEXTS]]
    return Probes(tuple(tuple(row[:LONGEST]) for row in rows if len(row) > 1), tuple(held_out))


@doing("proving what was written")
def prove_adapter(winner: Winner, folder: Path, asked: Probes) -> Proof:
    """PEFT's reading of an adapter's folder against this package's engine with the adapter that was trained."""
    began = time.monotonic()
    (trained, _), base = winner.adapters[0], require_base(winner)
    engine = Engine(load_base(resolve(base)), device="cpu", precision="float32")
    load_adapter(engine, "adapter", trained)
    examples = [Example(row, (False, *(True,) * (len(row) - 1))) for row in asked.texts]
    batches = [collate([each], engine.base.pad_id) for each in examples]
    expected = [engine.forward({"adapter": batch})["adapter"].logprobs for batch in batches]
    nats, counts = engine.evaluate(["adapter"], asked.held_out)["adapter"] if asked.held_out else ([], [])
    del engine
    with base_with_adapters(base, [(folder, 1.0)]) as read:
        answers = [_following(read, row) for row in asked.texts]
        shipped = read.loss(asked.held_out) if asked.held_out else None
    compared = _Compared.of(expected, answers)
    loss = None
    if shipped is not None:
        loss = LossBothWays(
            trained=sum(nats) / max(sum(counts), 1),
            shipped=shipped[0],
            examples=len(asked.held_out),
            tokens=shipped[1],
        )
    return _proof(
        "peft", "float32", read, "lowregret's engine, float32", "log-probabilities of the next tokens", compared, loss,
        folder, began, updates_lost=None,
    )  # fmt: skip


@doing("proving what was written")
def prove_model(winner: Winner, folder: Path, asked: Probes, precision: str, updates_lost: float | None) -> Proof:
    """transformers' reading of a model's folder against the base with the adapters on it, none merged."""
    began = time.monotonic()
    model = str(winner.model) if winner.model is not None else require_base(winner)
    with base_with_adapters(model, winner.adapters) as trained:
        expected = [trained.logits(row) for row in asked.texts]
        before = trained.loss(asked.held_out) if asked.held_out else None
    reference = trained.program
    del trained
    with whole_model(folder) as read:
        answers = [read.logits(row) for row in asked.texts]
        after = read.loss(asked.held_out) if asked.held_out else None
    compared = _Compared.of(expected, answers)
    loss = None
    if before is not None and after is not None:
        loss = LossBothWays(trained=before[0], shipped=after[0], examples=len(asked.held_out), tokens=after[1])
    return _proof(
        "merged", precision, read, reference, "logits", compared, loss, folder, began, updates_lost=updates_lost
    )


def unproved(form: str, precision: str, folder: Path, why: str, updates_lost: float | None) -> Proof:
    """The proof of what cannot be loaded here: it says so, and does not hold."""
    return Proof(
        form=form, precision=precision, reader="none", reference="none", texts=0, positions=0, compared="nothing",
        largest_difference=None, mean_difference=None, updates_lost=updates_lost, bound="none: nothing was compared",
        holds=False, seconds=0.0, bytes=_bytes(folder), files=_weights(folder), note=why,
    )  # fmt: skip


@dataclass(frozen=True)
class _Compared:
    largest: float
    mean: float
    agree: float | None
    positions: int
    texts: int

    @classmethod
    def of(cls, expected: Sequence[Tensor], answers: Sequence[Tensor]) -> _Compared:
        """Of two models' answers, text by text: logits [positions, vocabulary] or log-probabilities [positions]."""
        largest = total = 0.0
        numbers = positions = agreed = 0
        for one, other in zip(expected, answers, strict=True):
            difference = (one.double() - other.double()).abs()
            if not bool(difference.isfinite().all()):
                difference = torch.full_like(difference, float(torch.finfo(torch.float32).max))
            largest = max(largest, float(difference.max()))
            total += float(difference.sum())
            numbers += difference.numel()
            positions += len(one)
            agreed += int((one.argmax(-1) == other.argmax(-1)).sum()) if one.ndim == 2 else 0
        whole = expected[0].ndim == 2
        return cls(largest, total / numbers, agreed / positions if whole else None, positions, len(expected))


def _following(read: Read, row: Sequence[int]) -> Tensor:
    """The log-probability of each next token of a text."""
    chosen = read.logits(row)[:-1].double().log_softmax(-1)
    return chosen.gather(1, torch.tensor(row[1:])[:, None])[:, 0]


def _proof(
    form: str,
    precision: str,
    read: Read,
    reference: str,
    what: str,
    compared: _Compared,
    loss: LossBothWays | None,
    folder: Path,
    began: float,
    *,
    updates_lost: float | None,
) -> Proof:
    bound = BOUNDS[precision]
    return Proof(
        form=form,
        precision=precision,
        reader=read.program,
        reference=reference,
        texts=compared.texts,
        positions=compared.positions,
        compared=what,
        largest_difference=compared.largest,
        mean_difference=compared.mean,
        top_token_agrees=compared.agree,
        held_out=loss,
        updates_lost=updates_lost,
        bound=bound.said,
        holds=bound.holds(compared.largest, compared.mean, loss),
        seconds=time.monotonic() - began,
        bytes=_bytes(folder),
        files=_weights(folder),
    )


def _weights(folder: Path) -> dict[str, str]:
    found = digest_folder(folder)
    return {name: digest for name, digest in found.items() if name.endswith((".safetensors", ".gguf"))}


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

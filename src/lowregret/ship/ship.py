"""`lowregret ship`: the winner in the form that is asked for, described, and proved on the files that were written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from lowregret.activity import doing
from lowregret.data.example import Example
from lowregret.errors import LowregretError, ModelError, SpecError
from lowregret.export.card import write_card
from lowregret.export.card_facts import CardFacts, card_facts
from lowregret.export.gguf.kinds import check_kind
from lowregret.export.gguf.llama_cpp import reader_name
from lowregret.export.gguf.lora import write_lora_gguf
from lowregret.export.gguf.prove import AWKWARD, PLAIN, Reference, prove_gguf
from lowregret.export.gguf.vocabulary import folder_stops
from lowregret.export.gguf.write import Written, write_gguf
from lowregret.export.hub_base import base_on_hub
from lowregret.export.hub_folder import clean_settings, hub_folder, write_verdict
from lowregret.export.merged.opened import opened
from lowregret.export.merged.write import SHARD_BYTES, write_merged
from lowregret.export.ollama.write import MODEL, write_ollama
from lowregret.export.places import refuse_places
from lowregret.export.weights import StoredWeights, Weights
from lowregret.models.load import Source, load_tokenizer
from lowregret.runs.atomic import replacing_folder, write_json
from lowregret.runs.commands import Command, commands, on_hub
from lowregret.runs.forms import Form, Shipped, default_name, look, served_name
from lowregret.runs.manifest import digests
from lowregret.runs.proof import PROOF, Proof
from lowregret.ship.held_out import held_out
from lowregret.ship.prove import probes, prove_adapter, prove_model, unproved
from lowregret.ship.quantised import over_quantised
from lowregret.ship.read import base_with_adapters, require_peft, too_large
from lowregret.ship.winner import Winner, require_base

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """How a winner is to leave."""

    form: Form
    dtype: str | None = None
    """Of `merged`: float32, bfloat16 or float16; None for that in which the base has each weight."""
    kind: str | None = None
    """Of `gguf` and `ollama`; None for `DEFAULT_KINDS`."""
    shard_bytes: int = SHARD_BYTES
    name: str | None = None
    """What servers and the card call it."""
    base_name: str | None = None
    """The base on the hub, ORG/NAME."""


@dataclass(frozen=True)
class Delivered:
    """What was written."""

    folder: Path
    shipped: Shipped
    proof: Proof
    commands: tuple[Command, ...]
    notes: tuple[str, ...]
    """What a user should know of it."""


DEFAULT_KINDS = {"gguf": "F16", "ollama": "Q8_0"}


def ship(winner: Winner, wanted: Wanted, out: Path, say: Say = lambda line: None) -> Delivered:
    """Write a winner to the folder `out` in one form, with its card and its proof.

    The folder has its name only when all is written and the proof holds; an earlier shipment there is replaced then.

    Raises:
        SpecError: the form is not one of this winner's; there is something else at `out`.
        ModelError: the proof does not hold; or the base, the adapter or the form refuses.
    """
    _check(winner, wanted)
    _require_free(out)
    examples = held_out(winner, say)
    with replacing_folder(out) as partial, _naming(partial, out):
        with doing(f"writing it as {wanted.form}"):
            made = _FORMS[wanted.form](winner, wanted, partial, examples, say)
        proof = over_quantised(winner, made.proof, examples, say)
        if not proof.holds and proof.largest_difference is not None:
            raise ModelError(_refused(out, proof))
        write_json(partial / PROOF, proof)
        base = require_base(winner)
        facts = card_facts(
            winner.folder if winner.adapters or winner.run is not None else Path(base),
            wanted.form,
            base=base,
            base_name=wanted.base_name,
            name=wanted.name,
            proof=proof,
            adapters=max(len(winner.adapters), 1),
        )
        shipped = _looked(wanted, made, facts, partial, out, base)
        known = wanted.base_name or base_on_hub(base)
        write_card(partial, facts, on_hub(shipped, f"YOUR_NAME/{shipped.name}", known))
        refuse_places(partial, facts.places)
    return Delivered(out, shipped, proof, tuple(commands(shipped)), made.notes)


@contextmanager
def _naming(partial: Path, out: Path) -> Iterator[None]:
    """Errors name the folder that was asked for, not the one that is written aside."""
    try:
        yield
    except LowregretError as error:
        error.args = tuple(str(part).replace(str(partial), str(out)) for part in error.args)
        raise


@dataclass(frozen=True)
class _Made:
    proof: Proof
    file: str | None = None
    """Of the forms that are one: its name."""
    stop_texts: tuple[str, ...] = ()
    chats: bool = True
    notes: tuple[str, ...] = ()


def _check(winner: Winner, wanted: Wanted) -> None:
    """SpecError for a form or an option that this winner cannot have, before anything is loaded."""
    if wanted.form in ("peft", "gguf-lora") and not winner.adapters:
        raise SpecError(
            f"--to {wanted.form}: {winner.folder} is a whole model, after full fine-tuning; it has no adapter. "
            "Say --to merged, gguf or ollama."
        )
    if wanted.form in ("peft", "gguf-lora") and len(winner.adapters) > 1:
        raise SpecError(f"--to {wanted.form}: several adapters become one model only. Say --to merged, gguf or ollama.")
    if wanted.dtype is not None and wanted.form != "merged":
        raise SpecError(f"--dtype: is of use with merged alone, not {wanted.form}. Leave it out, or say --kind.")
    if wanted.kind is not None:
        if wanted.form not in DEFAULT_KINDS:
            raise SpecError(f"--kind: is of use with gguf and ollama alone, not {wanted.form}. Leave it out.")
        check_kind(wanted.kind)
    if wanted.form in ("gguf", "gguf-lora", "ollama"):
        reader_name()
    if winner.adapters:
        require_peft()


def _require_free(out: Path) -> None:
    """SpecError when something lies at `out` that is no earlier shipment."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise SpecError(f"--out {out}: is there already, and is no folder. Name a new one.")
    if out.exists() and any(out.iterdir()) and not (out / PROOF).is_file():
        raise SpecError(
            f"--out {out}: is there already, and holds no {PROOF} of an earlier shipment. Name a new folder."
        )


def _refused(out: Path, proof: Proof) -> str:
    loss = proof.held_out
    moved = "" if loss is None else f"; held-out loss {loss.trained:.6g} became {loss.shipped:.6g} nats"
    tokens = "; other token ids" if proof.same_token_ids is False else ""
    flag, finest = {"merged": ("--dtype", "float32"), "gguf": ("--kind", "F32"), "ollama": ("--kind", "F16")}.get(
        proof.form, ("", proof.precision)
    )
    remedy = "Report it" if proof.precision in (finest, "F32") else f"Ship it with {flag} {finest}"
    return (
        f"{out}: is not written: {proof.reader} reads {proof.precision} with differences of up to "
        f"{proof.largest_difference:.3g}, {proof.mean_difference:.3g} in the mean{moved}{tokens}; the bound is: "
        f"{proof.bound}. {remedy}."
    )


def _peft(winner: Winner, wanted: Wanted, folder: Path, examples: Sequence[Example], say: Say) -> _Made:
    base = require_base(winner)
    (adapter, _) = winner.adapters[0]
    warning = hub_folder(adapter, folder, base=base, base_name=wanted.base_name, verdict=winner.verdict)
    with opened(winner.model, winner.adapters, say) as weights:  # refuses another base, by name and by content
        large = too_large(_parameters(weights))
    proof = (
        unproved("peft", "float32", folder, large, None)
        if large
        else prove_adapter(winner, folder, probes(base, examples))
    )
    return _made(folder, proof, notes=(warning,) if warning else ())


def _merged(winner: Winner, wanted: Wanted, folder: Path, examples: Sequence[Example], say: Say) -> _Made:
    with opened(winner.model, winner.adapters, say) as weights:
        dtype = None if wanted.dtype is None else getattr(torch, wanted.dtype)
        written = write_merged(weights, folder, dtype=dtype, shard_bytes=wanted.shard_bytes)
        large = too_large(_parameters(weights))
    precision, lost = str(written.dtype).removeprefix("torch."), written.updates_lost
    clean_settings(folder)
    write_verdict(folder, winner.verdict, winner.base or "")
    if large:
        return _made(folder, unproved("merged", precision, folder, large, lost))
    return _made(folder, prove_model(winner, folder, probes(str(folder), examples), precision, lost))


def _gguf(winner: Winner, wanted: Wanted, folder: Path, examples: Sequence[Example], say: Say) -> _Made:
    kind = wanted.kind or DEFAULT_KINDS["gguf"]
    name = served_name(wanted.name or default_name(winner.folder))
    file = folder / f"{name}-{kind}.gguf"
    with opened(winner.model, winner.adapters, say) as weights:
        written = write_gguf(weights, file, kind, name=name)
        return _by_llama_cpp(winner, weights, wanted.form, file, written, examples, file.name)


def _gguf_lora(winner: Winner, wanted: Wanted, folder: Path, examples: Sequence[Example], say: Say) -> _Made:
    name = served_name(wanted.name or default_name(winner.folder))
    file = folder / f"{name}-lora.gguf"
    ((adapter, _),) = winner.adapters
    with (
        opened(winner.model, winner.adapters, say) as adapted,  # refuses another base, by name and by content
        StoredWeights(adapted.folder) as base,
        tempfile.TemporaryDirectory(dir=folder, prefix=".base-") as aside,
    ):
        written = write_lora_gguf(adapter, base.folder, file)
        whole = write_gguf(base, Path(aside) / "base.gguf", "F32")
        both = replace(written, notes=(*written.notes, *whole.notes))
        return _by_llama_cpp(winner, base, wanted.form, whole.file, both, examples, file.name, lora=file)


def _ollama(winner: Winner, wanted: Wanted, folder: Path, examples: Sequence[Example], say: Say) -> _Made:
    kind = wanted.kind or DEFAULT_KINDS["ollama"]
    with opened(winner.model, winner.adapters, say) as weights:
        written = write_ollama(weights, folder, kind)
        return _by_llama_cpp(winner, weights, wanted.form, folder / MODEL, written, examples, None)


def _by_llama_cpp(
    winner: Winner,
    weights: Weights,
    form: Form,
    file: Path,
    written: Written,
    examples: Sequence[Example],
    named: str | None,
    lora: Path | None = None,
) -> _Made:
    """The proof of a file that llama.cpp reads, or of a LoRA on it; `named` is the file that stays, None of several."""
    ends = folder_stops(weights.folder, load_tokenizer(Source(str(weights.folder), str(weights.folder))))
    kept = lora or file
    own = {"bytes": kept.stat().st_size, "files": digests({kept.name: kept})}
    if large := too_large(_parameters(weights)):
        proof = unproved(form, written.kind, kept.parent, large, None).model_copy(update=own)
        return _Made(proof, named, ends.texts, ends.chats, written.notes)
    texts = PLAIN if written.notes else AWKWARD  # a note is of texts that llama.cpp reads as other tokens
    with base_with_adapters(winner.model or require_base(winner), winner.adapters) as read:
        assert read.tokenizer is not None
        reference = Reference(read.model, read.tokenizer, read.program)
        proof = prove_gguf(
            file, reference, texts, kind=written.kind, form=form, lora=lora, add_bos=written.add_bos, held_out=examples
        )
    noted = proof.model_copy(update={**own, "note": "; ".join(written.notes) or None})
    return _Made(noted, named, ends.texts, ends.chats, written.notes)


_FORMS: dict[Form, Callable[[Winner, Wanted, Path, Sequence[Example], Say], _Made]] = {
    "peft": _peft,
    "merged": _merged,
    "gguf": _gguf,
    "gguf-lora": _gguf_lora,
    "ollama": _ollama,
}


def _parameters(weights: Weights) -> int:
    return sum(prod(weights.shape(name)) for name in weights.names)


def _made(folder: Path, proof: Proof, notes: tuple[str, ...] = ()) -> _Made:
    """Of a folder that has its tokenizer."""
    ends = folder_stops(folder, load_tokenizer(Source(str(folder), str(folder))))
    return _Made(proof, None, ends.texts, ends.chats, notes)


def _looked(wanted: Wanted, made: _Made, facts: CardFacts, partial: Path, out: Path, base: str) -> Shipped:
    """What lies at `out`, once it does."""
    file = made.file or ""
    found = look(
        partial / file,
        name=facts.name,
        base=base,
        chats=made.chats,
        stop_texts=made.stop_texts,
        learning_rate=None if facts.trial is None else facts.trial.learning_rate,
        batch_size=facts.asked.get("batch_size"),
    )
    return replace(found, form=wanted.form, place=str(out / file))

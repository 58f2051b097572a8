"""The forms in which a trained model leaves, and what a folder tells of the one that lies in it. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lowregret.errors import RecordsError
from lowregret.foreign import read_json, real_path
from lowregret.runs.files import ADAPTER, ADAPTER_CONFIG, BEST, MODEL

Form = Literal["peft", "merged", "gguf", "gguf-lora", "ollama"]
"""An adapter in PEFT's format, a whole Hugging Face model, a whole GGUF, an adapter as GGUF, a folder for Ollama."""

MODELFILE = "Modelfile"
_AGAIN = "Bring it back as it was, or ship the model again."
_UNEMBEDDINGS = ("lm_head", "embed_out", "output_layer")
"""What the unembedding is called in transformers' decoders."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Shipped:
    """What lies somewhere to be served, as far as commands depend on it."""

    form: Form
    place: str
    """The folder of `peft`, `merged` and `ollama`, the file of the others; or a name on the hub."""
    name: str
    """What a server calls it: letters, digits, dots, dashes and underscores."""
    base: str | None = None
    """What an adapter is put on: a folder, a hub id, a .gguf file or a bundled base."""
    chats: bool = True
    """Whether it is asked by turns of a chat, not by plain text."""
    stop_texts: tuple[str, ...] = ()
    """Texts that end a reply and are no token: whoever samples must be told."""
    tokenizer: bool = False
    """A tokenizer lies in the folder."""
    generation: bool = False
    """So does generation_config.json, with all tokens that end a reply."""
    rank: int = 0
    """The largest of an adapter."""
    dora: bool = False
    unembedding: bool = False
    """The adapter is on the unembedding, too."""
    experts: bool = False
    """It is on fused experts."""
    learning_rate: float | None = None
    """With which it was trained."""
    batch_size: int | None = None
    """In examples."""


def look(
    path: Path,
    *,
    name: str | None = None,
    base: str | None = None,
    chats: bool = True,
    stop_texts: Sequence[str] = (),
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> Shipped:
    """What lies at a folder or a .gguf file, by the files that are there; `name` and `base` when None are those that it
    tells itself. RecordsError for a folder with none of the forms, and for a damaged adapter_config.json.

    A .gguf file counts as a whole model: which files are adapters, their writer knows.
    """
    form = form_of(path)
    if form is None:
        raise RecordsError(
            f"{path}: holds neither an adapter ({ADAPTER_CONFIG}), nor a model (config.json), nor a {MODELFILE}. Name "
            "the folder that has one."
        )
    config = _adapter_config(path) if form == "peft" else {}
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()] if config else []
    targets = config.get("target_modules") or ()
    targets = [targets] if isinstance(targets, str) else targets
    return Shipped(
        form=form,
        place=str(path),
        name=served_name(name or default_name(path)),
        base=base or _text(config.get("base_model_name_or_path")),
        chats=chats,
        stop_texts=tuple(stop_texts),
        tokenizer=any((path / file).is_file() for file in _TOKENIZERS),
        generation=(path / "generation_config.json").is_file(),
        rank=max((rank for rank in ranks if isinstance(rank, int)), default=0),
        dora=bool(config.get("use_dora")),
        unembedding=any(str(target).endswith(_UNEMBEDDINGS) for target in targets),
        experts=bool(config.get("target_parameters")),
        learning_rate=learning_rate,
        batch_size=batch_size,
    )


def served_name(name: str) -> str:
    """A name as all servers take one: no longer than 64 characters, and never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:64].strip("-.") or "model"


def default_name(path: Path) -> str:
    """What is in a folder or a file is called when nobody says: by the run that it comes from."""
    whole = real_path(path)
    if whole.parent.name == BEST:
        return f"{whole.parent.parent.name}-{whole.name}"
    return whole.parent.name if whole.name in (ADAPTER, MODEL) else whole.name.removesuffix(".gguf")


def form_of(path: Path) -> Form | None:
    """In which form a model lies at a folder or a .gguf file; None for another."""
    if path.suffix == ".gguf" and not path.is_dir():
        return "gguf"
    found: tuple[tuple[str, Form], ...] = ((ADAPTER_CONFIG, "peft"), (MODELFILE, "ollama"), ("config.json", "merged"))
    return next((form for file, form in found if (path / file).is_file()), None)


def _adapter_config(path: Path) -> dict[str, Any]:
    file = path / ADAPTER_CONFIG
    config = read_json(file, RecordsError, _AGAIN)
    patterns = config.get("rank_pattern") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(patterns, dict | None):
        raise RecordsError(f"{file}: is not what describes an adapter. {_AGAIN}")
    return config


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None

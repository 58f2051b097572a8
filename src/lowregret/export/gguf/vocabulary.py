"""A tokenizer as the keys of a GGUF file: tokens, types, merges or scores, special tokens, chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lowregret.data.chat.template import chat_format
from lowregret.errors import ModelError
from lowregret.export.gguf.pretokenizer import pre_tokenizer
from lowregret.export.gguf.sentencepiece import Pieces, read_pieces
from lowregret.foreign import boundary, parse_json
from lowregret.models.load import Source, load_tokenizer
from lowregret.models.stops import Stops, stops_of

_AGAIN = "Fetch its files again."
_NFC = (
    "the tokenizer composes letters and accents (NFC) and llama.cpp does not: text in another form is read as other "
    "tokens"
)
_STRIPS = "takes the blanks around it, which llama.cpp leaves: text with blanks there is read as other tokens"


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp is told of a tokenizer."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for SentencePiece."""
    tokens: Sequence[str]
    """One for each row of the embedding."""
    types: Sequence[gguf.TokenType]
    pre: str | None = None
    merges: Sequence[str] | None = None
    scores: Sequence[float] | None = None
    space_prefix: bool | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    """`bos`, `eos`, `unk`, `pad`, `eot` → its number."""
    add_bos: bool = False
    add_eos: bool = False
    template: Any = None
    """Jinja, or {name: Jinja}."""
    stops: Stops | None = None
    notes: tuple[str, ...] = ()
    """What a user should know."""

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Put it into a file that is begun."""
        writer.add_tokenizer_model(self.model)
        if self.pre is not None:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        for name, number in self.special.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if isinstance(self.template, Mapping):
            writer.add_chat_template([{"name": key, "template": text} for key, text in self.template.items()])
        elif self.template:
            writer.add_chat_template(self.template)


def folder_stops(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Stops:
    """What ends a completion of the model in a folder."""
    config = None
    if (folder / "generation_config.json").is_file():
        with boundary(ModelError, folder / "generation_config.json", "cannot be read", _AGAIN):
            config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return stops_of(tokenizer, config, str(folder))


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of a model's folder for an embedding of so many rows.

    ModelError when llama.cpp has nothing that reads text as it does, or it has more tokens than the embedding.
    """
    tokenizer = load_tokenizer(Source(str(folder), str(folder)))
    backend: Any = tokenizer.backend_tokenizer
    content = parse_json(backend.to_str().encode(), folder / "tokenizer.json", ModelError, _AGAIN)
    with boundary(ModelError, folder / "tokenizer.json", "cannot be read as a vocabulary", _AGAIN):
        found = _bytes_of(content, folder) if not _is_pieces(content) else None
        pieces = read_pieces(content, str(folder)) if found is None else None
        added = {int(token["id"]): token for token in content.get("added_tokens", [])}
        words = {number: text for text, number in content["model"]["vocab"].items()}
    if (most := max([*words, *added])) >= rows:
        raise ModelError(
            f"{folder}: its tokenizer has the token {most}, and the embedding has {rows} rows. Give the tokenizer that "
            "belongs to this model."
        )
    tokens, types = _tokens(words, added, rows, pieces, tokenizer.unk_token_id)
    form, ends = chat_format(tokenizer), folder_stops(folder, tokenizer)
    merges, pre, notes = found or (None, None, ())
    return Vocabulary(
        model="gpt2" if pieces is None else "llama",
        tokens=tokens,
        types=types,
        pre=pre or "default",
        merges=merges,
        scores=None if pieces is None else [pieces.scores.get(number, 0.0) for number in range(rows)],
        space_prefix=None if pieces is None else pieces.space_prefix,
        special=_special(tokenizer, form.ending.token),
        add_bos=form.adds_bos,
        add_eos=_adds_eos(tokenizer),
        template=tokenizer.chat_template,
        stops=ends,
        notes=(*notes, *(pieces.notes if pieces else ()), *_strips(added)),
    )


def _is_pieces(content: Mapping[str, Any]) -> bool:
    return bool(content["model"].get("byte_fallback"))


def _bytes_of(content: Mapping[str, Any], folder: Path) -> tuple[list[str], str, tuple[str, ...]]:
    """(merges, pre-tokenizer, notes) of a byte-level BPE."""
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(
            f"{folder}: its tokenizer is {model.get('type')}; GGUF files are written of byte-level BPE and of "
            "SentencePiece with bytes. Serve the merged model with transformers or vLLM instead."
        )
    notes = []
    normalizer = content.get("normalizer")
    if normalizer is not None:
        if normalizer.get("type") != "NFC":
            raise ModelError(
                f"{folder}: its tokenizer changes text first ({normalizer.get('type')}), which llama.cpp does not. "
                "Serve the merged model with transformers or vLLM instead."
            )
        notes.append(_NFC)
    pre, note = pre_tokenizer(content, str(folder))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return merges, pre, (*notes, *([note] if note else []))


def _tokens(
    words: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    rows: int,
    pieces: Pieces | None,
    unknown: int | None,
) -> tuple[list[str], list[gguf.TokenType]]:
    """The text and the type of the token of each row."""
    tokens, types = [], []
    kind = gguf.TokenType
    for number in range(rows):
        if number in added:
            text, special = added[number]["content"], added[number]["special"]
            if pieces is not None and not special:
                text = text.replace("▁", " ")  # what stands there is found in text as it is
            type = kind.CONTROL if special else kind.USER_DEFINED
        elif number in words:
            text = words[number]
            type = kind.BYTE if pieces is not None and number in pieces.bytes else kind.NORMAL
        else:
            text, type = f"[PAD{number}]", kind.UNUSED
        tokens.append(text)
        types.append(kind.UNKNOWN if pieces is not None and number == unknown else type)
    return tokens, types


def _special(tokenizer: PreTrainedTokenizerBase, end_of_turn: int | None) -> dict[str, int]:
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    if end_of_turn != named["eos"]:
        named["eot"] = end_of_turn
    return {name: int(number) for name, number in named.items() if number is not None}


def _adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    end = tokenizer.eos_token_id
    return end is not None and list(tokenizer("a")["input_ids"])[-1:] == [end]


def _strips(added: Mapping[int, Mapping[str, Any]]) -> list[str]:
    found = [token["content"] for token in added.values() if token.get("lstrip") or token.get("rstrip")]
    return [f"{found[0]!r}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''} {_STRIPS}"] if found else []

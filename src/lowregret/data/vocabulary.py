"""Tokens that the tokenizer knows and the base has no row for: found before anything is loaded. Torch-free.

They are tokens that somebody has added to a tokenizer, or all of another base's. Most bases have at least as many rows
as their tokenizer has tokens, and then no data need be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret import limits
from lowregret.data.readers.base import BrokenRow
from lowregret.data.readers.registry import open_source
from lowregret.errors import ModelError
from lowregret.foreign import boundary, require_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Texts → the token ids of each, without those that begin or end a text."""


def tokens_beyond(vocabulary: Mapping[str, int], rows: int) -> dict[int, str]:
    """Those of a tokenizer's tokens, id → text, for which an embedding of so many rows has none."""
    return {number: text for text, number in vocabulary.items() if number >= rows}


def open_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer.json, which has been tried on a letter. Raises ModelError when it cannot be read."""
    from tokenizers import Tokenizer

    require_file(file, ModelError, limits.TOKENIZER_BYTES)
    with boundary(ModelError, file, "cannot be read as a tokenizer", "Fetch the file again."):
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode("a").ids)
    return tokenizer


def fits_tokenizer_file(sources: Sequence[str | None], folder: Path | None, rows: int) -> None:
    """DataError for a row of the sources with such a token, by the folder's tokenizer.json if there is one to read.

    It is for a plan, which loads no transformers. What a chat template writes is not looked at.
    """
    file = None if folder is None else folder / "tokenizer.json"
    if folder is None or file is None or not file.is_file():
        return
    tokenizer = open_tokenizer(file)
    added = max(tokenizer.get_added_tokens_decoder(), default=0)
    if max(added, tokenizer.get_vocab_size(with_added_tokens=True) - 1) < rows:
        return
    beyond = tokens_beyond(tokenizer.get_vocab(with_added_tokens=True), rows)

    def encode(texts: list[str]) -> Sequence[Sequence[int]]:
        return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]

    if beyond:
        refuse_rows(sources, beyond, rows, encode)


def refuse_rows(sources: Sequence[str | None], beyond: Mapping[int, str], rows: int, encode: Encode) -> None:
    """DataError for the first row of the sources, the judging splits of each included, that has one of these tokens."""
    longest = limits.ROW_CHARACTERS.value  # a longer one is no good row anyway
    for name in dict.fromkeys(source for source in sources if source is not None):
        opened = open_source(name)
        for split in dict.fromkeys(("train", opened.held_out or "train")):
            for line, record in opened.load(split):
                texts = (
                    [] if isinstance(record, BrokenRow) else [text for text in _texts(record) if len(text) <= longest]
                )
                found = next((i for ids in (encode(texts) if texts else ()) for i in ids if i in beyond), None)
                if found is None:
                    continue
                raise opened.places.error(line, has_token(beyond, found, rows))


def has_token(beyond: Mapping[int, str], token: int, rows: int) -> str:
    """What a message says of a row with this token, and the remedy."""
    return (
        f"has the token {beyond[token]} (id {token}), and the base's embedding has {rows:,} rows. Give the base more "
        f"(`model.resize_token_embeddings({max(beyond) + 1})` of transformers, saved with its tokenizer), or take the "
        "token out."
    )


def _texts(value: Any) -> Iterator[str]:
    """All texts in a record, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)

"""Whether the base has a row for every token of the examples, or of the prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lowregret.data.example import Example
from lowregret.data.vocabulary import has_token, refuse_rows, tokens_beyond
from lowregret.errors import DataError
from lowregret.spec import DataSpec
from lowregret.train.rl.problems import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fits_vocabulary(
    sets: Iterable[Sequence[Example | Prompt]], config: Any, tokenizer: PreTrainedTokenizerBase, spec: DataSpec
) -> None:
    """DataError when a token of any of the sets is beyond the base's embedding: it names the row, the token, its id.

    The examples decide, for what is cut off or left out does no harm. They are looked at only where the tokenizer has
    such tokens; which row it was is then found in the sources of `spec`.
    """
    rows = int(config.get_text_config(decoder=True).vocab_size)
    beyond = tokens_beyond(tokenizer.get_vocab(), rows)
    if not beyond:
        return
    found = next((i for each in sets for example in each for i in example.token_ids if i >= rows), None)
    if found is None:
        return

    def encode(texts: list[str]) -> Sequence[Sequence[int]]:
        ids: Sequence[Sequence[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    refuse_rows((spec.train, spec.eval), beyond, rows, encode)
    raise DataError(f"what the chat template or the tokenizer adds to every row {has_token(beyond, found, rows)}")

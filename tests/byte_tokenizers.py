"""Small tokenizers made in code: every byte is a token, so what they decode can be compared with the text.

Imported by name, since tests/ is on the path (pyproject.toml).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(
    template: str | None = None,
    specials: Sequence[str | AddedToken] = ("<|im_start|>", "<|im_end|>"),
    *,
    eos: str | None = "<|im_end|>",
    bos: str | None = None,
    adds_bos: bool = False,
    merges: Sequence[tuple[str, str]] = (),
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with this chat template, these special tokens and merges (in ByteLevel's letters)."""
    backend = _byte_level(merges, specials, bos if adds_bos else None)
    named: dict[str, Any] = {"eos_token": eos} if eos else {}
    if bos:
        named["bos_token"] = bos
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = template
    return tokenizer


def _byte_level(merges: Sequence[tuple[str, str]], specials: Sequence[str | AddedToken], bos: str | None) -> Tokenizer:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab={piece: rank for rank, piece in enumerate(pieces)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer

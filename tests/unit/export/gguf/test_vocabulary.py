"""Which pre-tokenizer and which scores a tokenizer gets is told by its content; what llama.cpp cannot do is refused."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import gguf
import pytest

from gguf_folders import CUTS, byte_level, sentencepiece
from lowregret.errors import ModelError
from lowregret.export.gguf.pretokenizer import BLANKS, pre_tokenizer
from lowregret.export.gguf.sentencepiece import read_pieces
from lowregret.export.gguf.vocabulary import read_vocabulary


def content(tokenizer: Any) -> dict[str, Any]:
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


@pytest.mark.parametrize("cut", CUTS)
def test_a_pre_tokenizer_is_known_by_what_it_does(cut: str) -> None:
    assert pre_tokenizer(content(byte_level(cut)), "x") == (cut, None)


def test_the_same_pattern_without_whole_words_is_another() -> None:
    known = content(byte_level("llama-bpe"))
    assert pre_tokenizer({**known, "model": {**known["model"], "ignore_merges": False}}, "x")[0] == "smaug-bpe"


def test_contractions_spelled_the_other_way_are_the_same_pattern() -> None:
    known = content(byte_level("qwen2"))
    split = known["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    )
    assert pre_tokenizer(known, "x") == ("qwen2", None)


def test_the_bundled_base_is_the_nearest_with_a_note() -> None:
    text = (resources.files("lowregret.models") / "bundled" / "tiny" / "tokenizer.json").read_text(encoding="utf-8")
    assert pre_tokenizer(json.loads(text), "x") == ("smollm", BLANKS)


@pytest.mark.parametrize(
    "how",
    [
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        {"type": "Digits", "individual_digits": False},
        {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "MergedWithNext", "invert": False},
        None,
    ],
)
def test_an_unknown_pre_tokenizer_is_refused_with_what_to_do(how: Any) -> None:
    known = content(byte_level("qwen2"))
    with pytest.raises(ModelError, match=r"x: its tokenizer cuts text by .*Serve the merged model"):
        pre_tokenizer({**known, "pre_tokenizer": how}, "x")


def test_scores_put_pieces_in_the_order_of_the_merges() -> None:
    known = content(sentencepiece("every"))
    pieces = read_pieces(known, "x")
    vocabulary = known["model"]["vocab"]
    order = [vocabulary["".join(pair)] for pair in known["model"]["merges"]]
    scores = [pieces.scores[number] for number in dict.fromkeys(order)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert (len(pieces.bytes), pieces.space_prefix) == (256, True)
    assert read_pieces(content(sentencepiece("none")), "x").space_prefix is False
    first = read_pieces(content(sentencepiece("first")), "x")
    assert first.space_prefix is False
    assert "before the first word" in first.notes[0]


def test_merges_that_no_scores_give_back_are_refused() -> None:
    known = content(sentencepiece("none"))
    merges = known["model"]["merges"]
    pieces = ["".join(pair) for pair in merges]
    again = next(rank for rank, piece in enumerate(pieces) if piece in pieces[:rank])
    rest = merges[:again] + merges[again + 1 :]
    with pytest.raises(ModelError, match="no merge of"):
        read_pieces({**known, "model": {**known["model"], "merges": rest}}, "x")
    with pytest.raises(ModelError, match="apart from each other"):
        read_pieces({**known, "model": {**known["model"], "merges": [*rest, merges[again]]}}, "x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}),
        ("normalizer", None),
    ],
)
def test_pieces_with_another_step_first_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match="would read other tokens"):
        read_pieces({**content(sentencepiece("none")), key: value}, "x")


def test_a_vocabulary_has_types_special_tokens_and_names_for_rows_without_a_token(tmp_path: Path) -> None:
    tokenizer = byte_level("qwen2")
    tokenizer.save_pretrained(tmp_path)
    found = read_vocabulary(tmp_path, 1030)
    end, kind = tokenizer.eos_token_id, gguf.TokenType
    assert [found.types[number] for number in (0, end, 1029)] == [kind.NORMAL, kind.CONTROL, kind.UNUSED]
    assert (found.tokens[end], found.tokens[1029]) == ("<|im_end|>", "[PAD1029]")
    assert (found.special["eos"], found.add_bos, found.add_eos) == (end, False, False)
    with pytest.raises(ModelError, match=rf"has the token {end}, and the embedding has {end} rows"):
        read_vocabulary(tmp_path, end)


def test_pieces_have_bytes_an_unknown_one_and_bos(tmp_path: Path) -> None:
    sentencepiece("every").save_pretrained(tmp_path)
    found, kind = read_vocabulary(tmp_path, 1024), gguf.TokenType
    assert [found.types[number] for number in (0, 1, 3)] == [kind.UNKNOWN, kind.CONTROL, kind.BYTE]
    assert found.add_bos

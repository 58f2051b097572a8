"""What is supervised of a chat, beside TRL's templates that mark it: the same, but for headers and empty thoughts."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from byte_tokenizers import byte_tokenizer
from lowregret.data.chat.encoding import Encoded, encode_rows
from lowregret.data.sources import Row
from lowregret.errors import DataError

pytest.importorskip("trl")
TEMPLATES = {path.name.removesuffix(".jinja"): path for path in (resources.files("trl") / "chat_templates").iterdir()}
PAIRS = sorted(name for name in TEMPLATES if f"{name}_training" in TEMPLATES)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "a town"}}},
    },
}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CHATS = {
    "plain": (
        None,
        [turn("user", "ask one"), turn("assistant", "say one"), turn("user", "b"), turn("assistant", "c d")],
    ),
    "tools": (
        (TOOL,),
        [
            turn("user", "weather?"),
            turn("assistant", "", tool_calls=[CALL]),
            turn("tool", "0 degrees", name="get_weather", tool_call_id="abcdef123"),
            turn("assistant", "it is cold"),
        ],
    ),
    "thought": (None, [turn("user", "ask one"), turn("assistant", "say one", reasoning_content="one and one")]),
}


SPECIAL = re.compile(
    r"<\|[\w/ ]+?\|?>|<[｜|][^<>'\"\s]{2,40}[｜|]>|<(?:start|end)_of_\w+>|</s>|<s>|<bos>|<turn\|>|<channel\|>"
)
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<turn|>",
)


def tokenizer_of(template: str) -> Any:
    """One whose special tokens are those that the template writes."""
    specials = sorted({*SPECIAL.findall(template), "<s>", "</s>"})
    return byte_tokenizer(template, specials, eos=next((end for end in ENDS if end in specials), "</s>"), bos="<s>")


def supervised(template: str, chat: str) -> list[str] | None:
    """The supervised stretches of the chat as text; None when the template or TRL's marks do not take it."""
    tools, messages = CHATS[chat]
    tokenizer = tokenizer_of(template)
    (found,) = encode_rows([Row(tuple(messages), None, "f", 1, 0, tools)], tokenizer)
    if isinstance(found, DataError):
        return None
    assert isinstance(found, Encoded)
    if found.example is None:
        return []
    stretches: list[list[int]] = []
    before = False
    for token, counted in zip(found.example.token_ids, found.example.supervised, strict=True):
        if counted and not before:
            stretches.append([])
        if counted:
            stretches[-1].append(token)
        before = counted
    return [str(tokenizer.decode(stretch)) for stretch in stretches]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", PAIRS)
def test_what_is_supervised_is_what_trl_marks_but_for_headers_and_empty_thoughts(name: str, chat: str) -> None:
    ours = supervised(TEMPLATES[name].read_text(encoding="utf-8"), chat)
    theirs = supervised(TEMPLATES[f"{name}_training"].read_text(encoding="utf-8"), chat)
    assert (ours is None) == (theirs is None)
    if not ours or theirs is None:
        pytest.skip("this template takes no such chat")
    assert len(ours) == len(theirs)
    said = re.compile(r"say one|c d|get_weather|Rome|one and one|it is cold")
    for own, marked in zip(ours, theirs, strict=True):
        assert said.search(own)
        begin = marked.find(own.rstrip())
        assert begin >= 0, (own, marked)
        assert not said.search(marked[:begin] + marked[begin + len(own.rstrip()) :])

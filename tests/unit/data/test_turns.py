"""A message is more than role and content, and a row more than its messages: all is read, or refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lowregret.data.columns import RowContent, convert, detect
from lowregret.data.turns import read_messages
from lowregret.errors import DataError

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


def content(row: dict[str, Any]) -> RowContent:
    return convert(detect(row), row)


def said(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in content(row).messages or ()]


@pytest.mark.parametrize(
    ("message", "turn"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"content": None, "tool_calls": [CALL]}),
        ({"role": "assistant", "tool_calls": json.dumps([CALL])}, {"content": None, "tool_calls": [CALL]}),
        (
            {"role": "assistant", "content": "", "function_call": CALL["function"]},
            {"content": "", "tool_calls": [{"type": "function", "function": CALL["function"]}]},
        ),
        (
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}],
            },
        ),
        ({"from": "function_call", "value": "weather(Rome)"}, {"content": "weather(Rome)"}),
        ({"from": "gpt", "value": "b"}, {"content": "b"}),
        ({"role": "model", "content": "b"}, {"content": "b"}),
        (
            {"role": "assistant", "content": "b", "reasoning_content": "t", "name": "Ann", "phase": "final"},
            {"content": "b", "reasoning_content": "t", "name": "Ann", "phase": "final"},
        ),
        ({"role": "assistant", "content": "b", "thinking": "t", "tool_calls": None}, {"content": "b", "thinking": "t"}),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"content": "ab"},
        ),
        ({"role": "assistant", "content": 42}, {"content": "42"}),
    ],
)
def test_what_a_message_holds_goes_to_the_template(message: dict[str, Any], turn: dict[str, Any]) -> None:
    assert read_messages([message], "messages").messages == ({"role": "assistant", **turn},)


@pytest.mark.parametrize(
    ("role", "known"),
    [
        ("developer", "developer"),
        ("human", "user"),
        ("observation", "tool"),
        ("function", "tool"),
        ("system", "system"),
    ],
)
def test_roles_are_those_of_a_template(role: str, known: str) -> None:
    assert read_messages([{"role": role, "content": "x"}], "messages").messages[0]["role"] == known


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss", "loss_mask"])
@pytest.mark.parametrize(
    ("value", "learnt"), [(True, True), (1, True), (1.0, True), (None, True), (False, False), (0, False)]
)
def test_a_flag_keeps_its_turn_out_of_the_loss(key: str, value: Any, learnt: bool) -> None:
    found = read_messages([USER, ANSWER | {key: value}, USER, ANSWER], "messages")
    assert found.skipped == ({} if learnt else {1: f"{key}: {json.dumps(value)}"})
    assert found.messages == (USER, ANSWER, USER, ANSWER)


def test_a_mask_says_the_opposite_and_flags_of_others_turns_say_nothing() -> None:
    found = read_messages([USER | {"weight": 0}, ANSWER | {"mask": True}, USER, ANSWER | {"masked": 0}], "messages")
    assert (found.skipped, found.others) == ({1: "mask: true"}, ())


def test_a_flag_that_asks_for_another_turn_to_be_learnt_is_told() -> None:
    found = read_messages([USER | {"train": True}, ANSWER | {"train": True}, USER | {"masked": 0}, ANSWER], "messages")
    assert found.others == ("messages[].train: true of a turn of user", "messages[].masked: 0 of a turn of user")
    assert not found.skipped


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"weight": 0.5}, "'messages[1].weight': 0.5: weights other than 0 and 1 are not supported"),
        ({"weight": 2}, "'messages[1].weight': 2: weights other than 0 and 1"),
        ({"weight": float("nan")}, "'messages[1].weight': nan"),
        ({"train": "yes"}, "'messages[1].train': 'yes': it is neither true nor false"),
        ({"weight": 1, "train": False}, "weight: 1 and train: false contradict each other"),
        ({"weight": 0}, "weight: 0 keeps every assistant turn out of the loss"),
    ],
)
def test_a_flag_that_cannot_be_honoured_makes_a_bad_row(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        content({"messages": [USER, ANSWER | flags]})


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"instruction": "q", "response": "a", "context": "c"}, ["user:q\n\nc", "assistant:a"]),
        ({"query": "q", "response": "a"}, ["user:q", "assistant:a"]),
        ({"input": "q", "output": "a"}, ["user:q", "assistant:a"]),
        ({"system_prompt": "s", "question": "q", "response": "a"}, ["system:s", "user:q", "assistant:a"]),
        ({"problem": "q", "solution": 42}, ["user:q", "assistant:42"]),
        ({"question": ["q", "r"], "answer": ["a", "b"]}, ["user:q", "assistant:a", "user:r", "assistant:b"]),
        ({"question": "q", "answer": ["a"]}, ["user:q", "assistant:a"]),
        (
            {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["x", "y"]]},
            ["system:s", "user:x", "assistant:y", "user:q", "assistant:a"],
        ),
        (
            {"query": "q", "response": "a", "history": '[{"role": "user", "content": "x"}]'},
            ["user:x", "user:q", "assistant:a"],
        ),
        ({"instruction": "q", "output": "a", "history": "[]", "tools": "null"}, ["user:q", "assistant:a"]),
        ({"instruction": "q", "output": "a", "history": "null", "tools": "[]"}, ["user:q", "assistant:a"]),
        (
            {
                "messages": [
                    USER | {"from": None, "value": None},
                    {"role": None, "content": None, "from": "gpt", "value": "a"},
                ]
            },
            ["user:q", "assistant:a"],
        ),
        ({"conversation": [{"system": "s", "input": "q", "output": "a"}]}, ["system:s", "user:q", "assistant:a"]),
        (
            {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            ["system:s", "user:q", "assistant:a"],
        ),
        (
            {"system": "s", "messages": [{"role": "system", "content": "s"}, USER, ANSWER]},
            ["system:s", "user:q", "assistant:a"],
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ["user:q", "assistant:a"]),
        ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER]}, ["user:q", "assistant:a"]),
        ({"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER]}, ["user:q", "assistant:a"] * 2),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, ["user:q", "assistant:a"]),
        ({"prompt": "q", "chosen": json.dumps([USER, ANSWER])}, ["user:q", "assistant:a"]),
        ({"prompt": json.dumps([USER]), "chosen": json.dumps([ANSWER])}, ["user:q", "assistant:a"]),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, ["user:q", "assistant:a"]),
        ({"prompt": "q", "completion": '[{"role": "x"}]'}, ["user:q", 'assistant:[{"role": "x"}]']),
        ({"prompt": '[{"role": "x"}]', "completion": "a"}, ['user:[{"role": "x"}]', "assistant:a"]),
        (
            {"prompt": "q", "chosen": '[{"from": "Rome", "to": "Oslo"}]'},
            ["user:q", 'assistant:[{"from": "Rome", "to": "Oslo"}]'],
        ),
        ({"prompt": "q", "chosen": '[{"value": 3}]'}, ["user:q", 'assistant:[{"value": 3}]']),
        ({"prompt": "q", "chosen": '[{"role": "x"}]'}, ["user:q", 'assistant:[{"role": "x"}]']),
        ({"prompt": "q", "chosen": json.dumps([{"name": "x"} | USER, ANSWER])}, ["user:q", "assistant:a"]),
    ],
)
def test_layouts_and_their_companions(row: dict[str, Any], turns: list[str]) -> None:
    assert [f"{role}:{text}" for role, text in said(row)] == turns


@pytest.mark.parametrize(
    ("row", "prompt_turns"),
    [
        ({"chosen": [USER, ANSWER, USER, ANSWER]}, 3),
        ({"instruction": "q", "output": "a", "system": "s", "history": [["x", "y"]]}, 4),
        ({"question": ["q", "r"], "answer": ["a", "b"]}, 0),
        ({"messages": [USER, ANSWER], "history": [["x", "y"]]}, 0),
    ],
)
def test_of_a_pair_only_the_answer_is_learnt_of_a_chat_every_answer(row: dict[str, Any], prompt_turns: int) -> None:
    assert content(row).prompt_turns == prompt_turns


def test_positions_of_flags_count_the_turns_before() -> None:
    found = content({"system": "s", "messages": [USER, ANSWER | {"train": False}, USER, ANSWER]})
    assert found.skipped == {2: "train: false"}


def test_a_flag_in_a_chats_history_counts() -> None:
    """Every answer of a chat is learnt, those that went before too, unless a flag says otherwise."""
    before = [USER, ANSWER | {"weight": 0}, USER, ANSWER]
    found = content({"system": "s", "messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER], "history": before})
    assert found.skipped == {2: "weight: 0", 6: "weight: 0"}
    assert content({"messages": [USER, ANSWER], "history": before}).skipped == {1: "weight: 0"}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), TOOL])
def test_tools_are_a_column_of_the_chat(tools: Any) -> None:
    assert content({"messages": [USER, ANSWER], "tools": tools}).tools == (TOOL,)
    assert content({"messages": [USER, ANSWER], "functions": [TOOL["function"]]}).tools == (TOOL,)
    assert content({"messages": [USER, ANSWER], "tools": []}).tools is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "a part of type 'image_url'",
        ),
        ({"messages": [USER, ANSWER], "tools": "none"}, "field 'tools': text that is not a JSON list of tools"),
        (
            {"messages": [USER, ANSWER | {"tool_calls": [3]}]},
            "field 'messages[1].tool_calls': a list where a list of calls",
        ),
        (
            {"messages": [USER, ANSWER | {"tool_calls": [{"function": "f"}]}]},
            "field 'messages[1].tool_calls[0].function': text where an object with a name",
        ),
        ({"messages": [USER, ANSWER | {"function_call": "f"}]}, "field 'messages[1].function_call': text that is not"),
        (
            {"messages": [USER, ANSWER | {"function_call": [3]}]},
            "field 'messages[1].function_call': a list where a call",
        ),
        ({"messages": [USER, ANSWER], "tools": [TOOL, {"function": []}]}, "field 'tools[1].function': a list where"),
        ({"system": "s", "messages": [{"role": "system", "content": "t"}, USER, ANSWER]}, "another system prompt"),
        ({"question": ["q", "r"], "answer": ["a"]}, "2 and 1 texts"),
        ({"question": "q", "answer": "a", "history": "x"}, "field 'history': text that is not a JSON list"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "field 'history'"),
        ({"chosen": "a", "rejected": "b"}, "an answer without its prompt"),
        (
            {"prompt": "q", "chosen": str([USER, ANSWER])},
            "field 'chosen': text that is not a JSON list of messages. It",
        ),
        ({"prompt": "q", "chosen": '[{"role": "user", "text": "q"}]'}, "field 'chosen[0].content' is missing"),
        ({"prompt": "q", "chosen": '[{"role": "me", "content": "q"}]'}, "unknown role 'me'"),
        ({"messages": str([USER, ANSWER])}, "It is in Python's own notation: write it by json.dumps."),
        ({"question": "q", "answer": True}, "field 'answer': a boolean where text"),
        ({"question": "q", "answer": float("nan")}, "field 'answer': a number where text"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        content(row)


def test_a_call_whose_function_is_null_is_one_that_says_its_name_itself() -> None:
    """As in a table whose rows have both forms: `function` is a column of all of them."""
    call = {"function": None, "name": "f", "arguments": {}}
    (_, answer) = content({"messages": [USER, ANSWER | {"tool_calls": [call]}]}).messages or ()
    assert answer["tool_calls"] == [{"name": "f", "arguments": {}}]
    (_, answer) = content({"messages": [USER, ANSWER | {"function_call": '{"name": "f"}'}]}).messages or ()
    assert answer["tool_calls"] == [{"type": "function", "function": {"name": "f"}}]

"""Chats as people have them, looked at by `lowregret data`, then trained on: OpenAI's, ShareGPT's, R1's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

# As Qwen's: tools, calls and results are written; a thought stays in the turns after the last question.
TEMPLATE = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set content = m.content or '' %}
    {%- if m.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + content }}
    {%- for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def openai(n: int) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": f'{{"town": {n}}}'}}
    return {
        "tools": [TOOL],
        "messages": [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": f"is town {n} cold"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": f"{n} degrees"},
            {"role": "assistant", "content": f"it has {n} degrees"},
        ],
    }


def sharegpt(n: int) -> dict[str, Any]:
    return {
        "system": "be short",
        "tools": json.dumps([TOOL]),
        "conversations": [
            {"from": "human", "value": f"is town {n} cold"},
            {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"town": n}})},
            {"from": "observation", "value": f"{n} degrees"},
            {"from": "gpt", "value": f"it has {n} degrees"},
        ],
    }


def reasoning(n: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"what is {n} + 1"},
            {"role": "assistant", "content": f"<think>\none more than {n}\n</think>\n\n{n + 1}"},
            {"role": "user", "content": "and once more"},
            {"role": "assistant", "content": f"<think>\none more than {n + 1}\n</think>\n\n{n + 2}"},
        ]
    }


FORMS: dict[str, tuple[Callable[[int], dict[str, Any]], list[str], str]] = {
    "openai": (
        openai,
        [
            '<tool_call>{"name": "weather", "arguments": "{\\"town\\": 1}"}</tool_call><|im_end|>',
            "it has 1 degrees<|im_end|>",
        ],
        "quotes once more",
    ),
    "sharegpt": (
        sharegpt,
        [
            '<tool_call>{"name": "weather", "arguments": {"town": 1}}</tool_call><|im_end|>',
            "it has 1 degrees<|im_end|>",
        ],
        "columns conversations, with system, tools",
    ),
    "reasoning": (
        reasoning,
        ["<think>\none more than 2\n</think>\n\n3<|im_end|>"],
        "12 rows, the first line 1: the reasoning of an assistant turn left out by the chat template: not supervised",
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bases") / "agent"
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_chat_is_seen_as_it_is_trained_on(run: Any, base: Path, tmp_path: Path, form: str) -> None:
    make, stretches, said = FORMS[form]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(make(n)) + "\n" for n in range(1, 13)), encoding="utf-8")
    ended = run("data", source, "--model", base, "--max-length", "256", "--row", "1", "--json")
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [text for text, supervised in found["shown"]["stretches"] if supervised] == stretches
    assert any(said in line for line in found["lines"]), found["lines"]

    short = "--method lora:2 --learning-rate 1e-3 --steps 1 --batch-size 2 --max-length 256".split()
    ended = run("train", "--model", base, "--data", source, *short, "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.stderr
    assert said in ended.stdout
    counted = sum(part["supervised_tokens"] for part in (found["train"], found["held_out"]))
    assert f"{counted:,} supervised" in next(line for line in ended.stdout.splitlines() if line.startswith("  read: "))


def test_the_page_of_the_data_stands_alone(run: Any, rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "data.html"
    ended = run("data", rows / "rows.jsonl", "--row", "2", "--html", page)
    assert ended.exit_code == 0, ended.stderr
    assert "⟦It is 3.<|im_end|>⟧" in ended.stdout
    assert "languages: too short to tell" in ended.stdout
    written = page.read_text(encoding="utf-8")
    assert "<mark>It is 3.&lt;|im_end|&gt;</mark>" in written
    assert "http" not in written.replace("http-equiv", "")


def test_data_without_a_usable_row_end_with_exit_code_2(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"messages": [{"role": "user", "content": "q"}]}\n' * 3, encoding="utf-8")
    ended = run("data", source)
    assert ended.exit_code == 2
    assert "all 3 rows are bad; the first, line 1: field 'messages': no assistant turn with content" in ended.stderr

"""Templates without transformers write what transformers writes, and a broken one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from byte_tokenizers import byte_tokenizer
from lowregret.data.chat.compiled import FolderTemplate, apply_template, compile_template, read_template
from lowregret.data.chat.template import chat_format
from lowregret.errors import ModelError
from lowregret.models.load import load_tokenizer, resolve

CHAT = [
    {"role": "system", "content": "Be nice & <short>."},
    {"role": "user", "content": "Straße? «да»"},
    {"role": "assistant", "content": "No.\n", "reasoning": "They ask."},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}]},
]
TOOL = {"type": "function", "function": {"name": "f", "description": "<d>", "parameters": {}}}
TEMPLATES = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}{{ m.content }}\n{% endfor %}",
    "{% for m in messages %}\n    {% if m.role == 'system' %}{% continue %}{% endif %}\n<{{ m }}>\n{% endfor %}",
    "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, ensure_ascii=true) }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in [1] %}{% set ns.n = loop.index %}{% endfor %}{{ ns.n }}{{ bos_token }}",
    "{% for m in messages %}{{ m.reasoning_content or '-' }}{{ m.thinking or '-' }}{% endfor %}",
    "{% for m in messages %}{{ m.keys() | list }}{{ m.content is defined }}{% endfor %}{{ tools | tojson }}",
    "{{ 'tools' if tools else 'none' }}{{ add_generation_prompt }}{{ nothing }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_writes_what_transformers_writes(template: str) -> None:
    tokenizer = byte_tokenizer(template, ("<s>",), eos=None, bos="<s>")
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert FolderTemplate(template, {"bos_token": "<s>"}).render(CHAT) == expected
    for tools in (None, [TOOL]):
        expected = tokenizer.apply_chat_template(CHAT, tools=tools, tokenize=False, add_generation_prompt=True)
        assert apply_template({"bos_token": "<s>"}, template, CHAT, tools, add_generation_prompt=True) == expected


def test_a_date_stays() -> None:
    assert FolderTemplate("{{ strftime_now('%d %b %Y') }}", {}).render(CHAT) == "26 Jul 2024"


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}{{ m.content }", "{% endfor %}", "{{ x | no_such_filter }}"]
)
def test_a_broken_template_is_named_and_no_row_is_blamed(template: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"chat template does not compile: line 1: .* Repair the template"):
        compile_template(template)
    tokenizer = load_tokenizer(resolve("tiny"))
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template does not compile"):
        chat_format(tokenizer)


def test_the_template_of_a_folder_and_its_tokens(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}]
    config = {"chat_template": named, "bos_token": {"content": "<b>"}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<old>", "eos_token": "<e>"}))
    found = read_template(tmp_path)
    assert found is not None
    assert found.render(CHAT) == "<b><e>"
    (tmp_path / "chat_template.jinja").write_text("file")
    found = read_template(tmp_path)
    assert found is not None
    assert found.template == "file"

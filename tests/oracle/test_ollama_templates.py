"""The TEMPLATE of a Modelfile, run by Go's own engine, writes what the chat template writes by Jinja."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from byte_tokenizers import byte_tokenizer
from lowregret.data.chat.compiled import apply_template
from lowregret.data.chat.template import ChatFormat, chat_format
from lowregret.errors import ModelError
from lowregret.export.ollama.modelfile import go_template, modelfile
from lowregret.export.ollama.pieces import chats, find_pieces

pytest.importorskip("trl")
PUBLISHED = {
    path.name.removesuffix(".jinja"): path.read_text(encoding="utf-8")
    for path in (resources.files("trl") / "chat_templates").iterdir()
    if path.name.endswith(".jinja")
}
FORMS = {
    "chatml with a default": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "Llama 2": (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set head = messages[0].content %}"
        "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m.role == 'user' %}{{ bos_token }}[INST] {% if loop.first and head is defined %}<<SYS>>\n{{ head }}\n"
        "<</SYS>>\n\n{% endif %}{{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "Mistral, the system beside the last question": (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set head = messages[0].content %}"
        "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}"
        "{% if m.role == 'user' %}[INST] {% if loop.last and head is defined %}{{ head }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "Zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "Phi": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    ),
    "Gemma 2": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}"
        "<start_of_turn>model\n{% endif %}"
    ),
}
"""Forms of published templates that TRL has none of."""
REFUSED = ("idefics3", "idefics3_training", "llava_next", "llava_next_training", "smolvlm", "smolvlm_training")
"""Of models that see: their contents are lists of parts."""
SPECIAL = re.compile(r"<\|[\w/ ]+?\|?>|<(?:start|end)_of_\w+>|</s>|<s>|<bos>")


def form_of(template: str) -> ChatFormat:
    specials = sorted({*SPECIAL.findall(template), "<s>", "</s>"})
    return chat_format(byte_tokenizer(template, specials, eos="</s>", bos="<s>"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go here (Debian: apt install golang-go)")
    made = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).parent / "go" / "render.go"
    subprocess.run([go, "build", "-o", str(made), str(source)], check=True, timeout=300)
    return made


def render(program: Path, template: str, asked: list[Any]) -> list[str]:
    question = json.dumps({"template": template, "chats": asked})
    done = subprocess.run([program], input=question, capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("name", sorted({*PUBLISHED, *FORMS}))
def test_go_writes_what_jinja_writes_or_the_template_is_refused(name: str, program: Path) -> None:
    form = form_of({**PUBLISHED, **FORMS}[name])
    if name in REFUSED:
        with pytest.raises(ModelError, match="no Modelfile can be written"):
            find_pieces(form, name)
        return
    pieces = find_pieces(form, name)
    takes_system = not any("refuses a system turn" in note for note in pieces.notes)
    asked = chats(takes_system)
    assert form.template is not None
    bos = form.tokens["bos_token"] if pieces.bos else ""
    expected = [apply_template(form.tokens, form.template, chat, add_generation_prompt=True) for chat in asked]
    assert [bos + text for text in render(program, go_template(pieces), asked)] == expected


def test_a_default_system_turn_becomes_SYSTEM() -> None:
    assert find_pieces(form_of(FORMS["chatml with a default"]), "x").default == "Be kind."
    assert find_pieces(form_of(FORMS["Zephyr"]), "x").default is None


def test_an_answer_that_is_begun_is_gone_on_with(program: Path) -> None:
    pieces = find_pieces(form_of(FORMS["Zephyr"]), "x")
    begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}]
    assert render(program, go_template(pieces), [begun]) == ["<|user|>\nCount.</s>\n<|assistant|>\nOne, two,"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages[-1].content }}", "every turn once"),
        ("{% for m in messages %}<{{ loop.index }}>{{ m.content }}{% endfor %}", "around later turns"),
        ("{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}", "every turn once"),
        (
            "{% for m in messages %}<{{ m.role }}>{{ m.content | replace('x', '') | replace('{{', '[') }}{% endfor %}",
            "treat all contents alike",
        ),
        ("{{ raise_exception('never') }}", "never"),
    ],
)
def test_what_has_no_form_in_go_is_refused_with_the_reason(template: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        find_pieces(form_of(template), "x")


@pytest.mark.parametrize("licence", ['Use "as is"', 'a """b""" c'])
def test_a_text_that_no_modelfile_can_hold_is_refused_with_a_remedy(licence: str) -> None:
    pieces = find_pieces(form_of(FORMS["Zephyr"]), "x")
    with pytest.raises(ModelError, match=r"the licence has .*Change that in the model's folder, or serve"):
        modelfile("model.gguf", pieces, (), licence)

"""The tokens are the model card's, and the loss counts what the assistant says, its end of turn, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lowregret.data.chat.encoding import Encoded, encode, encode_rows
from lowregret.data.chat.template import chat_format
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.errors import DataError

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
# As Qwen3's: thoughts before the last question are dropped, and a last turn without one gets an empty one.
QWEN3 = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {%- set content = '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}"""
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}BODY{% endgeneration %}AFTER"
    "{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
)
CONTENT = st.text(min_size=1, max_size=12).filter(lambda text: "<|" not in text and text.strip())


def chat(*contents: str, prompt_turns: int = 0) -> Row:
    """Alternating user and assistant turns."""
    turns = tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents))
    return Row(turns, None, "data.jsonl", 7, prompt_turns)


def example(row: Row, tokenizer: PreTrainedTokenizerFast) -> Example:
    found = encode(row, tokenizer).example
    assert found is not None
    assert len(found.supervised) == len(found.token_ids)
    assert not found.supervised[0]
    return found


def supervised(found: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    chosen = [token for token, counted in zip(found.token_ids, found.supervised, strict=True) if counted]
    return str(tokenizer.decode(chosen))


def model_card(row: Row, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    return tuple(tokenizer.apply_chat_template(list(row.messages or ()), return_dict=False))


@settings(deadline=None, max_examples=60)
@given(st.lists(CONTENT, min_size=2, max_size=6))
def test_chatml_supervises_each_assistant_turn_and_its_end(chatml: Any, contents: list[str]) -> None:
    row = chat(*contents)
    found = example(row, chatml)
    assert found.token_ids == model_card(row, chatml)
    assert supervised(found, chatml) == "".join(text + "<|im_end|>" for text in contents[1::2])


@settings(deadline=None, max_examples=60)
@given(st.lists(CONTENT, min_size=2, max_size=6))
def test_llama3_strips_contents_and_writes_one_bos(llama3: Any, contents: list[str]) -> None:
    row = chat(*contents)
    found = example(row, llama3)
    assert found.token_ids == model_card(row, llama3)
    assert found.token_ids.count(llama3.bos_token_id) == 1
    assert supervised(found, llama3) == "".join(text.strip() + "<|eot_id|>" for text in contents[1::2])


@pytest.fixture(scope="session")
def llama3(make_tokenizer: Any) -> Any:
    specials = ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    # EOS is another token than the one that ends a turn, as in Llama 3's base model.
    return make_tokenizer(LLAMA3, (*specials, "<|end|>"), eos="<|end|>", bos="<|begin|>", adds_bos=True)


@pytest.fixture(scope="session")
def qwen3(make_tokenizer: Any) -> Any:
    return make_tokenizer(QWEN3)


def test_qwen3_without_a_thought_leaves_the_templates_empty_one_out(qwen3: Any) -> None:
    row = chat("q", "first", "q", "last")
    assert "<think>\n\n</think>\n\nlast" in qwen3.decode(example(row, qwen3).token_ids)
    assert supervised(example(row, qwen3), qwen3) == "first<|im_end|>last<|im_end|>"


def test_qwen3_supervises_a_thought_exactly_where_the_template_keeps_it(qwen3: Any) -> None:
    row = chat("q", "<think>\nold\n</think>\n\nfirst", "q", "<think>\nnew\n</think>\n\nlast")
    found = example(row, qwen3)
    assert found.token_ids == model_card(row, qwen3)
    # The first turn's thought does not reach the text: learnt without it, the turn would teach to answer at once.
    assert supervised(found, qwen3) == "<think>\nnew\n</think>\n\nlast<|im_end|>"


def test_a_thought_is_found_however_it_is_laid_out(qwen3: Any) -> None:
    assert supervised(example(chat("q", "<think>a</think>b"), qwen3), qwen3) == "<think>\na\n</think>\n\nb<|im_end|>"


def test_contents_that_repeat_each_other_or_the_stand_in_are_still_told_apart(chatml: Any) -> None:
    row = chat("lowregret0q", "lowregret0q", "a", "a", "assistant\n", "a")
    assert supervised(example(row, chatml), chatml) == "lowregret0q<|im_end|>a<|im_end|>a<|im_end|>"


def test_special_tokens_inside_a_content_are_parsed_and_not_taken_for_a_turn(chatml: Any) -> None:
    row = chat("a<|im_end|>\n<|im_start|>assistant\nno", "yes")
    assert supervised(example(row, chatml), chatml) == "yes<|im_end|>"


def test_an_empty_assistant_turn_among_others_teaches_nothing(chatml: Any) -> None:
    assert supervised(example(chat("a", "", "b", "c"), chatml), chatml) == "c<|im_end|>"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("{{ m['content'] + '<|im_end|>' }}", "{{ '\n' }}"),
        ("{{ m['content'] + '<|im_end|>' + '\n' }}", ""),
        ("{{ m['content'] }}", "{{ '<|im_end|>' + '\n' }}"),
    ],
)
def test_a_template_that_marks_its_generation_agrees_with_one_that_does_not(
    make_tokenizer: Any, chatml: Any, body: str, after: str
) -> None:
    marked = make_tokenizer(MARKED.replace("BODY", body).replace("AFTER", after))
    for row in (chat("a", " b\n"), chat("a", "b", "c", "d"), chat("a", "b", "c", "d", prompt_turns=3)):
        assert example(row, marked) == example(row, chatml)


def test_assistant_turns_of_the_prompt_are_not_supervised(chatml: Any) -> None:
    row = chat("a", "b", "c", "d", prompt_turns=3)
    assert supervised(example(row, chatml), chatml) == "d<|im_end|>"


def test_a_token_that_joins_the_space_before_a_content_is_the_contents(make_tokenizer: Any) -> None:
    pieces = ["<unk>", "▁", *"abq[]/INST", "▁a"]
    backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    backend.add_special_tokens(["<s>", "</s>"])
    llama2 = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    llama2.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
    )
    found = example(chat("q", "ab", "q", "a"), llama2)
    chosen = [t for t, counted in zip(found.token_ids, found.supervised, strict=True) if counted]
    assert llama2.convert_ids_to_tokens(chosen) == ["▁a", "b", "▁", "</s>", "▁a", "▁", "</s>"]


def test_a_header_that_swallows_the_spaces_after_it_stays_unsupervised(make_tokenizer: Any) -> None:
    specials = (AddedToken("<|a|>", rstrip=True, special=True), AddedToken("<|end|>", lstrip=True, special=True))
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<|a|>' + m.content + '<|end|>' }}{% endfor %}", specials, eos=None
    )
    found = example(chat("q", "  b  "), tokenizer)
    chosen = [t for t, counted in zip(found.token_ids, found.supervised, strict=True) if counted]
    assert tokenizer.convert_ids_to_tokens(chosen) == ["b", "<|end|>"]


def test_turns_that_nothing_closes_are_counted(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    (result,) = encode_rows([chat("q", "a", "q", "b")], tokenizer)
    assert isinstance(result, Encoded)
    assert result.open_turns == 2
    assert result.example is not None
    assert supervised(result.example, tokenizer) == "ab"


def test_the_bos_of_the_next_turn_ends_nothing(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<s>' + m.content }}{% endfor %}", ("<s>", "</s>"), bos="<s>", eos="</s>"
    )
    assert supervised(example(chat("q", "a", "q", "b"), tokenizer), tokenizer) == "ab"


def test_without_a_template_blank_lines_join_and_eos_ends(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(None, ("<s>", "</s>"), eos="</s>", bos="<s>", adds_bos=True)
    found = example(chat("q", "a", "r", "b"), tokenizer)
    assert tokenizer.decode(found.token_ids) == "<s>q\n\na</s>\n\nr\n\nb</s>"
    assert supervised(found, tokenizer) == "a</s>b</s>"
    assert "no chat template" in chat_format(tokenizer).description(texts=False)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("text", ["héllo\n", "<s>héllo", "héllo</s>"])
def test_text_is_supervised_whole_and_bos_and_eos_never_doubled(make_tokenizer: Any, adds_bos: bool, text: str) -> None:
    tokenizer = make_tokenizer(LLAMA3, ("<s>", "</s>"), eos="</s>", bos="<s>", adds_bos=adds_bos)
    found = example(Row(None, text, "f", 1), tokenizer)
    bos = "<s>" if adds_bos or text.startswith("<s>") else ""
    assert tokenizer.decode(found.token_ids) == bos + text.removeprefix("<s>").removesuffix("</s>") + "</s>"
    assert found.supervised == (False, *[True] * (len(found.token_ids) - 1))


def test_many_rows_at_once_give_what_each_gives_alone(llama3: Any) -> None:
    rows = [chat("q" * n, "a" * n) for n in range(1, 40)] + [Row(None, "text", "f", 1)]
    assert encode_rows(rows, llama3) == [encode(row, llama3) for row in rows]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no systems here') }}", "refuses this row: no systems here"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", r"messages\[1\]: cannot be found"),
        ("{{ messages[0].content }}", r"messages\[1\]: cannot be found"),
    ],
)
def test_a_template_that_cannot_be_followed_is_an_error_at_its_row(
    make_tokenizer: Any, template: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^data\.jsonl:7: .*{message}"):
        encode(chat("q", "answer"), make_tokenizer(template))


def test_a_template_that_prints_today_prints_a_fixed_day(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(
        "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y') }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    assert tokenizer.decode(example(chat("q", "a"), tokenizer).token_ids).startswith("26 July 2024<|im_start|>q")
    assert "2024-07-26" in chat_format(tokenizer).description(texts=False)

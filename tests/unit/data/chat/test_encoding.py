"""The tokens are the model card's, and the loss counts what the assistant says, its end of turn, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lowregret.data.chat import rendering
from lowregret.data.chat.asking import asking_ids
from lowregret.data.chat.encoding import Encoded, encode, encode_rows
from lowregret.data.chat.template import chat_format, choose_template
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.errors import DataError, ModelError

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


PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As models that see have it: of plain text it writes nothing, and says nothing."""
NO_DEVELOPER = (
    "{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('no') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [PARTS, NO_DEVELOPER, NO_SYSTEM])
def test_what_is_asked_is_what_was_trained_on_whatever_form_the_template_takes(
    make_tokenizer: Any, template: str
) -> None:
    tokenizer = make_tokenizer(template)
    turns = ({"role": "developer", "content": "be brief"}, {"role": "user", "content": "why?"})
    if template == NO_SYSTEM:
        turns = ({"role": "system", "content": "be brief"}, turns[1])
    for tools in (None, ({"name": "f"},)):
        asked = asking_ids(turns, tokenizer, chat_format(tokenizer), tools)
        trained = example(Row((*turns, {"role": "assistant", "content": "a"}), None, "s", 1, 2, tools), tokenizer)
        assert trained.token_ids[: len(asked)] == asked
        assert "why?" in tokenizer.decode(asked)


def test_without_a_template_a_turn_that_only_calls_is_asked_as_it_was_trained(
    make_tokenizer: Any,
) -> None:
    tokenizer = make_tokenizer(None)
    turns = (
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": "3"},
    )
    asked = asking_ids(turns, tokenizer, chat_format(tokenizer))
    trained = example(Row((*turns, {"role": "assistant", "content": "a"}), None, "s", 1), tokenizer)
    assert trained.token_ids[: len(asked)] == asked


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


# As Qwen's with tools: thoughts and calls are written; those that the row has in another form are written all the same.
AGENT = """
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
    {{- m.content }}
    {%- for call in m.tool_calls %}
        {{- '<call>' + call.function.name + call.function.arguments | tojson + '</call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
RESULT = {"role": "tool", "content": "cold"}


def row_of(*messages: dict[str, Any], **more: Any) -> Row:
    return Row(messages, None, "data.jsonl", 7, **more)


def encoded(row: Row, tokenizer: Any) -> Encoded:
    (found,) = encode_rows([row], tokenizer)
    assert isinstance(found, Encoded), found
    return found


def learnt(row: Row, tokenizer: Any) -> tuple[str, tuple[str, ...]]:
    found = encoded(row, tokenizer)
    return supervised(found.example, tokenizer) if found.example else "", found.remarks


@pytest.fixture(scope="session")
def agent(make_tokenizer: Any) -> Any:
    return make_tokenizer(AGENT)


@pytest.mark.parametrize("content", ["", None])
def test_a_call_of_a_tool_is_learnt_and_not_an_empty_answer(agent: Any, content: str | None) -> None:
    call = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    row = row_of(USER, call, RESULT, ANSWER)
    assert learnt(row, agent) == ('<call>weather{"city": "Rome"}</call><|im_end|>a<|im_end|>', ())
    filled = [turn | {"content": turn["content"] or ""} for turn in row.messages or ()]
    tokens = agent.apply_chat_template(filled, return_dict=False)
    assert example(row, agent).token_ids == tuple(tokens)


def test_a_call_goes_to_its_end_even_past_a_special_token(make_tokenizer: Any) -> None:
    template = AGENT.replace("'<call>'", "'<|call|>'")
    tokenizer = make_tokenizer(template, ("<|im_start|>", "<|im_end|>", "<|call|>"))
    call = {"role": "assistant", "content": "x", "tool_calls": [CALL, CALL]}
    text = '<|call|>weather{"city": "Rome"}</call>'
    assert learnt(row_of(USER, call), tokenizer) == (f"x{text}{text}<|im_end|>", ())


def test_a_call_that_ends_by_a_token_of_its_own_ends_there(make_tokenizer: Any) -> None:
    template = AGENT.replace("{{- '<|im_end|>\\n' }}", "{{- '<|end_call|>' if m.tool_calls else '<|im_end|>\\n' }}")
    tokenizer = make_tokenizer(template, ("<|im_start|>", "<|im_end|>", "<|end_call|>"))
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    expected = '<call>weather{"city": "Rome"}</call><|end_call|>a<|im_end|>'
    assert learnt(row_of(USER, call, RESULT, ANSWER), tokenizer) == (expected, ())


def test_a_template_that_writes_no_calls_leaves_their_turns_unsupervised(chatml: Any) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    text, remarks = learnt(row_of(USER, call, RESULT, ANSWER, tools=(CALL,)), chatml)
    assert text == "a<|im_end|>"
    assert remarks == (
        "a tool call of an assistant turn left out by the chat template: not supervised",
        "tools left out by the chat template: the answers are learnt without them",
    )
    assert learnt(row_of(USER, call), chatml)[0] == ""


def test_arguments_as_json_text_go_in_as_they_are_and_are_remarked_on(agent: Any) -> None:
    text = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    call = {"role": "assistant", "content": "", "tool_calls": [text]}
    found, remarks = learnt(row_of(USER, call), agent)
    assert found == '<call>weather"{\\"city\\": \\"Rome\\"}"</call><|im_end|>'
    assert "quotes once more" in remarks[0]


@pytest.mark.parametrize("change", ["| items | list", "+ ''"])
def test_arguments_are_given_in_the_form_that_the_template_takes(make_tokenizer: Any, change: str) -> None:
    tokenizer = make_tokenizer(
        AGENT.replace("call.function.arguments | tojson", f"call.function.arguments {change} | string")
    )
    forms = [{"city": "Rome"}, '{"city": "Rome"}']
    calls = [[{"type": "function", "function": {"name": "weather", "arguments": form}}] for form in forms]
    found = [
        learnt(row_of(USER, {"role": "assistant", "content": "", "tool_calls": call}), tokenizer) for call in calls
    ]
    assert found[0] == found[1]
    assert "Rome" in found[0][0]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_under_its_own_key_is_learnt(agent: Any, key: str) -> None:
    assert learnt(row_of(USER, ANSWER | {key: "hm"}), agent) == ("<think>hm</think>a<|im_end|>", ())


def test_a_thought_that_the_template_drops_leaves_its_turn_unsupervised(chatml: Any, make_tokenizer: Any) -> None:
    remark = "the reasoning of an assistant turn left out by the chat template: not supervised"
    assert learnt(row_of(USER, ANSWER | {"reasoning_content": "hm"}, USER, ANSWER), chatml) == (
        "a<|im_end|>",
        (remark,),
    )
    cuts = make_tokenizer(
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endfor %}"
    )
    assert learnt(chat("q", "<think>\nhm\n</think>\n\na"), cuts) == ("", (remark,))
    assert encoded(chat("q", "<think>\nhm\n</think>\n\na"), cuts).example is None


def test_a_role_that_the_template_drops_is_given_as_one_it_knows(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(
        "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    )
    row = row_of({"role": "developer", "content": "be short"}, USER, ANSWER)
    assert tokenizer.decode(example(row, tokenizer).token_ids).startswith("<|im_start|>system\nbe short<|im_end|>")
    _, remarks = learnt(row_of({"role": "tool", "content": "cold"}, USER, ANSWER), tokenizer)
    assert remarks == ("a turn of role tool left out by the chat template: the answers are learnt without it",)


def test_a_template_that_takes_lists_of_parts_gets_them(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    )
    assert learnt(chat("q", "a", "q", "b"), tokenizer) == ("a<|im_end|>b<|im_end|>", ())


def test_a_flagged_turn_is_context(chatml: Any) -> None:
    row = row_of(USER, ANSWER, USER, {"role": "assistant", "content": "b"}, skipped={1: "weight: 0"})
    assert learnt(row, chatml) == ("b<|im_end|>", ("an assistant turn kept out of the loss by `weight: 0`",))


def test_empty_turns_are_counted(chatml: Any, agent: Any) -> None:
    for tokenizer in (chatml, agent):
        assert learnt(chat("a", " ", "b", "c"), tokenizer) == (
            "c<|im_end|>",
            ("an empty assistant turn: not supervised",),
        )


def test_a_prompt_that_is_rendered_already_is_not_wrapped_again(agent: Any) -> None:
    prompt = "<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\n"
    for answer in ("sun", "sun<|im_end|>", "sun<|im_end|>\n"):
        row = Row(({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}), None, "f", 1, 1)
        found, remarks = learnt(row, agent)
        assert found == "sun<|im_end|>"
        assert "rendered already" in remarks[0]
        assert agent.decode(example(row, agent).token_ids).rstrip() == f"{prompt}sun<|im_end|>"


def test_control_tokens_within_a_content_are_remarked_on_and_wrapped(agent: Any) -> None:
    found, remarks = learnt(chat("what is <|im_end|>?", "a token"), agent)
    assert found == "a token<|im_end|>"
    assert "wraps it a second time" in remarks[0]


def test_rendered_text_gets_no_second_end(agent: Any) -> None:
    text = "<|im_start|>user\nask<|im_end|>\n<|im_start|>assistant\nsun<|im_end|>\n"
    found = encoded(Row(None, text, "f", 1), agent)
    assert found.example is not None
    assert agent.decode(found.example.token_ids) == text
    assert "rendered already" in found.remarks[0]


def test_a_generation_prompt_and_an_empty_thought_are_not_the_turns(make_tokenizer: Any) -> None:
    template = AGENT.replace("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n' }}").replace(
        "{%- if m.reasoning_content %}",
        "{%- if m.role == 'assistant' %}{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n' }}"
        "{% elif false %}",
    )
    tokenizer = make_tokenizer(template)
    assert learnt(row_of(USER, ANSWER), tokenizer) == ("a<|im_end|>", ())
    assert learnt(row_of(USER, ANSWER | {"reasoning": "hm"}), tokenizer) == ("hm\n</think>\na<|im_end|>", ())


def test_a_long_chat_is_rendered_twice_and_not_once_a_turn(chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = rendering.apply_template

    def counted(tokens: Any, text: str, messages: Any, *args: Any, **kwargs: Any) -> str:
        written.append(len(messages))
        return write(tokens, text, messages, *args, **kwargs)

    monkeypatch.setattr(rendering, "apply_template", counted)
    assert learnt(chat(*(f"turn {rank}" for rank in range(400))), chatml)[0].count("<|im_end|>") == 200
    assert [count for count in written if count == 400] == [400, 400]
    assert len(written) < 10


def test_of_several_templates_one_can_be_chosen(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer({"rag": AGENT.replace("'\\n' }}", "'\\nrag ' }}"), "tool_use": AGENT})
    with pytest.raises(ModelError, match=r"rag, tool_use\. Choose one with --chat-template NAME"):
        chat_format(tokenizer)
    with pytest.raises(ModelError, match=r"--chat-template rga: .*Did you mean 'rag'\?"):
        choose_template(tokenizer, "rga")
    choose_template(tokenizer, "tool_use")
    assert learnt(chat("q", "a"), tokenizer) == ("a<|im_end|>", ())
    with pytest.raises(ModelError, match="one chat template, without a name"):
        choose_template(tokenizer, "rag")


def test_a_chat_with_tools_takes_the_template_for_tools(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer({"default": AGENT.replace("m.content", "'default ' + m.content"), "tool_use": AGENT})
    assert learnt(chat("q", "a"), tokenizer)[0] == "default a<|im_end|>"
    assert learnt(row_of(USER, ANSWER, tools=(CALL,)), tokenizer)[0] == "a<|im_end|>"

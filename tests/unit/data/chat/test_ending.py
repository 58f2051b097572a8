"""What ends an assistant's turn, by the templates of many families; and that mask and ending agree."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lowregret.data.chat.encoding import encode
from lowregret.data.chat.template import chat_format
from lowregret.data.sources import Row

EACH = "{% for m in messages %}"
SPECIAL = ("<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "<|return|>")


def tokenizer(
    template: str | None, eos: str | None = "<|endoftext|>", bos: str | None = None
) -> PreTrainedTokenizerFast:
    """Bytes, the special tokens of several families, and `<stop>`, which is added but not special."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken("<stop>", special=False), AddedToken("    ", special=False)])
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, bos_token=bos)
    found.chat_template = template
    return found


@pytest.mark.parametrize(
    ("template", "token", "written", "stop"),
    [
        ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}", "<|im_end|>", "<|im_end|>", ""),
        ("{% if loop.first %}<s>{% endif %}[{{ m.role }}] {{ m.content }} </s>{% endfor %}", "</s>", " </s>", ""),
        # Phi-3: EOS at the end of the conversation, after the turn's own end.
        ("{{ m.content }}<|end|>\n{% endfor %}<|endoftext|>", "<|end|>", "<|end|>", ""),
        # gpt-oss: another token after the last turn than between turns, where a model goes on.
        (
            "{{ m.content }}{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}",
            "<|return|>",
            "<|return|>",
            "",
        ),
        # GLM-4: nothing but the next turn's header.
        ("<|user|>\n{{ m.content }}{% endfor %}", "<|user|>", "<|user|>", ""),
        ("{{ m.content }}<stop>\n{% endfor %}", "<stop>", "<stop>", ""),
        ("{{ m.content }}\n[END]<|end|>\n{% endfor %}", "<|end|>", "\n[END]<|end|>", ""),
        ("{{ m.content }}<eot>\n{% endfor %}", None, "<eot>", "<eot>"),
        ("<|im_start|>{{ m.content }}<eot>\n{% endfor %}", None, "<eot>", "<eot>"),
        ("### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}", None, "", "\n\n### user:"),
        # A template that always begins the assistant's next turn does not end one by it.
        ("{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:", None, "", "\nuser:"),
        ("{{ m.content }}\n{% endfor %}", None, "", ""),
        ("{{ m.content }}    {% endfor %}", None, "", ""),
        ("{{ raise_exception('no') }}{% endfor %}", None, "", ""),
        ("{{ m.content[0]['text'] }}<|im_end|>{% endfor %}", "<|im_end|>", "<|im_end|>", ""),
        (
            "{% if messages[0].role != 'system' %}{{ raise_exception('a system turn, please') }}{% endif %}"
            "{{ m.content }}<|im_end|>{% endfor %}",
            "<|im_end|>",
            "<|im_end|>",
            "",
        ),
    ],
)
def test_a_template_is_asked_what_it_writes_after_a_turn(
    template: str, token: str | None, written: str, stop: str
) -> None:
    own = tokenizer(EACH + template, bos="<s>")
    found = chat_format(own).ending
    assert (found.token, found.written, found.stop) == (
        None if token is None else own.convert_tokens_to_ids(token),
        written,
        stop,
    )


def test_a_bos_ends_nothing_unless_it_is_eos() -> None:
    template = EACH + "<s>{{ m.content }}{% endfor %}"
    assert chat_format(tokenizer(template, bos="<s>")).ending.token is None
    both = tokenizer(template, bos="<s>", eos="<s>")
    assert chat_format(both).ending.token == both.bos_token_id


def test_without_a_template_it_is_eos() -> None:
    assert chat_format(tokenizer(None)).ending.token == tokenizer(None).eos_token_id
    assert chat_format(tokenizer(None, eos=None)).ending.token is None


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>", "<stop>", "\n[END]<|end|>", "<eot>", " </s>"])
def test_what_ends_a_turn_is_supervised_whole(end: str) -> None:
    own = tokenizer(EACH + "{{ m.role }}: {{ m.content }}" + end + "\n{% endfor %}")
    turns = tuple({"role": role, "content": role[::-1]} for role in ("user", "assistant") * 2)
    example = encode(Row(turns, None, "data.jsonl", 1, 0), own).example
    assert example is not None
    kept = [token for token, wanted in zip(example.token_ids, example.supervised, strict=True) if wanted]
    assert own.decode(kept) == f"tnatsissa{end}" * 2

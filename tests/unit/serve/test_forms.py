"""Schemas of answers: compiled once, by whoever asks, and refused where they cannot be kept to."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.models.load import load_base, resolve
from lowregret.serve import forms as module
from lowregret.serve.forms import SCHEMA, Forms
from lowregret.serve.problems import Problem


@pytest.fixture(scope="module")
def forms() -> Forms:
    base: Any = load_base(resolve("tiny"))
    return Forms(base.tokenizer, base.model.get_input_embeddings().weight.shape[0], [base.tokenizer.eos_token_id])


def test_the_engine_compiles_nothing(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer has a state of its own, of what was compiled before."""
    make = forms.of({"enum": ["ab", "cd"]})
    monkeypatch.setattr(module, "LLMatcher", None)
    one, other = make(), make()
    begin = one.allowed([])
    token = int(begin.nonzero()[0])
    assert begin.tolist() == other.allowed([]).tolist()
    assert one.allowed([token]).tolist() != begin.tolist()
    assert begin.tolist() == other.allowed([]).tolist() == make().allowed([]).tolist()


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"word{number}" for number in range(20_000)]},
        {"properties": {f"k{number}": {} for number in range(SCHEMA)}},
    ],
    ids=["enum", "properties"],
)
def test_what_asks_for_too_much_is_refused(forms: Forms, schema: dict[str, Any]) -> None:
    """Not answered by nothing."""
    with pytest.raises(Problem) as problem:
        forms.of(schema)
    assert problem.value.status == 400
    assert problem.value.body["error"]["param"] == "response_format"


def test_what_was_given_up_is_told_from_what_is_whole(forms: Forms) -> None:
    """Both are ended by the only tokens that are allowed then."""
    word = forms._tokenizer("ab", add_special_tokens=False).input_ids
    quote = forms._tokenizer('"', add_special_tokens=False).input_ids
    whole, given_up = (forms.of({"enum": ["ab"]})() for _ in range(2))
    for form, tokens in ((whole, [*quote, *word, *quote]), (given_up, word)):
        assert not form.gave_up
        allowed = form.allowed(tokens)
        assert allowed.nonzero().flatten().tolist() == [forms._tokenizer.eos_token_id]
    assert (whole.gave_up, given_up.gave_up) == (False, True)

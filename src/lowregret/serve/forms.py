"""Answers that are JSON of a schema, by llguidance (github.com/guidance-ai/llguidance): which tokens may follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import llguidance.hf
import torch
from jaxtyping import Bool
from llguidance import LLMatcher
from torch import Tensor

from lowregret.serve.problems import Problem
from lowregret.strict_json import to_json

_WRITTEN: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""On one line: where blanks may stand anywhere, a base may write them without end."""
SCHEMA = 2**16
"""Characters of a schema, at most: to compile one so large takes a second, twice as large four."""


@final
class Forms:
    """Schemas as what a base's tokens may be."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        """`ends`: the tokens that end an answer."""
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, list(ends)
        self._known: Any = None

    def of(self, schema: dict[str, Any] | bool) -> Callable[[], JsonForm]:
        """What makes the constraint of each answer, at once: the engine's thread asks for it, and others wait then.

        Problem 400 for what is no schema, or one that is not known or asks for too much.
        """
        if not self._ends:
            raise Problem(400, "response_format: nothing ends an answer of this base.", param="response_format")
        if self._known is None:
            self._known = llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._ends)
        written = to_json({} if schema is True else schema)
        if len(written) > SCHEMA:
            raise Problem(
                400, f"response_format: the schema has more than {SCHEMA:,} characters.", param="response_format"
            )
        try:
            grammar = LLMatcher.grammar_from_json_schema(written, defaults=_WRITTEN)
            problem = LLMatcher.validate_grammar(grammar, self._known)
            matcher = LLMatcher(self._known, grammar, log_level=0)
            problem = problem or _begun(matcher)
        except ValueError as error:
            problem = str(error)
        if problem:
            said = problem.splitlines()[0]
            raise Problem(
                400, f"response_format: the schema cannot be kept to ({said[:300]}).", param="response_format"
            )
        return lambda: JsonForm(matcher.deep_copy(), self._ends, self._vocabulary)


def _begun(matcher: LLMatcher) -> str:
    """What is wrong when it is asked for a first token, so that answers ask for theirs at once; nothing mostly."""
    if not matcher.is_error():
        matcher.compute_logit_bias()
    return str(matcher.get_error())


@final
class JsonForm:
    """A `Constraint`: one answer of a schema."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int], vocabulary: int) -> None:
        self._matcher, self._taken = matcher, 0
        self.gave_up = False
        """Whether llguidance has ended before the answer was whole: where it takes more than its limits, say."""
        self._end = torch.zeros(vocabulary, dtype=torch.bool)
        self._end[list(ends)] = True

    def allowed(self, tokens: Sequence[int]) -> Bool[Tensor, " vocabulary"]:
        """The tokens that may come next; those that end an answer where nothing else may."""
        self._matcher.consume_tokens(list(tokens[self._taken :]))
        self._taken = len(tokens)
        if not self._matcher.is_stopped():  # an error has stopped it, too
            found = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0
            if bool(found.any()):
                return found[: len(self._end)]
        self.gave_up = self._matcher.is_error() or not self._matcher.is_accepting()
        return self._end

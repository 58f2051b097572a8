"""`math`: rows with a question and an answer after `####` (GSM8K) or in `\\boxed{}` (MATH), graded by math-verify."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping
from typing import Any, final

from lowregret.errors import DataError, SpecError
from lowregret.tasks.base import Problem, TaskEntry, TaskExample
from lowregret.tasks.parsing import after_last, text_column

QUESTIONS = ("question", "problem", "prompt")
ANSWERS = ("answer", "solution", "completion")
_MARK, _BOX = "####", "\\boxed{"
_DOLLARS = "\\$"
"""The currency, which math-verify takes for the begin of a formula: of `\\$72` it would read nothing."""
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?")
"""A number as it is written out: digits, thousands apart or not, a fraction, a sign that is no difference's."""
_OPERAND = re.compile(
    r"""(?: [A-Za-z0-9)}\]] (?: [^\S\n]*[/^×·÷⋅∗∕⁄] | \+ | [^\S\n]*\\(?:times|cdot|div)\b | [^\S\n]+[*+][^\S\n] )
          | [A-Za-z0-9)}\]] \*\*? (?=[({$\\]*\Z)
          | \d[)}\]]* [^\S\n]*[+-]
          | \d [^\S\n]*[xX]
          | \\[dtc]?frac (?: \s*\d )? | [\d}]\s*\{
          | \\sqrt\s* (?: \[ [^\]]* \] )? | √
          | \^ | [A-Za-z0-9)}\]]_
        ) [({\s$\\]* \Z""",
    re.VERBOSE,
)
"""Before a number that is part of a formula, as is the 2 of `1/2`, `7 - 2`, `\\frac{1}{2}`, `\\sqrt{2}` and `x^{2}`.
What begins a line is an item's mark, and stars or bars after a word or around a number are emphasis."""
_OPERATES = re.compile(
    r"""[)}]* (?: [^\S\n]*[×·÷⋅∗π√]
                | [^\S\n]*\^ (?! [\s{]* (?: \\circ | \\degree | \\(?:text|mathrm|mbox)\b | °|o\b|st\b|nd\b|rd\b|th\b ) )
                | [^\S\n]*/[^\S\n]* (?: [\d(] | \\ (?! (?:text|mathrm|mbox)\b ) )
                | (?: \*\*? | [^\S\n]+\*[^\S\n]+ ) [A-Za-z0-9(\\]
                | \s*\\(?:times|cdot|div|sqrt|[dtc]?frac|pi)\b )""",
    re.VERBOSE,
)
"""After a number: the same. `72^\\circ`, `72^{\\text{nd}}` and `72/\\text{hour}` are numbers with what they count."""
_POWER = re.compile(
    r"""( \d [)}\s$\\,;!~]*
          (?: \\(?:text|mathrm|mbox)\s*\{[^{}]*\}
            | (?: (?:[kcdm]?m|in|ft|yd|mi|s|units?|inch(?:es)?|feet|(?:kilo|centi|milli)?met(?:er|re)s?|yards?|miles?)
                  (?:/s|/h|/min)? ) (?![A-Za-z]) \.? )
        ) [\s$]* \^ \s* (?: [23](?!\d) | \{\s*[23]\s*\} )""",
    re.VERBOSE,
)
"""The power of a unit behind a number, as in `72 cm^2`."""
_BRACE = re.compile(re.escape(_BOX) + "|[{}]")
_NEAR = 64
"""Characters before a number among which an operator is looked for."""


@final
class Mathematics:
    """Rows of the user's data (extra `[rl]`)."""

    def problems(self) -> None:
        """It grades the user's data."""

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """From the columns named, or from the first of the usual ones that is there."""
        question = text_column(row, prompt_field, QUESTIONS)
        answer = text_column(row, answer_field, ANSWERS)
        final_answer(answer)
        return Problem(question, dict(row), answer)

    def grade(self, completion: str, problem: Problem) -> float:
        """1 when the last answer in the completion is mathematically equal to the row's, else 0.

        Where the row's is a number, the completion's must be one: the last that it writes out, by itself and in no
        formula. A formula of that value would do for math-verify, but the question often holds one, and a policy soon
        learns to say it again.
        """
        from math_verify import parse, verify

        # The time limit is the grader's: theirs are signals, which only a main thread may set.
        right = final_answer(problem.gold or "").replace(_DOLLARS, "")
        try:
            answer = final_answer(completion)
        except DataError:
            return 0.0
        if last_number(right) == right.replace(",", ""):
            answer = _delimited(last_number(answer))
        elif answer != completion.strip():
            answer = _delimited(answer)
        gold, found = (parse(each, parsing_timeout=None) for each in (_delimited(right), answer))
        return float(verify(gold, found, timeout_seconds=None))

    def load(self) -> None:
        """Import math-verify, and with a first answer what it imports late."""
        try:
            importlib.import_module("math_verify")
        except ImportError as error:
            raise SpecError(f"the task math needs math-verify: pip install 'lowregret[rl]' ({error}).") from None
        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that there is no time limit of its own
        self.grade("$1$", Problem("", {}, "$\\frac{1}{1}$"))


def final_answer(text: str) -> str:
    """What follows the last `####`, a `\\boxed{}` there above all, else the inside of the last box, else all of a text.

    DataError if empty. The mark is a heading's in Markdown, too: a box behind it is the answer.
    """
    marked = after_last(text, _MARK)
    box = _last_box(text if marked is None else marked)
    if box is not None:
        answer = box.strip()
    elif marked is not None:
        answer = marked.strip().partition("\n")[0].replace(",", "").strip()
    else:
        answer = text.strip()
    if not answer:
        raise DataError("the answer is empty: nothing follows #### or stands in \\boxed{}.")
    return answer


def last_number(text: str) -> str:
    """The last number written out in a text, without what sets thousands apart; "" when there is none, or when it is
    a part of a formula."""
    plain = text.replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\u202f", "").replace("\u2212", "-")
    plain = _POWER.sub(r"\1", plain)
    numbers = list(_NUMBER.finditer(plain))
    if not numbers:
        return ""
    start, end = numbers[-1].span()
    if _OPERAND.search(plain, max(start - _NEAR, 0), start) or _OPERATES.match(plain, end):
        return ""
    return numbers[-1][0].replace(",", "")


def _last_box(text: str) -> str | None:
    """The inside of the last `\\boxed{…}` whose braces close."""
    opened: list[int | None] = []
    first = -1
    found: str | None = None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace.end() if brace[0] == _BOX else None)
        elif opened and (start := opened.pop()) is not None and start > first:
            first, found = start, text[start : brace.start()]
    return found


def _delimited(answer: str) -> str:
    """As LaTeX, which math-verify reads numbers, sets and expressions from alike."""
    plain = answer.replace(_DOLLARS, "")
    return plain if "$" in plain else f"${plain}$"


ENTRY = TaskEntry(
    usage="math",
    matches=lambda spelling: spelling == "math",
    open=lambda spelling: Mathematics(),
    brings_problems=False,
    example=TaskExample(
        "math",
        right=lambda problem: f"So it is \\boxed{{{final_answer(problem.gold or '')}}}.",
        wrong=lambda problem: "The answer is 99.",
        rows=(
            {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4 eggs.\n#### 4"},
            {"problem": "Find $x$.", "solution": "Then $x = \\boxed{\\frac{\\sqrt{3}}{2}}$."},
            {"prompt": "What?", "completion": "-7.5"},
        ),
    ),
    needs="math_verify",
    evaluates=lambda spelling: True,
)

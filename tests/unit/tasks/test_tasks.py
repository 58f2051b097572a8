"""Each task grades its own gold answers as 1, and what is not the answer as 0."""

from __future__ import annotations

import time

import pytest

from lowregret.errors import DataError, SpecError
from lowregret.tasks import Problem, open_task
from lowregret.tasks.gym import read_answer
from lowregret.tasks.mathematics import final_answer, last_number


@pytest.mark.parametrize("options", ["", ":difficulty=2", ":difficulty=7,wrong=0.3", ":difficulty=12,seed=5"])
def test_arithmetic_grades_its_gold_answers_as_1(options: str) -> None:
    task = open_task(f"builtin:arithmetic{options}".replace("arithmetic:", "arithmetic:size=80,test_size=40,"))
    problems = task.problems()
    assert problems is not None
    train, test = problems
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}
    for problem in (*train[:40], *test):
        assert problem.gold is not None
        assert task.grade(problem.gold, problem) == 1
        answer = problem.row["answer"]
        assert eval("".join(c for c in problem.prompt if c in "0123456789+-")) == answer
        for wrong in (
            "",
            "Answer:",
            "Answer: x",
            f"Answer: {answer + 1}",
            f"{answer}",
            f"Answer: {answer}\nAnswer: 99",
        ):
            assert task.grade(wrong, problem) == 0


NAMES = ["leg_counting", "basic_arithmetic", "chain_sum", "sudoku", "word_sorting", "countdown", "base_conversion"]


@pytest.mark.parametrize("name", NAMES)
def test_tasks_of_reasoning_gym_grade_their_gold_answers_as_1(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    task = open_task(f"gym:{name}:size=4,test_size=4,seed=3")
    problems = task.problems()
    assert problems is not None
    assert task.problems() == problems, "the same on every call"
    train, test = problems
    assert (len(train), len(test)) == (4, 4)
    assert {problem.prompt for problem in train} != {problem.prompt for problem in test}
    for problem in (*train, *test):
        assert problem.gold is not None
        assert task.grade(problem.gold, problem) == 1
        assert task.grade(problem.gold[8:-9], problem) == 1, "without its tags"
        assert task.grade("I cannot tell", problem) < 0.5


def test_options_of_reasoning_gym_reach_the_task() -> None:
    pytest.importorskip("reasoning_gym")
    (problem, *_), _ = open_task("gym:chain_sum:size=2,test_size=1,min_terms=6,max_terms=6").problems() or ([], [])
    assert sum(problem.prompt.count(sign) for sign in "+-") >= 5


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("gym:leg_countin", "Did you mean 'leg_counting'"),
        ("gym:chain_sum:min_terms", "no key=value"),
        ("gym:chain_sum:min_term=3", "min_term"),
        ("gym:chain_sum:size=0", "at least 1"),
        ("gym:chain_sum:size=4,min_terms=2,size=8", "size is given twice"),
        (
            "gym:chain_sum:size=2,min_terms=1.5,max_terms=3.5",
            "makes no problems of it \\(non-integer.*Correct its options",
        ),
        ("gym:chain_sum:size=2,min_digits=99999,max_digits=99999", "makes no problems of it"),
        (f"gym:chain_sum:size=2,min_digits={'-' * 5000}1", "makes no problems of it"),
    ],
)
def test_mistakes_in_a_spelling_are_named(spelling: str, message: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(SpecError, match=message):
        open_task(spelling).problems()


@pytest.mark.parametrize("spelling", ["arithmetic", "builtin:biographies", "gym:", "maths", "a:b:c", ":f", "m:"])
def test_what_is_no_task_is_an_error_that_lists_the_choices(spelling: str) -> None:
    with pytest.raises(SpecError, match="arithmetic"):
        open_task(spelling)


GOLD = [
    {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4 eggs.\n#### 4"},
    {"question": "How much?", "answer": "It is #### 1,234"},
    {"problem": "Find $x$.", "solution": "Then $x = \\boxed{\\frac{\\sqrt{3}}{2}}$."},
    {"problem": "Which?", "solution": "All in $\\boxed{(-\\infty, 2] \\cup \\{5\\}}$."},
    {"prompt": "What?", "completion": "-7.5"},
]


@pytest.mark.parametrize("row", GOLD, ids=range(len(GOLD)))
def test_mathematics_grades_its_gold_answers_as_1(row: dict[str, str]) -> None:
    pytest.importorskip("math_verify")
    task = open_task("math")
    problem = task.problem(row, None, None)
    assert problem.gold is not None
    assert task.grade(problem.gold, problem) == 1
    for wrong in ("", "I do not know.", "#### ", "\\boxed{}", "The answer is 99.", "#### 98"):
        assert task.grade(wrong, problem) == 0


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("The answer is 1234.", 1),
        ("It costs $1,234.", 1),
        ("\\boxed{1234.0}", 1),
        ("First 5, then #### 1234", 1),
        ("\\boxed{3} or rather \\boxed{1{,}234}", 1),
        ("617 + 617 = 1234 dollars", 1),
        ("1234 is what 617 + 617", 0),
        ("\\boxed{617 + 617}", 0),
        ("#### 2468/2", 0),
        ("\\boxed{1/1234}", 0),
        ("so it is 1/1234", 0),
        ("1234, no: 5", 0),
        ("#### Step 2: add them\nThat is \\boxed{1234}.", 1),
        ("\\boxed{1234}\n#### 5", 0),
        ("\\boxed{1234^\\circ}", 1),
        ("**Final Answer**\n\n$1234$", 1),
        ("#### 1234\n#### 5", 0),
    ],
)
def test_the_last_answer_counts_however_it_is_written(completion: str, reward: int) -> None:
    pytest.importorskip("math_verify")
    task = open_task("math")
    assert task.grade(completion, task.problem(GOLD[1], None, None)) == reward


@pytest.mark.parametrize("gold", ["\\$72", "\\$1,072.50", "72^\\circ", "(\\$3, 4]"])
def test_a_currency_is_no_formula_s_begin(gold: str) -> None:
    pytest.importorskip("math_verify")
    task = open_task("math")
    problem = task.problem({"problem": "How much?", "solution": f"It is $\\boxed{{{gold}}}$."}, None, None)
    for right in (gold, gold.replace("\\$", "")):
        assert task.grade(f"\\boxed{{{right}}}", problem) == 1
    assert task.grade("\\boxed{\\$71}", problem) == 0


def test_a_formula_is_met_by_another_of_its_value() -> None:
    pytest.importorskip("math_verify")
    task = open_task("math")
    problem = task.problem(GOLD[2], None, None)
    assert task.grade("So it is $\\frac{3}{2\\sqrt{3}}$.", problem) == 1
    assert task.grade("\\boxed{\\frac{1}{2}\\sqrt{3}}", problem) == 1
    assert task.grade("\\boxed{\\frac{1}{3}\\sqrt{3}}", problem) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $1,234.", "1234"),
        ("x = -3", "-3"),
        ("7-5", ""),
        ("7 - 5 = 2", "2"),
        ("Total - 72 clips", "72"),
        ("**72**", "72"),
        ("it is *72* and no more", "72"),
        ("答案是**72**。", "72"),
        ("so 3 times: **72** of them", "72"),
        ("\\boxed{\\$72}", "72"),
        ("\\boxed{72\\%}", "72"),
        ("\\boxed{\\text{72 clips}}", "72"),
        ("$72/hour", "72"),
        ("48/2 = 24", "24"),
        ("48 + 24 = 72.", "72"),
        ("$x = 72$", "72"),
        ("1/2", ""),
        ("\\boxed{1/2}", ""),
        ("\\boxed{\\frac{1}{2}}", ""),
        ("\\dfrac12", ""),
        ("\\frac1{2}", ""),
        ("3**2", ""),
        ("3*2", ""),
        ("x^2", ""),
        ("x^{2}", ""),
        ("x_2", ""),
        ("\\sqrt{2}", ""),
        ("\\sqrt[3]{2}", ""),
        ("3 * 2", ""),
        ("3 \\times 2", ""),
        ("(3 + 4) - 2", ""),
        ("2\\pi", ""),
        ("2 * x", ""),
        ("2^n", ""),
        ("**Total**\n72", "72"),
        ("**Final Answer** $72$", "72"),
        ("it is __72__ clips", "72"),
        ("April: 48\n- 72", "72"),
        ("In total\n* 72", "72"),
        ("72\n\n* It is what was asked.", "72"),
        ("72\n\u00b7 so", "72"),
        ("72^\\circ", "72"),
        ("\\boxed{72^{\\circ}}", "72"),
        ("the $72^{\\text{nd}}$", "72"),
        ("$72/\\text{hour}$", "72"),
        ("72 cm^2", "72"),
        ("$72 \\text{ cm}^{2}$.", "72"),
        ("$72$ cm$^2$", "72"),
        ("72 m/s^2", "72"),
        ("10{,}000 or 20,\\!000", "20000"),
        ("20\u202f000", "20000"),
        ("3x^2", ""),
        ("m^2", ""),
        ("2\u03c0", ""),
        ("\u221a2", ""),
        ("3 \u22c5 2", ""),
        ("3 x 2", ""),
        ("n + 2", ""),
        ("n+2", ""),
        ("the change is +72", "72"),
        ("\\frac 1 2", ""),
        ("\u22124 degrees", "-4"),
        ("10,000,000.25", "10000000.25"),
        ("1,23", "23"),
        ("about .5", ".5"),
        ("3.", "3"),
        ("none", ""),
    ],
)
def test_the_last_number_written_out(text: str, number: str) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize("part", ["\\boxed{", "{", "}", "1 ", "1\\text{", "111,", " )", "72^ {", "\\"])
def test_a_long_completion_takes_no_long_time(part: str) -> None:
    """The limit of a sample is 5 s, and what takes longer is a failure."""
    text = f"\\boxed{{72{part * (100_000 // len(part))}"
    start = time.process_time()
    last_number(final_answer(text))
    assert time.process_time() - start < 2


def test_final_answers_and_tags_are_found() -> None:
    assert final_answer("a \\boxed{1} b \\boxed{\\text{x {y}}} c \\boxed{open") == "\\text{x {y}}"
    assert final_answer("#### 1,000 \nmore") == "1000"
    assert final_answer("\\boxed{a\\boxed{b}c} } {") == "b"
    assert final_answer(" plain ") == "plain"
    assert read_answer("<answer>1</answer> so\n<answer>\n2 3\n</answer>") == "2 3"
    assert read_answer("think\nAnswer: 5 ") == "5"
    assert read_answer(" 7 ") == "7"


def test_columns_are_detected_or_named() -> None:
    task = open_task("math")
    named = task.problem({"q": "Q?", "a": "3", "question": "no"}, "q", "a")
    assert (named.prompt, named.gold) == ("Q?", "3")
    for row in (
        {"text": "a"},
        {"question": "Q?", "answer": " "},
        {"question": "Q?", "answer": "#### "},
        {"question": 3},
    ):
        with pytest.raises(DataError):
            task.problem(row, None, None)
    own = open_task("module:function").problem({"question": "Q?", "difficulty": 3}, None, None)
    assert own == Problem("Q?", {"question": "Q?", "difficulty": 3})

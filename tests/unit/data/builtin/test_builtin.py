"""Generated data: the same everywhere, never shared between train and test, with answers and entropies that hold."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogues import turns
from lowregret.data.builtin.arithmetic import PROMPTS, SumChain, draw_chain, read_answer, work
from lowregret.data.builtin.base import GeneratedData
from lowregret.data.builtin.corpus import KINDS, draw_documents
from lowregret.data.builtin.instructions import OPENINGS, OPERATIONS, WORDS, Instruction, draw_instruction
from lowregret.data.builtin.people import ATTRIBUTES, BITS_PER_PERSON, TEST_QUESTIONS, draw_people
from lowregret.data.builtin.registry import GENERATORS, load_builtin
from lowregret.errors import DataError


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("builtin:poems", rf"no built-in data named 'poems'.*Valid: {', '.join(sorted(GENERATORS))}"),
        ("builtin:arithmetics", r"Did you mean 'arithmetic'\?"),
        ("builtin:arithmetic:sise=3", r"unknown option 'sise=3'.*Did you mean 'size'\?"),
        ("builtin:arithmetic:size=3,size=4", r"size is given twice"),
        ("builtin:arithmetic:size", r"unknown option 'size'; write key=value"),
        ("builtin:arithmetic:size=many", r"size='many' is not a number"),
        ("builtin:arithmetic:size=0", r"size must be a whole number from 1 to 1e\+06, not 0"),
        ("builtin:arithmetic:size=1.5", r"size must be a whole number"),
        ("builtin:arithmetic:size=nan", r"size must be a whole number"),
        ("builtin:arithmetic:wrong=1", r"wrong must be a number from 0 to 0\.9, not 1"),
        ("builtin:arithmetic:seed=-1", r"seed must be a whole number from 0"),
        ("builtin:instructions:difficulty=1", r"difficulty must be a whole number from 2 to 8"),
        ("builtin:biographies:wordings=7", r"wordings must be a whole number from 1 to 6"),
        ("builtin:arithmetic:difficulty=1,size=1000", r"the problems run out .* raise difficulty or lower size"),
        ("builtin:biographies:difficulty=3", r"unknown option 'difficulty=3'"),
    ],
)
def test_options_are_checked(source: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        load_builtin(source)
    assert str(error.value).startswith(source + ":")


# --- arithmetic -----------------------------------------------------------------------------------------------------


def evaluated(expression: str) -> int:
    assert re.fullmatch(r"\d( [+-] \d)*", expression)
    result: int = eval(expression)
    return result


def read_expression(prompt: str) -> str:
    for form in PROMPTS:
        before, after = form.split("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)]
    raise AssertionError(prompt)


def test_arithmetic_is_right_line_by_line() -> None:
    data = load_builtin("builtin:arithmetic:size=200,test_size=50,difficulty=4")
    for prompt, reply in turns(data.train + data.test):
        expression = read_expression(prompt)
        *steps, last = reply.split("\n")
        assert len(steps) == 4
        value = int(expression[0])
        for step, move in zip(steps, re.findall(r"[+-] \d", expression), strict=True):
            left, right = step.split(" = ")
            assert left == f"{value} {move}"
            value = int(right)
            assert value == evaluated(left)
            assert 0 <= value <= 9
        assert last == f"Answer: {evaluated(expression)}"
        assert read_answer(reply) == evaluated(expression)
    assert data.facts == {"train_floor_nats": 0.0, "test_floor_nats": 0.0}, "right work follows from the prompt"


def test_no_problem_is_shared_or_repeated_in_any_wording() -> None:
    data = load_builtin("builtin:arithmetic:size=60,test_size=30,difficulty=2")
    problems = [read_expression(prompt) for prompt, _ in turns(data.train + data.test)]
    assert len(set(problems)) == 90


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_a_drawn_problem_costs_the_nats_of_its_choices(seed: int, steps: int) -> None:
    """From a value v, nine moves lead to another digit; the start is one of nine."""
    problem, nats = draw_chain(random.Random(seed), steps)
    assert nats == pytest.approx((steps + 1) * math.log(9))
    assert evaluated(problem.expression) == problem.answer


def test_wrong_steps_come_as_often_as_said_and_cost_what_they_cost() -> None:
    """With p wrong, a step takes H(p) + p·log(other digits): nine, or ten where the right result is no digit."""
    p, steps, noise, count = 0.2, 0, 0.0, 0
    expected = 0.0
    generator = random.Random(0)
    for _ in range(3000):
        problem, _ = draw_chain(generator, 3)
        text, nats = work(problem, generator, p)
        noise += nats
        for line in text.split("\n")[:-1]:
            left, _, right = line.partition(" = ")
            value, sign, size = left.split()
            true = int(value) + (int(size) if sign == "+" else -int(size))
            others = 9 if 0 <= true <= 9 else 10
            expected += -p * math.log(p) - (1 - p) * math.log(1 - p) + p * math.log(others)
            count += true != int(right)
            steps += 1
        assert text.endswith(f"Answer: {text.split(chr(10))[-2].rpartition(' ')[2]}"), (
            "the answer is what was worked out"
        )
    assert count / steps == pytest.approx(p, abs=0.02)
    assert noise == pytest.approx(expected, rel=0.03)


def reply_nats(reply: str, p: float) -> float:
    """−log of the probability with which work of this kind was written, each step wrong with probability p."""
    nats = 0.0
    for line in reply.split("\n")[:-1]:
        left, _, right = line.partition(" = ")
        value, sign, size = left.split()
        true = int(value) + (int(size) if sign == "+" else -int(size))
        others = 9 if 0 <= true <= 9 else 10
        nats -= math.log(1 - p) if int(right) == true else math.log(p / others)
    return nats


def test_the_floor_of_arithmetic_is_the_sum_over_its_replies() -> None:
    """Recomputed from the rows alone."""
    p = 0.2
    data = load_builtin(f"builtin:arithmetic:size=300,test_size=40,difficulty=3,wrong={p}")
    for rows, key in ((data.train, "train_floor_nats"), (data.test, "test_floor_nats")):
        assert data.facts[key] == pytest.approx(math.fsum(reply_nats(reply, p) for _, reply in turns(rows)))


def test_the_floor_of_the_corpus_is_the_noise_in_its_arithmetic() -> None:
    """Questions and instructions have one right reply; of worked steps, one in five is wrong."""
    data = load_builtin("builtin:corpus:size=300,test_size=60")
    for rows, key in ((data.train, "train_floor_nats"), (data.test, "test_floor_nats")):
        noisy = [reply for _, reply in turns(rows) if "Answer:" in reply]
        assert 0 < len(noisy) < len(rows)
        assert data.facts[key] == pytest.approx(math.fsum(reply_nats(reply, 0.2) for reply in noisy))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 2 = 3\nAnswer: 3", 3),
        ("Answer: 1\nAnswer: -2 ok", -2),
        ("Answer:", None),
        ("Answer: x", None),
        ("3", None),
    ],
)
def test_an_answer_is_the_number_after_the_last_answer(text: str, answer: int | None) -> None:
    assert read_answer(text) == answer


# --- instructions ---------------------------------------------------------------------------------------------------


def solved(prompt: str) -> str:
    """The right answer by other means than the generator's."""
    head, _, tail = prompt.partition(": ")
    items = tail.split()
    task = next(task for task, forms in OPERATIONS.items() if f"{head}: {{}}" in forms)
    if task == "count":
        return str(len(items))
    if task == "compare":
        assert len(items) == 2
        return items[0] if int(items[0]) > int(items[1]) else items[1]
    if task == "sort":
        return " ".join(str(number) for number in range(10) if str(number) in items)
    return " ".join(items[::-1] if task == "reverse" else items)


def test_instructions_are_answered_right_after_one_of_the_openings() -> None:
    data = load_builtin("builtin:instructions:size=400,test_size=50")
    used: Counter[str] = Counter()
    for prompt, reply in turns(data.train + data.test):
        opening = next(opening for opening in OPENINGS if reply.startswith(opening + " "))
        used[opening] += 1
        assert reply == f"{opening} {solved(prompt)}"
    assert set(used) == set(OPENINGS)
    assert max(used.values()) < 2.5 * min(used.values()), "the openings are uniform"


def test_the_floor_of_instructions_is_the_choice_of_the_opening() -> None:
    data = load_builtin("builtin:instructions:size=100,test_size=30")
    assert len(OPENINGS) == len(set(OPENINGS)) == 8
    assert data.facts["train_floor_nats"] == pytest.approx(100 * math.log(8))
    assert data.facts["test_floor_nats"] == pytest.approx(30 * math.log(8))


def test_a_drawn_instruction_costs_the_nats_of_its_choices() -> None:
    assert len(WORDS) == len(set(WORDS)) == 64
    generator, longest = random.Random(0), 5
    for _ in range(300):
        instruction, nats = draw_instruction(generator, longest)
        n = len(instruction.items)
        assert len(set(instruction.items)) == n
        pool = 10 if instruction.operation in ("sort", "compare") else 64
        ways = (
            math.log(5)
            + math.log(math.perm(pool, n))
            + (0 if instruction.operation == "compare" else math.log(longest - 1))
        )
        assert nats == pytest.approx(ways)
        assert 2 <= n <= (2 if instruction.operation == "compare" else longest)


def test_tasks_by_hand() -> None:
    assert Instruction("copy", ("b", "a")).answer == "b a"
    assert Instruction("reverse", ("x", "y", "z")).answer == "z y x"
    assert Instruction("sort", ("7", "0", "3")).answer == "0 3 7"
    assert Instruction("count", ("a", "b", "c")).answer == "3"
    assert Instruction("compare", ("2", "9")).answer == "9"


# --- biographies ----------------------------------------------------------------------------------------------------


def asked(prompt: str, names: list[str]) -> tuple[str, int, int]:
    """(name, attribute, wording) of a question."""
    name = next(name for name in names if name in prompt)
    for attribute, known in enumerate(ATTRIBUTES):
        for wording, question in enumerate(known.questions):
            if question.format(name=name) == prompt:
                return name, attribute, wording
    raise AssertionError(prompt)


@pytest.fixture(scope="module")
def biographies() -> GeneratedData:
    return load_builtin("builtin:biographies:size=40,wordings=3")


def test_every_fact_is_told_in_so_many_wordings_and_asked_in_one_never_told(biographies: GeneratedData) -> None:
    people = {person.name: person for person in draw_people(40, 0, known=False)}
    told: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for prompt, reply in turns(biographies.train):
        name, attribute, wording = asked(prompt, list(people))
        assert reply == f"{people[name].facts[attribute]}."
        assert wording < len(ATTRIBUTES[attribute].questions) - TEST_QUESTIONS, "a test wording is told"
        told[name, attribute].add(wording)
    assert len(told) == 40 * len(ATTRIBUTES)
    assert all(len(wordings) == 3 for wordings in told.values())
    for prompt, reply in turns(biographies.test):
        name, attribute, wording = asked(prompt, list(people))
        assert reply == f"{people[name].facts[attribute]}."
        assert wording >= len(ATTRIBUTES[attribute].questions) - TEST_QUESTIONS
        assert (name, attribute) in told


def test_the_bits_of_a_person_are_those_of_uniform_facts(biographies: GeneratedData) -> None:
    sizes = [len(set(attribute.values)) for attribute in ATTRIBUTES]
    assert sizes == [len(attribute.values) for attribute in ATTRIBUTES], "a value is listed twice"
    assert sizes == [32, 64, 32, 32, 16]
    assert biographies.facts["bits_per_person"] == BITS_PER_PERSON == 5 + 6 + 5 + 5 + 4
    assert biographies.facts["fact_bits"] == 40 * 25
    assert biographies.facts["train_floor_nats"] == biographies.facts["test_floor_nats"] == 0.0
    everyone = draw_people(2048, 0, known=False)
    for index, size in enumerate(sizes):
        counts = Counter(person.facts[index] for person in everyone)
        assert len(counts) == size
        chi2 = sum((count - 2048 / size) ** 2 / (2048 / size) for count in counts.values())
        assert chi2 < size - 1 + 5 * math.sqrt(2 * (size - 1)), f"{ATTRIBUTES[index].name} is not uniform"


def test_no_question_or_statement_is_ambiguous() -> None:
    for kind in ("questions", "statements"):
        forms = [form for attribute in ATTRIBUTES for form in getattr(attribute, kind)]
        assert len(set(forms)) == len(forms)
    assert {len(attribute.questions) for attribute in ATTRIBUTES} == {8}
    assert all("{name}" in question for attribute in ATTRIBUTES for question in attribute.questions)


def test_people_of_the_bases_and_people_to_be_taught_have_no_name_in_common() -> None:
    known = {person.name for person in draw_people(2048, 0, known=True)}
    new = {person.name for person in draw_people(2048, 0, known=False)}
    assert len(known) == len(new) == 2048
    assert not known & new
    with pytest.raises(ValueError, match="at most 2048"):
        draw_people(2049, 0, known=True)


# --- the pretraining corpus -----------------------------------------------------------------------------------------


def corpus(count: int, seed: int, **options: object) -> list:
    settings: dict = {"mix": dict.fromkeys(KINDS, 1.0), "people": 16, "wrong": 0.1, "longest": 4, "difficulty": 3}
    return list(draw_documents(count, seed, **{**settings, **options}))


def test_the_corpus_repeats_and_differs_by_seed() -> None:
    assert corpus(50, 1) == corpus(50, 1)
    assert corpus(50, 1) != corpus(50, 2)
    assert {document.kind for document in corpus(100, 1)} == set(KINDS)
    shares = Counter(document.kind for document in corpus(4000, 1, mix={"question": 3.0, "arithmetic": 1.0}))
    assert shares["question"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert set(shares) == {"question", "arithmetic"}


def test_documents_cost_the_nats_of_their_draw() -> None:
    """From the text alone: uniform choices multiply."""
    people = {person.name: person for person in draw_people(16, 0, known=True)}
    for document in corpus(300, 3, wrong=0.0):
        if document.kind == "biography":
            # A person of 16, five facts in any order, each in one of four wordings.
            assert document.nats == pytest.approx(math.log(16) + math.log(120) + 5 * math.log(4))
            person = next(person for name, person in people.items() if name in document.text)
            assert all(value in document.text for value in person.facts)
            assert document.text.count(person.name) == 5
            continue
        ((prompt, reply),) = turns([{"messages": document.messages}])
        if document.kind == "question":
            name, attribute, _ = asked(prompt, list(people))
            assert reply == f"{people[name].facts[attribute]}."
            assert document.nats == pytest.approx(math.log(16) + math.log(5) + math.log(8))
        elif document.kind == "arithmetic":
            steps = reply.count("=")
            assert 1 <= steps <= 3
            assert read_answer(reply) == evaluated(read_expression(prompt))
            assert document.nats == pytest.approx(math.log(3) + math.log(4) + (steps + 1) * math.log(9))
        else:
            assert reply == solved(prompt)


def test_the_noise_of_wrong_steps_is_in_the_nats() -> None:
    p = 0.3
    documents = corpus(3000, 5, wrong=p, mix={"arithmetic": 1.0}, difficulty=1)
    mean = math.fsum(document.nats for document in documents) / len(documents)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p) + p * math.log(9)
    assert mean == pytest.approx(math.log(4) + 2 * math.log(9) + entropy, rel=0.01)


def test_a_problem_knows_its_answer() -> None:
    assert SumChain(3, (-2, 8)).expression == "3 - 2 + 8"
    assert SumChain(3, (-2, 8)).answer == 9

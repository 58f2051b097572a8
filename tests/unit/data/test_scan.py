"""What a scan without torch says, against what the trainer's own preparation counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lowregret
from lowregret.data import row_tokens as module
from lowregret.data.prepare import prepare
from lowregret.data.scan import scan
from lowregret.errors import DataError, ModelError
from lowregret.models.load import load_tokenizer, resolve
from lowregret.spec.data import DataSpec

TINY = Path(lowregret.__file__).parent / "models" / "bundled" / "tiny"
BUILTINS = ("builtin:arithmetic:size=200", "builtin:instructions:size=100", "builtin:biographies:size=8")


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("source", BUILTINS)
def test_small_data_are_counted_as_the_trainer_counts_them(source: str) -> None:
    found = scan(source, tokenizer=TINY)
    prepared = prepare(DataSpec(train=source), load_tokenizer(resolve("tiny")))
    train, test = (part.read for part in prepared.report.splits)
    assert found.counted == "exact"
    assert (found.examples, found.held_out) == (train.examples, test.examples)
    assert found.supervised_tokens == pytest.approx(train.supervised_tokens, rel=0.01)
    assert found.tokens == pytest.approx(train.tokens, rel=0.01)


def test_a_sample_speaks_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = scan(BUILTINS[0], tokenizer=TINY)
    monkeypatch.setattr(module, "_SAMPLE", 50)
    sampled = scan(BUILTINS[0], tokenizer=TINY)
    assert (sampled.counted, sampled.how) == ("sampled", "the model's tokenizer on 50 of 200 rows")
    assert sampled.supervised_tokens == pytest.approx(exact.supervised_tokens, rel=0.05)
    assert sampled.tokens == pytest.approx(exact.tokens, rel=0.05)


def test_without_a_tokenizer_the_count_is_an_estimate_that_says_so(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        found = scan(BUILTINS[0], tokenizer=folder)
        assert found.counted == "estimated"
        assert "no tokenizer" in found.how
        assert found.supervised_tokens > 0
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        scan(BUILTINS[0], tokenizer=tmp_path)


def test_a_file_is_split_as_the_trainer_splits_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"Name {n}", "completion": f"It is {n}."} for n in range(50)]
    source = write(tmp_path / "rows.jsonl", *rows)
    found = scan(source, tokenizer=TINY)
    prepared = prepare(DataSpec(train=source), load_tokenizer(resolve("tiny")))
    assert (found.examples, found.held_out) == (len(prepared.train), len(prepared.test)) == (45, 5)
    judged = scan(source, eval_source=source, tokenizer=TINY)
    assert (judged.examples, judged.held_out) == (50, 50)


def test_problems_are_listed_with_their_lines_and_the_rest_is_counted(tmp_path: Path) -> None:
    good = [{"prompt": f"Name {n}", "completion": f"It is {n}."} for n in range(20)]
    source = write(
        tmp_path / "rows.jsonl",
        *good[:3],
        "{broken",
        {"prompt": "no completion"},
        {"prompt": "empty", "completion": " "},
        *good[3:],
        good[0],
    )
    found = scan(source, tokenizer=TINY)
    assert found.examples + found.held_out == 21
    assert [problem.partition(" ")[0] for problem in found.problems] == [f"{source}:{line}:" for line in (4, 5, 6, 24)]
    for problem, words in zip(
        found.problems, ("broken JSON", "'completion' is missing", "'completion' is empty", "repeats"), strict=True
    ):
        assert words in problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("rows.jsonl", b'{"a": 1}\n', "no known columns"),
        ("rows.json", b"[{", "broken JSON"),
        ("rows.csv", b"prompt,prompt\na,b\n", "twice"),
        ("rows.jsonl", b'{"text": "\xcf\xf0\xe8"}\n', "not Windows-1252"),
        ("rows.parquet", b"PAR1", "Parquet"),
    ],
)
def test_a_file_without_a_good_row_is_a_problem_and_not_the_end(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    found = scan(str(tmp_path / name))
    assert (found.examples, found.tokens, found.held_out) == (0, 0, 0)
    assert words in found.problems[0]
    assert found.problems[0].startswith(str(tmp_path / name))
    assert f": {tmp_path / name}:" not in found.problems[0]


@pytest.mark.parametrize(
    ("source", "words"), [("builtin:arithmetics", "Did you mean 'arithmetic'?"), ("rowz.jsonl", "no such file")]
)
def test_a_source_that_is_none_is_an_error(source: str, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("?", r"\?")):
        scan(source)


def test_max_length_cuts_and_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", *({"text": f"word {n} " * 60} for n in range(4)))
    found = scan(source, tokenizer=TINY, max_length=32)
    assert (found.longest, found.overlong, found.max_length) == (32, 4, 32)


def test_a_template_that_refuses_is_replaced_by_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    refused = scan(BUILTINS[0], tokenizer=tmp_path)
    exact = scan(BUILTINS[0], tokenizer=TINY)
    assert refused.supervised_tokens == exact.supervised_tokens
    assert refused.tokens == pytest.approx(exact.tokens, rel=0.3)


def templated(folder: Path, template: str) -> Path:
    """A folder with the bundled tokenizer and this chat template."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((TINY / "tokenizer.json").read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    return folder


def chats(*roles: str) -> dict[str, object]:
    """A row with a turn of each of these roles."""
    return {"messages": [{"role": role, "content": f"{role} speaks"} for role in roles]}


ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)


def test_rows_that_the_template_refuses_are_faults_and_no_examples(tmp_path: Path) -> None:
    folder = templated(tmp_path / "gemma", ALTERNATING)
    rows = [chats("user", "assistant"), chats("system", "user", "assistant"), chats("system", "assistant")]
    source = write(tmp_path / "rows.jsonl", *rows, *(chats("user", "assistant", *("user",) * n) for n in range(2, 9)))
    found = scan(source, tokenizer=folder)
    assert found.examples + found.held_out == 8
    (fault,) = (problem for problem in found.problems if "refuses" in problem)
    assert fault == f"{source}:2: 2 rows that the chat template refuses; this one: System role not supported."
    assert not found.blocked


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ raise_exception('never') }}", "refuses every row: never"), ("{% for %}", "does not compile: line 1")],
)
def test_a_template_that_no_row_passes_is_one_fault_and_the_rest_an_estimate(
    template: str, words: str, tmp_path: Path
) -> None:
    folder = templated(tmp_path / "base", template)
    source = write(tmp_path / "rows.jsonl", *(chats("user", "assistant", *("user",) * n) for n in range(20)))
    found = scan(source, tokenizer=folder)
    assert found.blocked
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"{folder}: ")
    assert words in found.problems[0]
    assert found.supervised_tokens > 0


def test_a_loop_that_breaks_is_counted_as_the_trainer_counts_it(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if m.role == 'tool' %}{% break %}{% endif %}<{{ m.content }}>\n{% endfor %}"
    folder = tmp_path / "loop"
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text(template)
    turns = ("user", "assistant", "user", "tool", "assistant")
    rows = (
        {"messages": [{"role": role, "content": f"{role} {n} speaks"} for role in turns[: 2 + n % 2]]}
        for n in range(20)
    )
    source = write(tmp_path / "rows.jsonl", *rows)
    found = scan(source, tokenizer=folder)
    train = prepare(DataSpec(train=source), load_tokenizer(resolve(str(folder)))).report.splits[0].read
    assert found.counted == "exact"
    assert found.problems == ()
    assert found.tokens == pytest.approx(0.9 * train.tokens, rel=0.01), "of the rows read 18 are trained on"

"""The page and its Markdown."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from lowregret.data.facts import DataFacts
from lowregret.plan import page
from lowregret.plan.formatting import money, rate, share
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.quantities import byte_count
from lowregret.spec import FullFT, LoRA
from lowregret.spec.plan import PlanSpec

FACTS = DataFacts(
    "rows.jsonl", "text", 10_000, 2_000_000, 1_000_000, 400, 512, 0, 1000, "10% of the rows", "exact", "tokenizer"
)


def make(name: str = "Qwen3-8B", facts: DataFacts | None = FACTS, **request: object) -> Plan:
    return build_plan(find_model(name), PlanSpec(**request), facts=facts, hardware=find_hardware("H100"))  # type: ignore[arg-type]


def printed(plan: Plan, width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(page.page(plan))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 104, 60])
def test_the_page_keeps_to_the_width_and_is_short(width: int) -> None:
    lines = printed(make(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert width < 80 or len(lines) <= 70


def test_the_table_has_its_sources_where_they_can_be_read() -> None:
    assert "a sweep, and terms" in printed(make())
    assert "a sweep" not in printed(make(), 68)


@pytest.mark.parametrize("text", [printed, page.markdown])
def test_everything_that_matters_is_on_it(text: object) -> None:
    assert callable(text)
    facts = replace(FACTS, problems=("rows.jsonl:3: broken JSON",))
    plan = make(facts=facts, learning_rate=1e-5)
    said = " ".join(text(plan).split())
    assert (
        f"Train a LoRA of rank 64 on attention + mlp + unembedding at learning rate {rate(plan.advice.learning_rate)}"
        in said
    )
    assert "Confidence medium: a regret of up to 5 %" in said
    assert "is one for full fine-tuning" in said
    assert "rows.jsonl:3: broken JSON" in said
    assert byte_count(plan.full.memory.total) in said
    assert f"--learning-rate {plan.advice.learning_rate:.2g}" in said
    assert "lowregret compare --model Qwen/Qwen3-8B --data rows.jsonl" in said.replace("\\ ", "")
    assert "measures the regret: about" in said


def test_another_method_than_the_advised_is_said_to_be_what_the_table_is_for() -> None:
    assert "You asked for" not in printed(make())
    assert "You asked for full fine-tuning: the table below" in printed(make(method=FullFT()))
    said = printed(make(method=LoRA(rank=4)))
    assert "You asked for LoRA of rank 4 on attention + mlp + unembedding" in said
    assert "LoRA, rank 4" in said


def test_what_does_not_fit_is_not_given_a_time_as_if_it_did() -> None:
    assert "no; --devices" in printed(make())
    assert "if it fits" in printed(make())


def test_without_data_the_assumption_is_said() -> None:
    said = printed(make(facts=None))
    assert "none given: 1,000 steps" in said
    assert "Confidence low" in said
    assert "lowregret train" not in said


def test_rl_says_what_its_time_leaves_out() -> None:
    said = " ".join(printed(make(objective="rl", pass_rate=0.3)).split())
    assert "no sampling" in said
    assert "pass rate 0.3, groups of 8" in said


def test_rl_says_how_long_a_row_is_and_goes_on_with_commands_of_its_task() -> None:
    """Rows of 200 tokens, of which half are the prompt's."""
    task = replace(FACTS, source="builtin:arithmetic:difficulty=5")
    said = " ".join(printed(make(objective="rl", facts=task, max_tokens=80)).replace("\\", "").split())
    assert "prompts of about 100 tokens and completions of up to 80" in said
    common = (
        "--model Qwen/Qwen3-8B --objective rl --task builtin:arithmetic:difficulty=5 --max-tokens 80 --group-size 8"
    )
    assert f"lowregret train {common}" in said
    assert f"lowregret compare {common}" in said
    assert "supervised" not in said
    graded = printed(make(objective="rl", facts=replace(FACTS, source="builtin:instructions")))
    assert "lowregret train" not in graded
    assert "lowregret train" not in printed(make(objective="rl"))
    assert "prompts of up to 512 tokens and completions of up to 80" in " ".join(
        printed(make(objective="rl", facts=None, max_tokens=80)).split()
    )


def test_markdown_tables_are_whole() -> None:
    lines = [line for line in page.markdown(make()).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {5}
    models = [make(), make("Llama-3.2-1B"), make("Kimi-K2-Instruct")]
    assert {line.count("|") for line in page.models_markdown(models).splitlines()} == {5}


@pytest.mark.parametrize(
    ("value", "words"),
    [(4.56e-4, "4.6e-4"), (1e-3, "1.0e-3"), (0.5, "5.0e-1"), (2e-10, "2.0e-10"), (9.96e-5, "1.0e-4")],
)
def test_rate(value: float, words: str) -> None:
    assert rate(value) == words
    assert float(words) == pytest.approx(value, rel=0.05)


def test_other_words() -> None:
    assert (money(0.001), money(2.5), money(1234.5)) == ("under $0.01", "$2.50", "$1,234")
    assert (share(0.0213), share(1.0)) == ("2.1 %", "100 %")

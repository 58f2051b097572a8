"""Public models by name: enough of them, each with its source, and with the totals that their makers publish."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from lowregret.plan.shapes.catalogue.entries import CatalogueEntry, entries, find_entry
from lowregret.plan.shapes.lookup import find_model, from_catalogue

_WITH_TOTAL = [entry for entry in entries() if entry.parameters is not None]


def test_there_are_many_and_each_says_where_it_is_from() -> None:
    assert len(entries()) >= 40
    assert all(entry.source and entry.config for entry in entries())


def test_no_name_means_two_models() -> None:
    counts = Counter(name.casefold() for entry in entries() for name in entry.names)
    short = Counter(name.rpartition("/")[2].casefold() for entry in entries() for name in entry.names)
    assert max(counts.values()) == max(short.values()) == 1


@pytest.mark.parametrize("entry", _WITH_TOTAL, ids=lambda entry: entry.name)
def test_the_total_is_the_published_one(entry: CatalogueEntry) -> None:
    assert from_catalogue(entry).total == entry.parameters


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_kinds_and_uses_add_up(entry: CatalogueEntry) -> None:
    shapes = from_catalogue(entry)
    assert sum(shapes.by_kind().values()) == shapes.total
    assert shapes.active <= shapes.total
    assert (shapes.active < shapes.total) == (shapes.experts > shapes.active_experts > 0)
    assert sum(group.layers for group in (*shapes.attention, *shapes.states)) <= shapes.layers
    assert not any("estimate" in note for note in shapes.notes)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("deepseek-ai/DeepSeek-V3", 671, 37),
        ("moonshotai/Kimi-K2-Instruct", 1026, 33),
        ("openai/gpt-oss-120b", 117, 5.1),
        ("Qwen/Qwen3-30B-A3B", 30.5, 3.3),
        ("Qwen/Qwen3-235B-A22B", 235, 22),
        ("Qwen/Qwen3.5-397B-A17B", 397, 17),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 120, 12),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 550, 55),
        ("zai-org/GLM-4.5", 355, 32),
        ("zai-org/GLM-4.7-Flash", 30, 3.6),
        ("zai-org/GLM-5", 744, 40),
        ("zai-org/GLM-5.2", 743, 40),
        ("mistralai/Ministral-3-3B-Base-2512", 3.4, 3.4),
        ("mistralai/Ministral-3-14B-Base-2512", 13.5, 13.5),
        ("mistralai/Mistral-Small-4-119B-2603", 119, 6.5),
        ("MiniMaxAI/MiniMax-M2", 229, 10),
        ("upstage/Solar-Open-100B", 102, 12),
        ("JetBrains/Mellum2-12B-A2.5B-Base", 12.15, 2.5),
        ("ByteDance-Seed/Seed-OSS-36B-Instruct", 36, 36),
        ("google/gemma-4-12B", 12, 12),
        ("IQuestLab/IQuest-Coder-V1-40B-Instruct", 40, 40),
        ("tencent/Youtu-LLM-2B", 1.96, 1.96),
        ("internlm/internlm3-8b-instruct", 8.8, 8.8),
    ],
)
def test_total_and_active_are_what_the_maker_rounds_to(name: str, total: float, active: float) -> None:
    """In 1e9. Makers count a token's embedding row or the whole table, the unembedding or not: hence the 15 %."""
    shapes = find_model(name)
    assert shapes.total / 1e9 == pytest.approx(total, rel=0.01)
    assert shapes.active / 1e9 == pytest.approx(active, rel=0.15)


@pytest.mark.parametrize("spelling", ["meta-llama/Llama-3.1-8B", "LLAMA-3.1-8b", "llama-3.1-8b-instruct"])
def test_names_match_in_any_case_and_without_the_organisation(spelling: str) -> None:
    entry = find_entry(spelling)
    assert entry is not None
    assert entry.name == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1"),
        ("Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("OLMo-2-7B", "allenai/OLMo-2-1124-7B"),
    ],
)
def test_a_plan_is_headed_and_goes_on_with_the_model_that_was_named(asked: str, named: str) -> None:
    """Of those of equal shapes; a short name that is none on the hub means one that begins so, else the entry's own."""
    assert find_model(asked).name == named


def test_part_of_a_name_is_no_name() -> None:
    assert find_entry("llama") is None
    assert find_entry("llama-3.1") is None


def test_a_look_up_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from lowregret.plan.shapes.lookup import find_model\n"
        "from lowregret.plan.shapes.adapters import lora_parameters\n"
        "lora_parameters(find_model('qwen3-235b-a22b'), 16)\n"
        "print(*(module for module in ('torch', 'transformers', 'numpy') if module in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []

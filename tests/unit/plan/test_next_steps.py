"""The commands under a plan: they are ones, and what they train fits."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowregret.data.facts import DataFacts
from lowregret.plan.make import build_plan
from lowregret.plan.next_steps import next_steps
from lowregret.plan.plan import Plan
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT
from lowregret.spec.plan import PlanSpec

FACTS = DataFacts(
    "rows.jsonl", "text", 10_000, 2_000_000, 1_000_000, 400, 512, 0, 1000, "10% of the rows", "exact", "tokenizer"
)
FLAGS = {
    tuple(line.split("\t")[:2])
    for line in (Path(__file__).parents[1] / "cli" / "flags.txt").read_text(encoding="utf-8").splitlines()
}
SWITCHES = {"--checkpoint-activations", "--offload-activations"}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"devices": 2},
    {"devices": 16},
    {"devices": 8, "parallel": "fsdp=8"},
    {"checkpoint_activations": True, "schedule": "linear"},
    {"offload_activations": True, "micro_batch_size": 2},
    {"method": FullFT(), "max_length": 8192},
    {"method": FullFT(optimizer="bf16")},
    {"eval_data": "a b.jsonl", "prompt_field": "q", "completion_field": "a"},
]


def made(model: str, hardware: str | None, facts: DataFacts = FACTS, **request: Any) -> Plan:
    judged = None if hardware is None else find_hardware(hardware)
    return build_plan(find_model(model), PlanSpec(**request), facts=facts, hardware=judged)


def parsed(step: str) -> tuple[str, dict[str, str]]:
    """The verb and its flags."""
    words = shlex.split(step.partition("\n    #")[0].replace("\\\n", " "))
    verb = words[words.index("lowregret") + 1]
    rest, flags = words[words.index(verb) + 1 :], {}
    while rest:
        flag = rest.pop(0)
        flags[flag] = "" if flag in SWITCHES else rest.pop(0)
    return verb, flags


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
@pytest.mark.parametrize("hardware", [None, "H100", "RTX 4090"])
@pytest.mark.parametrize("model", ["SmolLM2-135M", "Llama-3.1-8B", "Llama-3.1-70B"])
def test_a_command_has_the_verbs_flags_and_all_that_it_trains_fits(
    model: str, hardware: str | None, request_: dict[str, Any]
) -> None:
    facts = replace(FACTS, max_length=request_.get("max_length", FACTS.max_length))
    plan = made(model, hardware, facts, **request_)
    steps = next_steps(plan)
    typed = [parsed(step) for step in steps if not step.startswith("#")]
    assert {verb for verb, _ in typed} <= {"train", "compare"}
    assert (plan.study is not None) == ("compare" in dict(typed)) or plan.hardware is None
    assert [verb for verb, _ in typed] == ["train", "compare"] or steps[-1].startswith("# ")
    for verb, flags in typed:
        assert {(verb, flag) for flag in flags} <= FLAGS
        methods = flags.get("--methods", flags.get("--method", "")).split(",")
        again = {**request_, "checkpoint_activations": "--checkpoint-activations" in flags}
        again["offload_activations"] = "--offload-activations" in flags
        for method in methods:
            assert made(model, hardware, facts, **{**again, "method": method}).asked.fits is not False


def test_full_fine_tuning_that_does_not_fit_is_compared_leaner() -> None:
    train, compare = next_steps(made("Llama-3.1-8B", "H100"))
    assert "--method lora:64 " in train
    assert "--methods lora:64,full:bf16-split " in compare
    assert "# measures the regret: about 16 trials" in compare


def test_where_none_fits_it_is_said_what_would() -> None:
    plan = made("Llama-3.1-70B", "H100", devices=16)
    assert next_steps(plan)[1] == "# full fine-tuning does not fit here: plan with --devices 32"
    assert plan.study is None
    assert next_steps(made("Llama-3.1-70B", "RTX 4090")) == ["# LoRA does not fit here: plan with --devices 64"]
    assert made("Llama-3.1-70B", "RTX 4090", devices=64).lora.fits


def test_activations_that_must_be_computed_twice_are_not_kept_by_the_host_as_well() -> None:
    """Training takes one of both flags."""
    plan = made("SmolLM2-135M", "H100", offload_activations=True)
    assert all("--offload-activations" in step for step in next_steps(plan))
    tight = replace(plan, full=replace(plan.full, fits=False, remedy="--checkpoint-activations"))
    train, compare = (parsed(step)[1] for step in next_steps(tight))
    assert "--offload-activations" in train
    assert "--checkpoint-activations" in compare
    assert "--offload-activations" not in compare


def test_what_was_asked_for_is_in_the_commands() -> None:
    request = REQUESTS[-1]
    for step in next_steps(made("SmolLM2-135M", "H100", **request)):
        flags = parsed(step)[1]
        assert flags["--eval-data"] == "a b.jsonl"
        assert (flags["--prompt-field"], flags["--completion-field"]) == ("q", "a")
    checkpointed = made("Llama-3.1-70B", "H100", devices=4, checkpoint_activations=True)
    assert checkpointed.lora.fits
    assert "--checkpoint-activations" in next_steps(checkpointed)[0]

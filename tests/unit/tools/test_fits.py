"""The table of docs/guides/lean.md is what the plan says today, and what the page says in words holds."""

from __future__ import annotations

from tools import fits

from lowregret.plan.make import build_plan
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT
from lowregret.spec.plan import PlanSpec

TEXT = fits.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_its_command_writes() -> None:
    assert fits.page(TEXT) == TEXT, "stale: python tools/fits.py"


def test_the_comparison_sees_a_change() -> None:
    assert fits.page(TEXT.replace("| Qwen3-8B |", "| Qwen3-9B |")) == TEXT
    assert fits.BEGIN in TEXT
    assert fits.END in TEXT


def test_eight_billion_parameters_fit_on_one_h100_with_another_optimizer() -> None:
    plan = build_plan(find_model("Qwen3-8B"), PlanSpec(method=FullFT()), hardware=find_hardware("H100"))
    assert plan.full.fits is False
    lean = plan.full.lean
    assert lean is not None
    assert lean.method == FullFT(optimizer="bf16-split")
    assert plan.as_dict()["sides"]["full"]["lean"]["longest"] == lean.longest
    found = {
        length: build_plan(
            find_model("Qwen3-8B"), PlanSpec(method=lean.method, max_length=length), hardware=find_hardware("H100")
        )
        for length in (lean.longest, lean.longest + 1)
    }
    assert [plan.full.fits for plan in found.values()] == [True, False]


def test_fewer_bytes_a_parameter_never_hold_less() -> None:
    methods = [FullFT(), *(FullFT(optimizer=kind) for kind in ("adamw8bit", "bf16-split", "bf16"))]
    kept = [
        build_plan(find_model("Qwen3-8B"), PlanSpec(method=method), hardware=find_hardware("H200")).full.memory
        for method in methods
    ]
    stays = [need.weights + need.gradients + need.optimizer for need in kept]
    assert stays == sorted(stays, reverse=True)
    total = find_model("Qwen3-8B").total
    assert stays[0] == 16 * total
    assert stays[3] == round((6 + 2 / 64) * total)

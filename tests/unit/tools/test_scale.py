"""docs/scale.md is what the plan says today, and what it says in words holds."""

from __future__ import annotations

import re

import pytest
from tools import scale

from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.resources.hardware import catalogue, find_hardware
from lowregret.plan.resources.traffic import LINK_UTILISATION
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA
from lowregret.spec.plan import PlanSpec

TEXT = scale.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_its_command_writes() -> None:
    assert scale.page(TEXT) == TEXT, "stale: python tools/scale.py"


def test_the_comparison_sees_a_change() -> None:
    assert scale.page(TEXT.replace("| 8 | LoRA", "| 9 | LoRA")) == TEXT
    assert scale.BEGIN in TEXT
    assert scale.END in TEXT


def plan(model: str, devices: int, method: FullFT | LoRA, checkpointing: bool) -> Plan:
    request = PlanSpec(
        method=method, devices=devices, max_length=2048, batch_size=32, checkpoint_activations=checkpointing
    )
    return build_plan(find_model(model), request, hardware=find_hardware(scale.DEVICE))


@pytest.mark.parametrize(
    ("model", "method", "least"),
    [
        ("Llama-3.1-8B", FullFT(), 2),
        ("Llama-3.1-70B", FullFT(), 32),
        ("Llama-3.1-8B", scale.LORA, 1),
        ("Llama-3.1-70B", scale.LORA, 4),
    ],
)
def test_the_least_devices_are_those_of_the_text(model: str, method: FullFT | LoRA, least: int) -> None:
    fits = [
        devices
        for devices in (1, 2, 4, 8, 16, 32)
        if any(plan(model, devices, method, checkpointing).asked.fits for checkpointing in (False, True))
    ]
    assert fits[0] == least
    assert (
        "full fine-tuning of 8 B takes two such devices, tightly, and of 70 B thirty-two. A LoRA of 8 B takes one"
        in TEXT
    )


def test_links_are_those_of_the_catalogue() -> None:
    said = TEXT.partition("Links are those")[2].partition("A node is taken")[0]
    links = {device.name: device.link_bytes_per_second / 1e9 for device in catalogue()}
    for name, link in re.findall(r"(\d+) on (MI300X|A100)", said):
        assert {value for device, value in links.items() if device.startswith(link)} == {float(name)}
    assert (links["H100 SXM 80GB"], links["H200 141GB"], links["B200 180GB"]) == (450, 450, 900)
    assert f"{LINK_UTILISATION} of it is taken to be reached" in said


@pytest.mark.parametrize(("model", "counts"), scale.CASES)
def test_what_is_to_be_typed_fits(model: str, counts: tuple[int, ...]) -> None:
    for devices in counts:
        found = scale.planned(model, devices)
        typed = scale.command(found)
        assert found.lora.fits
        assert ("compare" in typed) == bool(found.full.fits)
        assert ("torchrun" in typed) == (devices > 8)
        assert typed in TEXT

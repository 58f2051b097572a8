"""Writes the table of docs/guides/lean.md from the plan: which full fine-tuning fits on which device.

    python tools/fits.py

A test says when what is written there is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lowregret.plan.resources.budget import MemoryBudget
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.resources.lean import MOST
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA
from lowregret.spec.lean import kind_of, steps_in_backward

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "lean.md"
BEGIN, END = "<!-- Made by `python tools/fits.py` from the plan: -->", "<!-- End of what is made. -->"
MODELS = ("Llama-3.2-1B", "Llama-3.2-3B", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B", "Llama-3.1-70B")
DEVICES = ("RTX 4090 24GB", "L40S 48GB", "H100 SXM 80GB", "H200 141GB", "MI300X 192GB")
METHODS: tuple[FullFT | LoRA, ...] = (
    LoRA(rank=16),
    FullFT(),
    FullFT(optimizer="muon"),
    FullFT(optimizer="adamw8bit"),
    FullFT(optimizer="adafactor"),
    FullFT(optimizer="bf16-split"),
    FullFT(optimizer="bf16"),
    FullFT(optimizer="bf16-split", in_backward=True),
    FullFT(optimizer="bf16", in_backward=True),
)
SHORTEST = 128
"""Tokens below which nothing is said to fit."""


def made() -> str:
    """Everything between the marks."""
    head = ["base", "method", "B a parameter", *DEVICES]
    rows = [head, ["---"] * len(head), *(cells for name in MODELS for cells in _rows(name))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _rows(name: str) -> Iterator[list[str]]:
    shapes = find_model(name)
    for method in METHODS:
        each = "" if isinstance(method, LoRA) else f"{_bytes_each(method):.1f}"
        yield [name, f"`{method.name}`", each, *(_longest(shapes, method, device) for device in DEVICES)]


def _bytes_each(method: FullFT) -> float:
    return kind_of(method).bytes_per_parameter(in_backward=steps_in_backward(method))


def _longest(shapes: Shapes, method: FullFT | LoRA, device: str) -> str:
    budget = MemoryBudget(shapes, SHORTEST, SHORTEST, True, 1, find_hardware(device))
    found = budget.longest(method, min(shapes.context or MOST, MOST))
    return "–" if found < SHORTEST else f"{found:,}"


def page(text: str) -> str:
    """The page with what is made put in the place of what was."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made()}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

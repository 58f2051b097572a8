"""Everything that is to be known of this engine on a GPU, in one command of less than ten minutes.

    python -m benchmarks.gpu               on one card with 80 GB: gpu.md and gpu.json in docs/results
    python -m benchmarks.gpu --write       and what the plan assumes of this card, into its catalogue
    python -m benchmarks.gpu --rehearse    the same code on a CPU with tiny shapes: no figure of it is a result

It needs torch, transformers, peft and lowregret, and fetches nothing. Contenders that do not fit are left out by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import constants, laws, ours, peft_loop
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import SMALL, Drawn
from benchmarks.gpu.page import page

from lowregret.environment import environment
from lowregret.strict_json import to_json

OUT = Path(__file__).parents[2] / "docs" / "results" / "gpu.md"
BASES: Mapping[str, ours.Size] = {
    "Qwen/Qwen3-0.6B": ours.Size(length=512, rows=32),
    "Qwen/Qwen3-8B": ours.Size(length=512, rows=16, warmup=1, repeats=3),
}
TOKENS = {False: 8192, True: 64}
"""Of the products that the plan's utilisation is measured by; those of a rehearsal."""
REHEARSED = ours.Size(length=24, rows=8, warmup=1, repeats=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write after each part, and say where; 1 where a law is broken, 2 without a GPU."""
    asked = _parse(arguments)
    if not asked.rehearse and not torch.cuda.is_available():
        print("gpu: torch sees no GPU here. --rehearse runs the same code on a CPU.", file=sys.stderr)
        return 2
    card = Card(torch.device("cpu" if asked.rehearse else "cuda"))
    if not ours.bfloat16_works(card.device):
        print(f"gpu: {card.name} does not multiply in bfloat16.", file=sys.stderr)
        return 2
    facts = {**environment(), "device": card.name, "rehearsal": asked.rehearse}
    facts["data sheet of"] = card.hardware.name if card.known else "none: add it to plan/resources/hardware.json"
    found: dict[str, Any] = {"facts": facts, "laws": {}, "bases": {}}
    world = laws.world_of(card, small=asked.rehearse)
    for name, law in laws.LAWS.items():
        measured = law(world)
        found["laws"][name] = {**asdict(measured), "holds": measured.holds}
        _write(asked.out, found)
    for name, size in BASES.items():
        base = Drawn(name, tuple(SMALL.items()) if asked.rehearse else ())
        kept = found["bases"][name] = []
        for each in _contenders(base, card, REHEARSED if asked.rehearse else size):
            kept.append(each)
            _write(asked.out, found)
    every = [each for kept in found["bases"].values() for each in kept]
    found["constants"] = constants.measure(base, card, TOKENS[asked.rehearse], every)
    _write(asked.out, found)
    if asked.write and card.known:
        constants.write(card.hardware.name, found["constants"])
    print(asked.out)
    return 0 if all(each["holds"] for each in found["laws"].values()) else 1


def _contenders(base: Drawn, card: Card, size: ours.Size) -> Any:
    for contender in ours.CONTENDERS:
        why = ours.can_run(contender, base, card)
        if why is not None:
            yield {"label": contender.label, "skipped": why}
            continue
        yield _kept(contender.label, lambda contender=contender: ours.measure(contender, base, card, size))
    yield _kept(peft_loop.LABEL, lambda: peft_loop.measure(base, card, size))


def _kept(label: str, measure: Any) -> dict[str, Any]:
    """What was measured; of a contender that found no memory, that."""
    print(f"  {label} …", file=sys.stderr)
    try:
        found: dict[str, Any] = measure()
    except torch.OutOfMemoryError as error:
        return {"label": label, "skipped": str(error).splitlines()[0]}
    return found


def _write(out: Path, found: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(to_json(found, indent=1) + "\n", encoding="utf-8")
    out.write_text(page(found), encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument("--write", action="store_true", help="put what was measured into the plan's catalogue")
    parser.add_argument("--out", type=Path, default=OUT, help="the page; its numbers lie beside it, as .json")
    asked = parser.parse_args(arguments)
    if asked.rehearse and asked.write:
        parser.error("--write is of a GPU: a rehearsal measures nothing")
    if asked.rehearse and asked.out == OUT:
        parser.error("--rehearse measures nothing: give another --out")
    return asked


if __name__ == "__main__":
    sys.exit(main())

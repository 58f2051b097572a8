"""Writes the tables and commands of docs/scale.md from the plan: what one training takes on how many devices.

    python tools/scale.py

A test says when what is written there is stale.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowregret.plan.formatting import share
from lowregret.plan.make import build_plan
from lowregret.plan.next_steps import started
from lowregret.plan.plan import MethodPlan, Plan
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.quantities import byte_count, duration
from lowregret.spec import LoRA
from lowregret.spec.plan import PlanSpec
from lowregret.study.cluster import SimulatedStudy, simulate_study
from lowregret.study.simulate import SimulatedCluster, SimulatedGroup, Simulation, simulate

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- Made by `python tools/scale.py` from the plan: -->", "<!-- End of what is made. -->"
STUDIES_BEGIN = "<!-- Simulated by `python tools/scale.py`: -->"
STUDIES = (
    ("Qwen3-8B", ("Qwen/Qwen3-8B",), "64xH100 SXM", None),
    ("four such bases", ("Qwen/Qwen3-8B",) * 4, "64xH100 SXM", None),
    ("four such bases", ("Qwen/Qwen3-8B",) * 4, "64xH100 SXM", 6.0),
)
"""(in words, bases, the largest cluster, mean hours until a node is taken back)"""
_STUDY_HEAD = ("study", "H100", "nodes taken back", "until all is trained", "used", "dollars")
DEVICE = "H100 SXM 80GB"
LORA = LoRA(rank=64)
LENGTH, BATCH, STEPS = 2048, 32, 1000
CASES = (("Llama-3.1-8B", (1, 2, 8)), ("Llama-3.1-70B", (8, 16, 32)))
_HEAD = ("devices", "method", "placed", "weights", "gradients, moments", "activations", "in all", "rows at once",
         "sent a step", "waiting", "1,000 steps")  # fmt: skip


def planned(model: str, devices: int) -> Plan:
    """The quickest of what fits, with activations kept or computed twice; both methods first, then LoRA alone."""
    both = [_plan(model, devices, checkpointing) for checkpointing in (False, True)]
    for fits in (_all_fit, _lora_fits):
        if found := [plan for plan in both if fits(plan)]:
            return min(found, key=lambda plan: sum(side.seconds or 0.0 for side in _sides(plan) if side.fits))
    return both[-1]


def _plan(model: str, devices: int, checkpointing: bool) -> Plan:
    request = PlanSpec(
        method=LORA,
        devices=devices,
        batch_size=BATCH,
        steps=STEPS,
        max_length=LENGTH,
        checkpoint_activations=checkpointing,
    )
    return build_plan(find_model(model), request, hardware=find_hardware(DEVICE))


def _sides(plan: Plan) -> tuple[MethodPlan, MethodPlan]:
    return plan.lora, plan.full


def _all_fit(plan: Plan) -> bool:
    return all(side.fits for side in _sides(plan))


def _lora_fits(plan: Plan) -> bool:
    return bool(plan.lora.fits)


def command(plan: Plan) -> str:
    """What to type, on a line."""
    request = plan.request
    start, options = started(request, plan.hardware)
    options = [*options, *[("--checkpoint-activations",)] * request.checkpoint_activations]
    method = f"compare --methods {LORA.name},full" if _all_fit(plan) else f"train --method {LORA.name} --out runs/mine"
    started_by, flags = (" ".join(map(" ".join, words)) for words in (start, options))
    return " ".join([started_by, method, "--model", plan.shapes.name, "--data train.jsonl", flags]).rstrip()


def made() -> str:
    """Everything between the marks."""
    return "\n\n".join(_of_model(model, devices) for model, devices in CASES)


def _of_model(model: str, devices: Sequence[int]) -> str:
    plans = [planned(model, count) for count in devices]
    name = plans[0].shapes.name.partition("/")[2]
    rows = [cells for plan in plans for cells in _rows(plan)]
    table = "\n".join(["| " + " | ".join(cells) + " |" for cells in (_HEAD, ("---",) * len(_HEAD), *rows)])
    typed = "\n".join(f"# {_devices(plan.request.devices)}\n{command(plan)}" for plan in plans)
    return f"### {name}\n\n{table}\n\n```\n{typed}\n```"


def _devices(count: int) -> str:
    """In words."""
    nodes = "" if count <= 8 else f", {count // 8} nodes: on each of them"
    return f"{count} device{'s' if count > 1 else ''}{nodes}"


def _rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    for side in _sides(plan):
        placement, need = side.placement, side.memory
        placed = f"{placement.kind}, `{placement.mesh}`" if placement.mesh.in_parts else placement.kind
        again = ", activations twice" if plan.request.checkpoint_activations else ""
        stored = (
            byte_count(need.weights),
            byte_count(need.gradients + need.optimizer),
            byte_count(need.activations + need.logits),
            byte_count(need.total),
        )
        sent, waiting = byte_count(side.sent_bytes), share(side.waiting_share)
        took = (str(side.micro_batch), sent, waiting, duration(side.seconds or 0))
        if not side.fits:
            took = ("does not fit", "", "", f"would with `{side.remedy}`" if side.remedy else "")
        yield (str(plan.request.devices), side.label, placed + again, *stored, *took)


def studies() -> str:
    """The table of simulated studies, between its marks."""
    lines = [_row(_STUDY_HEAD), _row(["---"] * len(_STUDY_HEAD))]
    for what, models, cluster, preempted in STUDIES:
        planned = simulate_study("all", cluster, models=models, preempted_hours=preempted)
        kept = planned if len(models) == 1 else planned[:1]
        lines += [_row(_study_cells(what, each, preempted)) for each in kept]
    draw = random.Random(0)
    apart = sorted((SimulatedGroup(draw.uniform(600, 1800), 1) for _ in range(1000)), key=lambda each: -each.seconds)
    for preempted in (None, 6.0):
        there = find_hardware(DEVICE)
        cluster = SimulatedCluster(64, price_per_hour=there.price_per_hour, preempted_hours=preempted)
        lines.append(
            _row(_simulated("1,000 trials of 10 to 30 minutes, each alone", 64, simulate(apart, cluster), preempted))
        )
    return "\n".join(lines)


def _study_cells(what: str, found: SimulatedStudy, preempted: float | None) -> list[str]:
    name = f"`study all` on {what}: {len(found.groups)} groups, {found.trials:,} trials"
    return _simulated(name, found.devices, found.simulation, preempted)


def _simulated(name: str, devices: int, found: Simulation, preempted: float | None) -> list[str]:
    lost = "never" if preempted is None else f"after {preempted:g} h"
    money = "" if found.money is None else f"{found.money:,.0f}"
    return [name, str(devices), lost, duration(found.seconds), share(found.utilisation), money]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(text: str) -> str:
    """The page with what is made put in the place of what was."""
    for begin, content in ((BEGIN, made()), (STUDIES_BEGIN, studies())):
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{content}\n\n{END}{rest.partition(END)[2]}"
    return text


def main() -> None:
    """Renew the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

"""Learning rates: what the plan says beside the best that was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.advice.advised import Setting, method_of, rate
from benchmarks.advice.row import Row
from benchmarks.advice.settings import FITTED, HOME, Cell, rows
from benchmarks.rate_law.sweep import read_sweep

from lowregret.plan.rates.law import SWEEP_BATCH, SWEEP_STEPS
from lowregret.spec import LoRA

TABLES = {"best_rates.csv": True, "unseen_rates.csv": False}
"""Of benchmarks/tables: what other people found, and whether the law's terms were settled with it."""
SWEEP, REWARDS = "lora_lr_sweep_tulu3.csv", "rl_lr_sweep_math_qwen3_1.7b.csv"
"""Public tables that a folder of --data may have."""
REWARD_SOURCE = "rl sweep"
DESTROYED = 0.5
"""Of the best reward of a sweep: a rate that ends below is counted as destroying, and so are all above it."""


def of_cells(cells: Iterable[Cell]) -> Iterator[Row]:
    """Every bracketed search, once where several studies have it; a best rate at the end of those tried is only a
    bound."""
    seen = set()
    for cell in cells:
        if cell.bracketed and cell.search not in seen:
            seen.add(cell.search)
            advised = rate(cell.setting, cell.method)
            case = f"{cell.setting}, {cell.method.name}"
            case = f"{cell.study}: {case}" if cell.study else case
            destroys = _destroys(cell) if cell.setting.objective == "rl" else None
            yield Row(
                "learning rate", cell.source, case, advised.value, cell.optimum, advised.low, advised.high, destroys,
                cell.source in (*FITTED, REWARD_SOURCE),
            )  # fmt: skip


def _destroys(cell: Cell) -> float | None:
    """The lowest rate above the best that ends below half of the best reward."""
    worse = [r for r, loss in cell.losses.items() if r > cell.best and -loss < DESTROYED * -cell.loss]
    return min(worse, default=None)


def public() -> Iterator[Row]:
    """Every row of TABLES; one without a best rate says no more than where training was destroyed."""
    for name, fitted in TABLES.items():
        yield from _of_table(name, fitted)


def _of_table(name: str, fitted: bool) -> Iterator[Row]:
    for row in rows(HOME / "benchmarks" / "tables" / name):
        setting = Setting(
            row["model"],
            int(row["batch_size"]),
            int(row["steps"]),
            row["schedule"],  # type: ignore[arg-type]
            row["objective"],  # type: ignore[arg-type]
        )
        advised = rate(setting, method_of(row["method"]))
        destroys = float(row["destroys"]) if row["destroys"] else None
        case = f"{setting}, {row['method']}"
        source = f"{setting.model.rpartition('/')[2]}, {row['objective']} ({name})"
        best = float(row["best_rate"]) if row["best_rate"] else None
        yield Row("learning rate", source, case, advised.value, best, advised.low, advised.high, destroys, fitted)


def of_folder(folder: Path) -> Iterator[Row]:
    """The public sweeps that a folder has: DataError when one of them is damaged."""
    if (folder / SWEEP).exists():
        for cell in read_sweep(folder / SWEEP):
            setting = Setting(cell.model, SWEEP_BATCH, SWEEP_STEPS, "linear")
            advised = rate(setting, LoRA(rank=cell.rank))
            found = math.exp(cell.parabola.optimum)
            case = f"{setting}, lora:{cell.rank}"
            yield Row(
                "learning rate", "tulu3 sweep", case, advised.value, found, advised.low, advised.high, fitted=True
            )
    if (folder / REWARDS).exists():
        yield from _rewards(folder / REWARDS)


def _rewards(path: Path) -> Iterator[Row]:
    by_method: dict[tuple[str, str, int, int, int], dict[float, float]] = {}
    for row in rows(path):
        key = (
            row["model"],
            row["method"],
            int(row["steps"]),
            int(row["prompts_a_step"]),
            int(row["group_size"]),
        )
        losses = by_method.setdefault(key, {})
        at = float(row["learning_rate"])
        losses[at] = max(losses.get(at, -1.0), -float(row["final_accuracy"]))  # the worse of two runs
    for (model, method, steps, problems, group), losses in by_method.items():
        setting = Setting(model, problems, steps, objective="rl", group_size=group)
        yield from of_cells([Cell(REWARD_SOURCE, "", setting, method_of(method), losses, min(losses.values()), True)])

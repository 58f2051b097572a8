"""Method, rank and regret: what the plan says beside what whole comparisons found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator

from benchmarks.advice.advised import Setting, expected_regret, plan
from benchmarks.advice.row import Row
from benchmarks.advice.settings import Cell

from lowregret.spec import CompareSpec, FullFT, LoRA

TOLERANCE = float(CompareSpec.model_fields["tolerance"].default)
"""Of what full fine-tuning learns: what a comparison allows."""
FITTED_REGRETS = (
    *(
        (name, study)
        for name in ("studies_full", "tiny_studies")
        for study in ("rank", "batch-size", "learning-rate", "short-runs")
    ),
    ("smollm2_studies", "biographies"),
)
"""Studies that the curve of regrets, or its lag, was fitted on; `tiny_studies` trained the same again, with the
unembedding."""
LEAST_RANKS = 3
"""Ranks of one kind that must have been tried to say which is the least that is enough."""


def of_cells(cells: Iterable[Cell]) -> Iterator[Row]:
    """The settings in which full fine-tuning was searched too, and whose base's own loss is known. A regret that
    several studies have, by the same trainings, counts once; their choices are among different methods.

    By reward there is no base's loss and no regret in nats, so they are left out. A search that is not bracketed has a
    loss that may be too high, of either method: left out too.
    """
    by_setting: dict[tuple[str, str, Setting], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.setting.objective == "sft" and cell.base is not None and cell.bracketed:
            by_setting[cell.source, cell.study, cell.setting].append(cell)
    seen: set[Hashable] = set()
    for (source, study, setting), own in by_setting.items():
        full = next((cell for cell in own if isinstance(cell.method, FullFT)), None)
        loras = [cell for cell in own if isinstance(cell.method, LoRA)]
        if full is None or not loras or full.base is None or full.loss >= full.base:
            continue
        learned = full.base - full.loss
        shares = {cell.method: (cell.loss - full.loss) / learned for cell in loras}
        case = f"{study}: {setting}" if study else str(setting)
        new = {cell.method for cell in loras if (cell.search, full.search) not in seen}
        seen.update((cell.search, full.search) for cell in loras)
        yield from _regrets(source, case, setting, {method: shares[method] for method in shares if method in new})
        yield from _choices(source, case, setting, shares)


def _regrets(source: str, case: str, setting: Setting, shares: dict[LoRA, float]) -> Iterator[Row]:
    for method, share in shares.items():
        expected = None if setting.data is None else expected_regret(setting, method)
        value, low, high = (None, None, None) if expected is None else expected
        fitted = _fitted(source, case)
        yield Row("regret", source, f"{case}, {method.name}", value, share, low, high, fitted=fitted)


def _fitted(source: str, case: str) -> bool:
    return any(source == other and case.startswith(f"{study}: ") for other, study in FITTED_REGRETS)


def _choices(source: str, case: str, setting: Setting, shares: dict[LoRA, float]) -> Iterator[Row]:
    """Where the data are at hand: without them a plan says what it says of any."""
    if setting.data is None:
        return
    advised = plan(setting).advice.choice.method
    enough = [method for method, share in shares.items() if share <= TOLERANCE]
    chosen = "full" if isinstance(advised, FullFT) else "LoRA"
    yield Row("method", source, case, chosen, "LoRA" if enough else "full", fitted=_fitted(source, case))
    plain = {method for method in shares if method == LoRA(rank=method.rank, targets=method.targets)}
    kinds = {method.targets: [m for m in plain if m.targets == method.targets] for method in plain}
    most = max(kinds.values(), key=len, default=[])
    least = min((method.rank for method in most if method in enough), default=None)
    if len(most) >= LEAST_RANKS and isinstance(advised, LoRA) and least is not None:
        yield Row("rank", source, case, float(advised.rank), float(least))

"""What is to be shipped: a run's winner, or an adapter or a model by its folder. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError, RecordsError, SpecError
from lowregret.foreign import real_path
from lowregret.runs.atomic import read_record
from lowregret.runs.files import (
    ADAPTER_CONFIG,
    BEST,
    BEST_FULL,
    BEST_LORA,
    SPEC,
    TRIAL,
    TRIALS,
    VERDICT,
    adapter_in,
    model_in,
)
from lowregret.runs.lock import stored_spec
from lowregret.runs.records import TrialRecord
from lowregret.runs.shipped import require_as_shipped
from lowregret.runs.verdict import Verdict
from lowregret.spec.method import Quantisation

METHODS = ("lora", "full")


@dataclass(frozen=True)
class Winner:
    """A trained model: adapters on a base, or whole weights."""

    model: str | None
    """What is loaded: the base of the adapters (None for the one that they name), or the folder of whole weights."""
    adapters: tuple[tuple[Path, float], ...]
    """Each with what its update is multiplied by; none of whole weights."""
    base: str | None
    """What it was trained on, as `--model` named it; None where nothing tells."""
    run: Path | None = None
    """The folder with the spec of the run that trained it."""

    @property
    def folder(self) -> Path:
        """What was trained: the first adapter's, or that of the whole weights."""
        return self.adapters[0][0] if self.adapters else Path(str(self.model))

    @property
    def home(self) -> Path:
        """Where shipments lie by default: the run's folder; of a trial that is no winner, and of what is not ours, its
        own."""
        place = self.folder
        if self.run is None:
            return place
        return place.parent if real_path(place).parent.parent.name == TRIALS else self.run

    @property
    def kind(self) -> str:
        """`lora` or `full`, as `--method` says it."""
        return METHODS[0] if self.adapters else METHODS[1]

    @property
    def quantisation(self) -> Quantisation:
        """Of the base that the one adapter was trained on, where a record tells, and all of it is shipped."""
        if [share for _, share in self.adapters] != [1.0]:
            return "none"
        file = next((place / TRIAL for place in (self.folder, self.folder.parent) if (place / TRIAL).is_file()), None)
        return "none" if file is None else read_record(TrialRecord, file).spec.method.quantisation

    @property
    def verdict(self) -> Verdict | None:
        """Of the run, where it was a comparison."""
        file = None if self.run is None else self.run / VERDICT
        return read_record(Verdict, file) if file is not None and file.is_file() else None


def of_adapters(model: str | None, adapters: Sequence[tuple[Path, float]]) -> Winner:
    """Adapters by their folders, on a base; without any the base as it is."""
    run = _run_above(adapters[0][0]) if len(adapters) == 1 else None
    return Winner(model, tuple(adapters), model, run)


def find(what: Path, model: str | None, method: str | None) -> Winner:
    """The winner of a run, or what lies in a folder.

    Args:
        what: a folder of `compare` (what its verdict recommends, unless `method` says otherwise), of `train`, of one
            trial, or one with an adapter or a model: `best/lora`, `best/full`.
        model: the base of an adapter, where it is not the one that it was trained on.
        method: `lora` or `full`.

    Raises:
        RecordsError: there is no result in the folder, or not as it was shipped.
        SpecError: the verdict recommends nothing and `method` does not say which; or there is none of that kind.
    """
    if not what.is_dir():
        raise RecordsError(f"{what}: is no folder. Name a run's, or one with an adapter or a model.")
    place = _chosen(what, method)
    if place is None:
        raise RecordsError(
            f"{what}: holds no run with a result, no adapter ({ADAPTER_CONFIG}) and no model (config.json). Let the "
            "run finish: start its command again."
        )
    require_as_shipped(place)
    run = _run_above(place)
    trained_on = None if run is None else _asked(run).get("model")
    if (place / ADAPTER_CONFIG).is_file():
        base = model or (trained_on if isinstance(trained_on, str) else None)
        return Winner(base, ((place, 1.0),), base, run)
    if model is not None:
        raise SpecError(f"--model: {place} is a whole model, which needs no base. Leave it out.")
    return Winner(str(place), (), trained_on, run)


def _chosen(what: Path, method: str | None) -> Path | None:
    adapter, whole = adapter_in(what), model_in(what)
    if method is None and (what / VERDICT).is_file():
        advice = read_record(Verdict, what / VERDICT).recommendation
        if advice is None:
            raise SpecError(f"--method: the verdict of {what} recommends nothing yet. Say lora or full.")
        method = "lora" if advice.rank is not None else "full"
    if method is None:
        return adapter or whole
    found = {"lora": adapter, "full": whole}[method]
    if found is None and (adapter or whole):
        has = "full" if adapter is None else "lora"
        raise SpecError(f"--method {method}: {what} has none. Say --method {has}.")
    return found


def _run_above(place: Path) -> Path | None:
    """The folder with the spec by which something was trained; None for what is not ours."""
    whole = real_path(place)
    parents = [whole.parent, whole.parent.parent]
    if whole.parent.parent.name == TRIALS:
        parents.append(whole.parent.parent.parent)
    if whole.parent.name == BEST and whole.name not in (BEST_LORA, BEST_FULL):
        return None
    return next((home for home in parents if (home / SPEC).is_file()), None)


def _asked(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = stored_spec(run / SPEC)["spec"]
    return found


def require_base(winner: Winner) -> str:
    """The base's name; ModelError where neither the run nor an adapter tells."""
    if winner.base is not None:
        return winner.base
    if winner.adapters:
        from lowregret.export.merged.opened import named_base

        return named_base([folder for folder, _ in winner.adapters])
    if winner.model is None:
        raise ModelError("no base is named. Name it with --model.")
    return winner.model

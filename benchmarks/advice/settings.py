"""Measured trials, by what they ran on: committed tables of our studies, and folders of later ones."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.advice.advised import Setting, method_of
from benchmarks.rate_law.sweep import fit_parabola

from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.errors import DataError, ModelError, RecordsError
from lowregret.plan.shapes.lookup import find_model
from lowregret.runs.files import GROUPS, SPEC, TRIAL, TRIALS
from lowregret.runs.lock import stored_spec
from lowregret.runs.study import read_trials, start_loss
from lowregret.spec import FullFT, LoRA

HOME = Path(__file__).resolve().parents[2]
RESULTS = HOME / "docs" / "results"
STUDIES = HOME / "benchmarks" / "tables" / "studies.csv"
"""What the committed trials ran on, which their tables do not say; `base_nll` is `lowregret eval` of the base on the
held-out rows of `data`, or stands on the page that is named."""
SCHEDULES = RESULTS / "rates" / "schedules_tiny.csv"
FILES: Mapping[str, tuple[str, ...]] = {
    "studies_full": ("studies_full/trials.csv",),
    "tiny_studies": ("tiny_studies/trials.csv",),
    "studies_quick": tuple(f"studies_quick/{kind}trials.csv" for kind in ("", "rl_", "scaling_")),
    "gsm8k_smollm2": ("gsm8k_smollm2/trials.csv",),
    "smollm2_rates": ("smollm2_rates.csv",),
    "smollm2_layers": ("smollm2_layers.csv",),
    "smollm2_studies": ("smollm2_studies/trials.csv",),
}
FITTED = ("studies_full", "tiny_studies", "schedules_tiny", "gsm8k_smollm2", "smollm2_studies")
"""Those whose trials a law of the plan was fitted on, or settled with, and their repetition."""


@dataclass(frozen=True)
class Cell:
    """One method in one setting, over all its rates."""

    source: str
    study: str
    """What was asked, where the source has several studies; those of one are compared with each other."""
    setting: Setting
    method: FullFT | LoRA
    losses: Mapping[float, float]
    """By learning rate: held-out loss of the search, or minus the reward."""
    loss: float
    """At the best rate: the mean over the seeds."""
    bracketed: bool
    """Whether a lower and a higher rate than the best did worse."""
    base: float | None = None
    """The base's own loss, where it is known."""

    @property
    def search(self) -> Hashable:
        """The same for every study that has these trainings: what one trained, others of its source take over."""
        tried = tuple(sorted((rate, round(loss, 6)) for rate, loss in self.losses.items()))
        return self.source, self.setting, self.method.name, tried

    @property
    def best(self) -> float:
        """The best rate of those tried; of equal ones the lowest."""
        return _best(self.losses)

    @property
    def optimum(self) -> float:
        """The bottom of the parabola through the best rate and its neighbours, or the best rate where there is none.
        Rewards have none: they are level over a range of rates."""
        parabola = fit_parabola({math.log(rate): loss for rate, loss in self.losses.items()})
        if parabola is None or self.setting.objective == "rl":
            return self.best
        rates = sorted(self.losses)
        place = rates.index(self.best)
        low, high = rates[max(place - 1, 0)], rates[min(place + 1, len(rates) - 1)]
        return min(max(math.exp(parabola.optimum), low), high)


def _best(losses: Mapping[float, float]) -> float:
    return min(sorted(losses), key=lambda rate: losses[rate])


Trial = Mapping[str, Any]
"""method, learning_rate, seed, status, loss."""


def cells(
    source: str, study: str, setting: Setting, trials: Iterable[Trial], base: float | None = None
) -> Iterator[Cell]:
    """The cells of one setting that have a search: three rates or more.

    The best rate is that of the search's seed. Trials that were stopped early or diverged have no loss to compare, but
    say that the best lies elsewhere.
    """
    tried: dict[str, dict[float, dict[int, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for trial in trials:
        ended = trial["status"] == "finished" and trial["loss"] is not None
        seeds = tried[trial["method"]][float(trial["learning_rate"])]
        seeds[int(trial["seed"])] = float(trial["loss"]) if ended else None
    for method, rates in tried.items():
        searched = {rate: loss for rate, seeds in rates.items() if (loss := seeds.get(SEARCH_SEED)) is not None}
        if len(rates) < 3 or not searched:
            continue
        best = _best(searched)
        loss = statistics.mean(loss for loss in rates[best].values() if loss is not None)
        bracketed = min(rates) < best < max(rates)
        yield Cell(source, study, setting, method_of(method), searched, loss, bracketed, base)


def committed() -> Iterator[Cell]:
    """The cells of docs/results."""
    files = {name: [row for file in found for row in rows(RESULTS / file)] for name, found in FILES.items()}
    for about in rows(STUDIES):
        own = [
            _trial(row, about["group_size"] != "")
            for row in files[about["file"]]
            if (about["study"], about["condition"]) == (row.get("study", ""), row.get("condition", ""))
        ]
        steps = max(trial["steps"] for trial in own)
        setting = Setting(
            about["model"],
            int(about["batch_size"]),
            steps,
            objective="rl" if about["group_size"] else "sft",
            group_size=int(about["group_size"]) if about["group_size"] else None,
            max_tokens=int(about["max_tokens"]) if about["max_tokens"] else None,
            data=about["data"] or None,
        )
        base = float(about["base_nll"]) if about["base_nll"] else None
        yield from cells(about["file"], about["study"], setting, own, base)
    yield from _schedules()


def _schedules() -> Iterator[Cell]:
    by_setting: dict[Setting, list[Trial]] = defaultdict(list)
    for row in rows(SCHEDULES):
        setting = Setting("tiny", int(row["batch_size"]), int(row["steps"]), row["schedule"])  # type: ignore[arg-type]
        by_setting[setting].append(_trial(row, rewarded=False))
    for setting, trials in by_setting.items():
        yield from cells("schedules_tiny", "", setting, trials)


def _trial(row: Mapping[str, str], rewarded: bool) -> dict[str, Any]:
    """A row of a table of trials. Methods without targets meant the layers' matrices once, `linear`; a table of today
    has a column that says what they mean."""
    method, given = row["method"], row["test_reward" if rewarded else "test_nll"]
    parts = method.split(":")
    named = any(
        part.startswith(("attention", "mlp", "experts", "re", "unembedding", "linear", "all")) for part in parts
    )
    if method.startswith("lora") and not named:
        method = f"{method}:{row.get('targets') or 'linear'}"
    loss = None if not given else -float(given) if rewarded else float(given)
    steps = int(row["steps"])
    return {**row, "method": method, "loss": loss, "steps": steps}


def from_runs(folder: Path) -> Iterator[Cell]:
    """The cells of every study at or under a folder of `lowregret compare` or `lowregret study`, finished or not.

    RecordsError: no folder, or none with trials under it.
    """
    homes = sorted(
        {file.parents[2] for file in folder.rglob(f"{TRIALS}/*/{TRIAL}") if (file.parents[2] / SPEC).exists()}
    )
    if not homes:
        raise RecordsError(f"{folder}: no trials at or under it. Name a folder of `lowregret compare` or `study`.")
    found: dict[tuple[Path, Setting], list[Trial]] = defaultdict(list)
    bases: dict[tuple[Path, Setting], float | None] = {}
    for home in homes:
        study = home.parent.parent if home.parent.name == GROUPS else home
        spec = stored_spec(home / SPEC)["spec"]
        for record in read_trials(home):
            key = (study, _setting(spec, record.steps))
            bases[key] = bases.get(key) or start_loss(home)
            found[key].append(
                {
                    "method": record.spec.method.name,
                    "learning_rate": record.learning_rate,
                    "seed": record.seed,
                    "status": record.status,
                    "loss": record.test_nll if record.test_reward is None else -record.test_reward,
                }
            )
    for (study, setting), trials in found.items():
        yield from cells("--runs", str(study.relative_to(folder)), setting, trials, bases[study, setting])


def _setting(spec: Mapping[str, Any], taken: int) -> Setting:
    """What a folder's trials ran on, by its spec.json; data that are not here any more are not asked for."""
    rewarded, train = spec["objective"]["kind"] == "rl", spec["data"]["train"]
    here = not rewarded and (train.startswith("builtin:") or Path(train).is_file())
    model = spec["model"]
    try:
        find_model(model)
    except ModelError:  # a folder that is elsewhere now
        model = Path(model).name
    return Setting(
        model,
        spec["batch_size"],
        spec["steps"] or taken,
        spec["optimizer"]["schedule"],
        "rl" if rewarded else "sft",
        spec["objective"]["group_size"] if rewarded else None,
        spec["objective"]["max_tokens"] if rewarded else None,
        train if here else None,
    )


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV. DataError: it is not there, or no CSV."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV: {error}. Give a folder that has it.", source=path) from error

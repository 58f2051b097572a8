"""The excess description length of a finished run, from its folder (SCIENCE 5)."""

from __future__ import annotations

import math
from pathlib import Path

from lowregret.analysis.edl import ExcessDescriptionLength, HeldOutPoint, excess_description_length
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record
from lowregret.runs.files import FORECAST, METRICS, SPEC, TRIAL, TRIALS, VERDICT
from lowregret.runs.forecast import stored_forecast
from lowregret.runs.lock import stored_spec
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import trial_folders, trial_record
from lowregret.runs.verdict import Verdict
from lowregret.spec import LoRA


def read_edl(folder: Path) -> tuple[ExcessDescriptionLength, str]:
    """EDL of a run of `lowregret train`, or of the best trial at the highest rank of a study; and what it is called.

    Raises RecordsError when the folder is neither, or nothing in it has finished with a held-out loss.
    """
    home = _trial_folder(folder)
    record = read_record(TrialRecord, home / TRIAL)
    if record.status != "finished" or record.test_nll is None:
        raise RecordsError(f"{home}: the trial is {record.status}, and a pilot must be finished. Run it to its end.")
    steps, data = _epoch(home)
    metrics = read_metrics(home / METRICS)
    first = [metric.train_nll for metric in metrics if metric.step <= steps and metric.train_nll is not None]
    if not first:
        raise RecordsError(f"{home / METRICS}: holds no training loss. Name a folder of `lowregret train`.")
    evaluations = [
        HeldOutPoint(metric.step / len(first), metric.test_nll)
        for metric in metrics
        if metric.test_nll is not None and metric.step <= len(first)
    ]
    found = excess_description_length(first, evaluations, record.test_nll)
    return found, f"EDL of {record.method} in {folder}, on {data}{_regret_there(folder)}"


def _regret_there(folder: Path) -> str:
    """What a comparison's folder has measured of its regret, and forecast: the end of a phrase."""
    if not (folder / VERDICT).exists():
        return ""
    verdict = read_record(Verdict, folder / VERDICT)
    if verdict.lora is None or verdict.regret_learned is None:
        return ""
    measured = f"; {verdict.lora.name} had a regret of {verdict.regret_learned:+.1%} of what is learned there"
    try:
        expected = stored_forecast(folder)
    except RecordsError:
        return f"{measured} (its {FORECAST} is damaged)"
    forecast = None if expected is None else expected.of(verdict.lora.name)
    told = "" if forecast is None or forecast.says_nothing else f", where {forecast.share:+.1%} was forecast"
    return f"{measured}{told}"


def _trial_folder(folder: Path) -> Path:
    """Where trial.json and metrics.jsonl lie: the run itself, or a trial of the study."""
    if not folder.is_dir():
        raise RecordsError(f"{folder}: no such folder. Name one that `lowregret train` or `compare` has left.")
    if (folder / TRIAL).is_file():
        return folder
    homes = trial_folders(folder)
    records = [(trial_record(home), home) for home in homes]
    finished = [(record, home) for record, home in records if record.status == "finished" and record.test_nll]
    if not finished:
        raise RecordsError(
            f"{folder}: holds no finished trial. Name a folder that `lowregret train` or `compare` has left."
        )
    return min(finished, key=lambda pair: (-_size(pair[0]), pair[0].test_nll or math.inf))[1]


def _size(record: TrialRecord) -> int:
    """High ranks first, and FullFT last: its parameters are those of the whole base."""
    return record.spec.method.rank if isinstance(record.spec.method, LoRA) else 0


def trained_on(folder: Path) -> tuple[str, str]:
    """The base and the training rows of a pilot, as its spec names them; RecordsError when it names none."""
    path = _spec_file(_trial_folder(folder))
    spec = stored_spec(path)["spec"]
    try:
        return str(spec["model"]), str(spec["data"]["train"])
    except (KeyError, TypeError):
        raise RecordsError(f"{path}: names no model and data. Is this a run of lowregret?") from None


def _spec_file(home: Path) -> Path:
    """Of the run, or of the study that the trial belongs to."""
    path = home / SPEC
    if not path.exists() and home.parent.name == TRIALS:
        return home.parents[1] / SPEC
    return path


def _epoch(home: Path) -> tuple[int, str]:
    """Steps of an epoch and the data."""
    path = _spec_file(home)
    stored = stored_spec(path)
    try:
        batch_size = int(stored["spec"]["batch_size"])
        steps = math.ceil(int(stored["resolved"]["train_examples"]) / batch_size)
        return steps, str(stored["spec"]["data"]["train"])
    except (KeyError, TypeError, ValueError):
        raise RecordsError(
            f"{path}: names no data, batch_size and train_examples. Is this a run of lowregret?"
        ) from None

"""The command line's verbs as Python functions."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lowregret.analysis.forecast.banks import bank_if_readable, load_bank
from lowregret.engine import Engine
from lowregret.errors import SpecError
from lowregret.models import load
from lowregret.models.load import Base
from lowregret.plan.api import make_plan
from lowregret.progress.watching import watching
from lowregret.questions.judge import Claims
from lowregret.questions.registry import make_question
from lowregret.report.pages.html import write_report
from lowregret.report.pages.studies import write_page
from lowregret.runs.forecast import Forecast
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, TrainSpec, build
from lowregret.study import forecasting, runner
from lowregret.study.execute.choose import Place
from lowregret.study.observer import Observer, StudyObserver
from lowregret.study.suite import run_studies
from lowregret.train import job

__all__ = ["Engine", "compare", "fine_tune", "forecast_regret", "load_base", "make_plan", "run_study"]


def load_base(model: str | PathLike[str]) -> Base:
    """A base from a Hugging Face folder, a hub id, a .gguf file or a bundled name; ModelError when there is none."""
    return load.load_base(load.resolve(fspath(model)))


def compare(
    model: str | PathLike[str],
    data: str | PathLike[str] | Mapping[str, Any],
    *,
    out: str | Path,
    observer: Observer | None = None,
    quiet: bool = False,
    **options: Any,
) -> Verdict:
    """LoRA or full fine-tuning, for this base and this data? Leaves the evidence and report.html in `out`.

    Args:
        model: a Hugging Face folder, a hub id, a .gguf file or a bundled base.
        data: a source of training rows, or a table of DataSpec's fields (`train`, `eval`, `max_train`, …).
        out: the study's folder; the same call goes on where it was.
        observer: told of every trial and step, in place of what a notebook or a terminal shows.
        quiet: show nothing.
        options: the other fields of CompareSpec: `methods`, `learning_rates`, `seeds`, `tolerance`, `batch_size`, …

    Raises:
        LowregretError: wrong input, or a folder that cannot be used; the message says what to do.
    """
    spec = build(CompareSpec, {"model": fspath(model), "data": _data(data), **_plain(options)})
    with watching(observer, quiet=quiet) as watched:
        bank = bank_if_readable(watched.say) if spec.until_decided else None
        verdict = runner.compare(spec, out, observer=watched, bank=bank)
        write_report(Path(out))
    return verdict


def fine_tune(
    model: str | PathLike[str],
    data: str | PathLike[str] | Mapping[str, Any],
    *,
    method: str,
    out: str | Path,
    observer: Observer | None = None,
    quiet: bool = False,
    **options: Any,
) -> TrialRecord:
    """Train one policy and leave its record, its curve and its adapter or model in `out`.

    Args:
        model, data, out, observer, quiet: as for `compare`.
        method: `full` or `lora:RANK`.
        options: the other fields of TrainSpec: `learning_rate`, `batch_size`, `epochs` or `steps`, `seed`, …

    Raises:
        LowregretError: as for `compare`, and DivergedError when the loss left the region of sense.
    """
    spec = build(TrainSpec, {"model": fspath(model), "data": _data(data), "method": method, **_plain(options)})
    with watching(observer, quiet=quiet) as watched:
        return job.fine_tune(spec, out, say=watched.say, on_step=watched.step, priced=watched.priced)


def forecast_regret(
    model: str | PathLike[str],
    data: str | PathLike[str] | Mapping[str, Any],
    *,
    out: str | Path,
    share: float | None = 0.2,
    bank: str | Path | None = None,
    observer: Observer | None = None,
    quiet: bool = False,
    **options: Any,
) -> Forecast:
    """The regret of a comparison before it is paid for, from pilots; `compare` with the same `out` goes on from there.

    Args:
        model, data, out, observer, quiet, options: as for `compare`.
        share: of each trial's steps that its pilot takes, above 0 and up to a half. None trains no pilots: the forecast
            is by the parameters and the placement of each adapter.
        bank: your bank of finished comparisons; the user's own when None.

    Raises:
        LowregretError: as for `compare`, for a share that is none, and where no evaluation is that early.
    """
    spec = build(CompareSpec, {"model": fspath(model), "data": _data(data), **_plain(options)})
    known = load_bank(None if bank is None else Path(bank))
    with watching(observer, quiet=quiet) as watched:
        return forecasting.forecast(spec, out, share=share, bank=known, observer=watched)


def run_study(
    question: str,
    *,
    out: str | Path,
    quick: bool = False,
    workers: int | None = None,
    observer: StudyObserver | None = None,
    quiet: bool = False,
    **options: Any,
) -> Claims:
    """Answer one question of the post by its trials, and judge its claims. Leaves the evidence and a page in `out`.

    Args:
        question: `rank`, `learning-rate`, `capacity`, …
        out: the study's folder; the same call goes on where it was.
        quick: a reduced size.
        workers: processes that train side by side; as suits the bases when None.
        observer, quiet: as for `compare`.
        options: the question's own fields: `model`, `data`, `ranks`, `seeds`, `steps`, …

    Raises:
        LowregretError: as for `compare`.
    """
    asked = make_question({"kind": question}, quick=quick, flags=_plain(options))
    folder = Path(out)
    with watching(observer, quiet=quiet) as watched:
        found = run_studies({folder: asked}, place=Place(workers), observer=watched)
        write_page([folder], folder)
    return found[folder]


def _data(data: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return _plain(data)
    if isinstance(data, str | PathLike):
        return {"train": fspath(data)}
    raise SpecError(
        f"data: {type(data).__name__} where a source of rows is needed. Name a file, a folder (such as `save_to_disk` "
        "writes), a hub dataset or builtin:NAME, or give a table of such fields."
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """With paths as the text that they are."""
    return {name: fspath(value) if isinstance(value, PathLike) else value for name, value in values.items()}

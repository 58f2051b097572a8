"""The command line's verbs as Python functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowregret.engine import Engine
from lowregret.models import load
from lowregret.models.load import Base
from lowregret.plan.api import make_plan
from lowregret.report.pages.html import write_report
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, TrainSpec, build
from lowregret.study import runner
from lowregret.study.observer import Observer
from lowregret.train import job

__all__ = ["Engine", "compare", "fine_tune", "load_base", "make_plan"]


def load_base(model: str) -> Base:
    """A base from a Hugging Face folder, a hub id, a .gguf file or a bundled name; ModelError when there is none."""
    return load.load_base(load.resolve(model))


def compare(
    model: str,
    data: str | Mapping[str, Any],
    *,
    out: str | Path,
    observer: Observer | None = None,
    **options: Any,
) -> Verdict:
    """LoRA or full fine-tuning, for this base and this data? Leaves the evidence and report.html in `out`.

    Args:
        model: a Hugging Face folder, a hub id, a .gguf file or a bundled base.
        data: a source of training rows, or a table of DataSpec's fields (`train`, `eval`, `max_train`, …).
        out: the study's folder; the same call goes on where it was.
        observer: told of every trial and step.
        options: the other fields of CompareSpec: `methods`, `learning_rates`, `seeds`, `tolerance`, `batch_size`, …

    Raises:
        LowregretError: wrong input, or a folder that cannot be used; the message says what to do.
    """
    spec = build(CompareSpec, {"model": model, "data": _data(data), **options})
    verdict = runner.compare(spec, out, observer=observer)
    write_report(Path(out))
    return verdict


def fine_tune(
    model: str, data: str | Mapping[str, Any], *, method: str, out: str | Path, **options: Any
) -> TrialRecord:
    """Train one policy and leave its record, its curve and its adapter or model in `out`.

    Args:
        model, data, out: as for `compare`.
        method: `full` or `lora:RANK`.
        options: the other fields of TrainSpec: `learning_rate`, `batch_size`, `epochs` or `steps`, `seed`, …

    Raises:
        LowregretError: as for `compare`, and DivergedError when the loss left the region of sense.
    """
    return job.fine_tune(build(TrainSpec, {"model": model, "data": _data(data), "method": method, **options}), out)


def _data(data: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"train": data} if isinstance(data, str) else dict(data)

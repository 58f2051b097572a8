"""`lowregret plan` as a function: a model's name and a data source in, a plan out. Torch-free.

It only brings together what others do: `data.scan` looks at the data, `analysis.finished_run` reads a pilot,
`make` counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowregret.data.scan import scan
from lowregret.data.vocabulary import fits_tokenizer_file
from lowregret.errors import DataError, ModelError, SpecError
from lowregret.folders import expanded
from lowregret.models.files import folder_of
from lowregret.plan.advice.capacity import FinishedRun
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import build
from lowregret.spec.plan import OF_DATA, PlanSpec, needs_data


def make_plan(model: str, data: str | None = None, *, bits_per_token: float | None = None, **options: Any) -> Plan:
    """What a senior engineer would say before anything is spent: method, rank, learning rate, memory, time, money.

    Args:
        model: a folder, a .gguf file, a bundled base, a hub id in the cache or a model of the catalogue.
        data: training rows, of any source that `train` takes; without them a length is assumed.
        bits_per_token: the base's own loss on the data, when it was measured.
        options: the fields of PlanSpec: `method`, `objective`, `hardware`, `batch_size`, `epochs` or `steps`,
            `pilot`, …; None leaves one open.

    Raises:
        LowregretError: a name that means nothing, a value out of its bounds, a row with a token for which the base has
            no row, or data without a usable row: then the message lists their faults. Other faults of single rows are
            no error: they are listed in the plan.
    """
    request = build(PlanSpec, {name: value for name, value in options.items() if value is not None})
    for name in OF_DATA if data is None else ():
        if options.get(name) is not None:
            raise needs_data(name)
    shapes = find_model(model)
    machine = None if request.hardware is None else find_hardware(request.hardware)
    facts = None
    if data is not None:
        fits_tokenizer_file((data, request.eval_data), folder_of(model), shapes.vocabulary)
        facts = scan(
            data,
            eval_source=request.eval_data,
            tokenizer=folder_of(model),
            vocabulary=shapes.vocabulary,
            context=shapes.context,
            max_length=request.max_length,
            prompt_field=request.prompt_field,
            completion_field=request.completion_field,
        )
        if not facts.examples:
            faults = "".join(f"\n  {problem}" for problem in facts.problems)
            raise DataError(f"no usable row, so there is nothing to plan for:{faults}", source=data)
    return build_plan(
        shapes,
        request,
        facts=facts,
        bits_per_token=bits_per_token,
        pilot=None if request.pilot is None or data is None else _measured(Path(request.pilot), shapes, data),
        hardware=machine,
    )


def _measured(folder: Path, shapes: Shapes, data: str) -> FinishedRun:
    """A pilot of this base. SpecError: it is of another; of other data it is taken, with a doubt."""
    from lowregret.analysis.finished_run import read_edl, trained_on  # only a plan with a pilot waits for it

    found, source = read_edl(folder)
    base, rows = trained_on(folder)
    try:
        theirs = find_model(base)
    except ModelError:  # moved since, or renamed: then nothing tells
        theirs = shapes
    if (theirs.total, theirs.hidden_size, theirs.layers) != (shapes.total, shapes.hidden_size, shapes.layers):
        raise SpecError(
            f"--pilot {folder}: trained {base}, with {theirs.total:,} parameters, and the plan is of {shapes.name}, "
            f"with {shapes.total:,}. What training teaches depends on the base: name a pilot of {shapes.name}."
        )
    other = "" if _same(rows, data) else f"the pilot was trained on {rows}: what it says of {data} is a guess"
    return FinishedRun(found, source, other)


def _same(one: str, other: str) -> bool:
    """Whether two sources may be the same data: one file by two paths, or builtin data of another size."""
    if one.startswith("builtin:") or other.startswith("builtin:"):
        return one.split(":")[:2] == other.split(":")[:2]
    return one == other or expanded(one).resolve() == expanded(other).resolve()

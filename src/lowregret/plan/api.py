"""`lowregret plan` as a function: a model's name and a data source in, a plan out. Torch-free.

It only brings together what others do: `data.scan` looks at the data, `analysis.pilot` reads a pilot, `make` counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

from lowregret.analysis.edl import ExcessDescriptionLength
from lowregret.data.scan import scan
from lowregret.errors import SpecError, did_you_mean
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.request import ObjectiveKind, PlanRequest
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.shapes.lookup import find_model, folder_of
from lowregret.spec import FullFT, LoRA, build
from lowregret.spec.method import parse_method


def make_plan(
    model: str,
    data: str | None = None,
    *,
    method: str | FullFT | LoRA | None = None,
    objective: str = "sft",
    hardware: str | None = None,
    price: float | None = None,
    eval_data: str | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    max_length: int | None = None,
    pilot: str | Path | None = None,
    bits_per_token: float | None = None,
    **fixed: Any,
) -> Plan:
    """What a senior engineer would say before anything is spent: method, rank, learning rate, memory, time, money.

    Args:
        model: a folder, a .gguf file, a bundled base, a hub id in the cache or a model of the catalogue.
        data: training rows, of any source that `train` takes; without them a length is assumed.
        method: `full`, `lora:RANK` or `lora:RANK:TARGETS`; advised when not given.
        objective: `sft` or `rl`.
        hardware: a name of the catalogue, or `auto` for this machine.
        price: per hour and device; that of the catalogue when not given.
        eval_data, prompt_field, completion_field, max_length: as for `train`.
        pilot: the folder of a finished run on data of this kind: its EDL replaces the prior.
        bits_per_token: the base's own loss on the data, when it was measured.
        fixed: the other fields of `plan.request.PlanRequest`: `batch_size`, `epochs` or `steps`, `learning_rate`,
            `micro_batch_size`, `checkpoint_activations`, `shards`, `group_size`, `pass_rate`.

    Raises:
        LowregretError: a name that means nothing, or a value out of its bounds. Faults of the data are no error: they
            are listed in the plan.
    """
    request = _request(objective, method, max_length, fixed)
    if price is not None and not 0 <= price < float("inf"):
        raise SpecError(f"--price {price:g}: must be 0 or more, per hour and device.")
    shapes = find_model(model)
    machine = None if hardware is None else find_hardware(hardware)
    facts = None
    if data is not None:
        facts = scan(
            data,
            eval_source=eval_data,
            tokenizer=folder_of(model),
            context=shapes.context,
            max_length=max_length,
            prompt_field=prompt_field,
            completion_field=completion_field,
        )
    return build_plan(
        shapes,
        request,
        facts=facts,
        bits_per_token=bits_per_token,
        pilot=None if pilot is None else _measured(Path(pilot)),
        hardware=machine,
        price_per_hour=price,
    )


def _measured(pilot: Path) -> tuple[ExcessDescriptionLength, str]:
    from lowregret.analysis.pilot import read_pilot  # only a plan with a pilot waits for it

    return read_pilot(pilot)


def _request(
    objective: str, method: str | FullFT | LoRA | None, max_length: int | None, others: dict[str, Any]
) -> PlanRequest:
    if objective not in get_args(ObjectiveKind):
        raise SpecError(f"--objective {objective!r}: {did_you_mean(objective, get_args(ObjectiveKind))}")
    unknown = sorted(set(others) - set(PlanRequest.__dataclass_fields__))
    if unknown:
        raise SpecError(f"unknown option {unknown[0]!r}. {did_you_mean(unknown[0], PlanRequest.__dataclass_fields__)}")
    given = {name: value for name, value in others.items() if value is not None}
    return PlanRequest(objective=cast(ObjectiveKind, objective), method=_method(method), max_length=max_length, **given)


def _method(method: str | FullFT | LoRA | None) -> FullFT | LoRA | None:
    if not isinstance(method, str):
        return method
    try:
        fields = parse_method(method)
    except ValueError as error:
        raise SpecError(f"--method: {error}.") from None
    return build(FullFT, fields) if fields["kind"] == "full" else build(LoRA, fields)

"""Bodies of requests → the work that they ask for. The same way when they come, and when they are done again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from lowregret.serve.problems import Problem
from lowregret.serve.requests import parse
from lowregret.serve.tinker.forms import OptimStep, PassingForm, TensorData
from lowregret.serve.tinker.ledger import Kept
from lowregret.serve.tinker.tensors import Array, Datum, Passing, shaped, sparse
from lowregret.serve.tinker.wire import read_passing
from lowregret.serve.tinker.work import Create, Export, Load, Save, Step, Work

PROTO, JSON = "proto", "json"


def passing(body: bytes, form: str, *, forward_only: bool = False) -> Passing:
    """A request to pass data. Problem 400 where the body is none."""
    if form == PROTO:
        found = read_passing(body)
        found.forward_only |= forward_only
        return found
    asked = parse(PassingForm, body)
    data = []
    for datum in asked.given.data:
        inputs = {name: tensor(own) for name, own in datum.loss_fn_inputs.items()}
        data.append(Datum(_integers(datum.model_input.tokens), inputs))
    config = dict(asked.given.loss_fn_config or {})
    return Passing(asked.model_id, asked.seq_id, asked.given.loss_fn, config, data, forward_only)


def _integers(values: list[int]) -> Array:
    try:
        return np.asarray(values, np.int64)
    except OverflowError:
        raise Problem(400, "A whole number has more than 64 bits.") from None


def _floats(values: Sequence[float]) -> Array:
    """Those beyond float32 are infinite, and are refused where they come to be used."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)
    except OverflowError:  # a whole number that no float is near to
        raise Problem(400, "A number is too large for float32.") from None


def tensor(given: TensorData) -> Array:
    """Numbers in their shape."""
    if given.dtype == "int64":
        if any(isinstance(value, float) for value in given.data):
            raise Problem(400, "A tensor of int64 has a number that is not whole.")
        flat = _integers(list(map(int, given.data)))
    else:
        flat = _floats(given.data)
    if (given.sparse_crow_indices is None) != (given.sparse_col_indices is None):
        raise Problem(400, "sparse_crow_indices and sparse_col_indices go together.")
    if given.sparse_crow_indices is not None and given.sparse_col_indices is not None:
        rows, columns = _integers(given.sparse_crow_indices), _integers(given.sparse_col_indices)
        return sparse(flat, rows, columns, given.shape or [])
    return shaped(flat, given.shape or [])


def read(kept: Kept) -> Work:
    """The work of a request that was checked when it came."""
    if kept.kind == "pass":
        forward = kept.form.endswith("-forward")
        return passing(kept.body, kept.form.removesuffix("-forward"), forward_only=forward)
    if kept.kind == "step":
        return Step(parse(OptimStep, kept.body).adam_params.params)
    if kept.kind == "create":
        return Create()
    given = json.loads(kept.body)
    kinds: dict[str, type[Save | Export | Load]] = {"save": Save, "export": Export, "load": Load}
    return kinds[kept.kind](**given)

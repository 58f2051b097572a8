"""Protocol buffers' wire format (protobuf.dev/programming-guides/encoding), as far as Tinker's messages use it.

Numbers of fields are those of the SDK's `tinker_public` messages, which its versions from 0.25 on send and take.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lowregret.serve.problems import Problem
from lowregret.serve.tinker.tensors import DATA, NAMED, Array, Datum, Passing, shaped, sparse, too_many

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
FLOAT32, INT64, INT32 = 1, 2, 3
_KINDS: dict[int, np.dtype[Any]] = {FLOAT32: np.dtype("<f4"), INT64: np.dtype("<i8"), INT32: np.dtype("<i4")}
_OF_KIND = {np.dtype("<f4"): FLOAT32, np.dtype("<i8"): INT64, np.dtype("<i4"): INT32}
_MOST = 2**63
_SIZES = 40
"""Bytes of a packed shape, and sizes of one, at most."""


def _broken(what: str) -> Problem:
    return Problem(400, f"The body is no protocol buffer of this request ({what}).")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _broken("it ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int, a float of 8 bytes, or a view of bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value - 2 * _MOST if value >= _MOST else value
        elif kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise _broken("it ends too early")
            yield number, data[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            if at + size > len(data):
                raise _broken("it ends too early")
            (number_there,) = struct.unpack("<d" if size == 8 else "<f", data[at : at + size])
            yield number, number_there
            at += size
        else:
            raise _broken(f"a field of kind {kind}")


def _known(data: memoryview, kinds: Mapping[int, type]) -> Iterator[tuple[int, Any]]:
    """Fields that the message has, of their kinds. Problem 400 for others: what is not known is not ignored."""
    for number, value in fields(data):
        if number not in kinds or not isinstance(value, kinds[number]):
            raise _broken(f"field {number} is unknown here")
        yield number, value


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise _broken("a text is no UTF-8") from None


def _entry(data: memoryview, kind: type) -> tuple[str, Any]:
    """An entry of a map by texts."""
    found: dict[int, Any] = {1: memoryview(b""), 2: kind()} if kind is not memoryview else {1: memoryview(b"")}
    found |= dict(_known(data, {1: memoryview, 2: kind}))
    return _text(found[1]), found.get(2, memoryview(b""))


def _numbers(value: memoryview, kind: int) -> Array:
    dtype = _KINDS.get(kind)
    if dtype is None or len(value) % dtype.itemsize:
        raise _broken("a tensor of another type or size")
    return np.frombuffer(value, dtype)


def _shape(value: Any) -> list[int]:
    """Repeated whole numbers, packed or one by one."""
    if isinstance(value, int):
        return [value]
    if len(value) > _SIZES:
        raise _broken("a shape of too many sizes")
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _tensor(data: memoryview) -> Array:
    dense: Any = None
    csr: dict[int, memoryview] = {}
    kind, shape = 0, list[int]()
    for number, value in fields(data):
        if number == 1 and isinstance(value, memoryview):
            dense = value
        elif number == 2 and isinstance(value, memoryview):
            csr = dict(_known(value, {1: memoryview, 2: memoryview, 3: memoryview}))
            dense = csr.get(1, memoryview(b""))
        elif number == 3 and isinstance(value, int):
            kind = value
        elif number == 4 and not isinstance(value, float):
            shape += _shape(value)
            if len(shape) > _SIZES:
                raise _broken("a shape of too many sizes")
        else:
            raise _broken(f"field {number} of a tensor is unknown here")
    flat = _numbers(memoryview(b"") if dense is None else dense, kind)
    if csr:
        rows, columns = (_numbers(csr.get(place, memoryview(b"")), INT64) for place in (2, 3))
        return sparse(flat, rows, columns, shape)
    return shaped(flat, shape)


def _datum(data: memoryview) -> Datum:
    tokens, inputs = list[Array](), dict[str, Array]()
    for number, value in _known(data, dict.fromkeys((1, 2, 3, 4), memoryview)):
        if number == 1:
            for kind, chunk in _known(value, {1: memoryview, 2: memoryview, 3: memoryview}):
                if kind != 1:
                    raise Problem(400, "model_input: this server takes chunks of tokens alone, no images and no audio.")
                tokens += [_numbers(ids, INT32) for _, ids in _known(chunk, {1: memoryview}) if len(ids)]
        elif number == 2:
            name, tensor = _entry(value, memoryview)
            inputs[name] = _tensor(tensor)
            _few(inputs)
    return Datum(np.concatenate(tokens) if tokens else np.empty(0, np.int32), inputs)


def _few(named: Mapping[str, Any]) -> None:
    """Problem 400 for more names than any loss takes: each costs a hundred times its bytes."""
    if len(named) > NAMED:
        raise Problem(400, f"loss_fn_inputs and loss_fn_config have up to {NAMED} fields.")


def read_passing(body: bytes) -> Passing:
    """A ForwardBackwardRequest. Spans of provenance are of no use here: what they say changes no number."""
    found = Passing(model_id="", seq_id=None, loss="", config={}, data=[], forward_only=False)
    kinds = {1: memoryview, 2: int, 3: memoryview, 4: memoryview, 5: memoryview, 6: int, 7: memoryview}
    second: dict[str, float | str] = {}
    for number, value in _known(memoryview(body), kinds):
        if number == 1:
            found.model_id = _text(value)
        elif number == 2:
            found.seq_id = value
        elif number == 3:
            if len(found.data) == DATA:  # an empty one has two bytes
                raise too_many()
            found.data.append(_datum(value))
        elif number == 4:
            found.loss = _text(value)
        elif number == 5:
            name, setting = _entry(value, float)
            found.config[name] = setting
            _few(found.config)
        elif number == 6:
            found.forward_only = bool(value)
        else:
            name, given = _entry(value, memoryview)
            for kind, setting in _known(given, {1: float, 2: memoryview}):
                second[name] = setting if kind == 1 else _text(setting)
                _few(second)
    found.config = second or found.config
    return found


def place_of(body: bytes) -> tuple[str, int] | None:
    """The model and the number that a ForwardBackwardRequest names, whatever else is wrong with it."""
    model, seq = "", 0
    try:
        for number, value in fields(memoryview(body)):
            if number == 1 and isinstance(value, memoryview):
                model = _text(value)
            elif number == 2 and isinstance(value, int):
                seq = value
    except Problem:
        pass
    return (model, seq) if model and 0 < seq < 2**31 else None


def _put(number: int, value: Any) -> bytes:
    """A field: bytes or text, a float as 8 bytes, an int as a varint."""
    if isinstance(value, float):
        return _written(number << 3 | _FIXED64) + struct.pack("<d", value)
    if isinstance(value, int):
        return _written(number << 3 | _VARINT) + _written(value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    return _written(number << 3 | _BYTES) + _written(len(data)) + data


def _written(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _tensor_field(number: int, value: Array) -> bytes:
    said = b"".join(_put(4, size) for size in value.shape)
    return _put(number, _put(1, value.tobytes()) + _put(3, _OF_KIND[value.dtype]) + said)


def write_passed(metrics: Mapping[str, float], arrays: Iterable[Array]) -> bytes:
    """A ForwardBackwardOutput with the log-probabilities of each datum; those of equal trailing shape as one record."""
    body = _put(1, "ArrayRecord")
    for group in _groups(arrays):
        stops = np.cumsum([0, *(value.nbytes for value in group)], dtype="<i8")
        batched = _put(1, b"".join(value.tobytes() for value in group)) + _put(2, stops.tobytes()) + _put(3, FLOAT32)
        batched += b"".join(_put(4, size) for size in group[0].shape[1:])
        body += _put(2, _put(2, _put(1, "logprobs") + _put(2, batched)) + _put(3, len(group)))
    return body + b"".join(_put(3, _put(1, name) + _put(2, float(value))) for name, value in metrics.items())


def _groups(arrays: Iterable[Array]) -> Iterator[list[Array]]:
    """Neighbours whose shapes differ in the first dimension alone."""
    group: list[Array] = []
    for value in arrays:
        own = np.asarray(value, "<f4")
        if group and group[0].shape[1:] != own.shape[1:]:
            yield group
            group = []
        group.append(own)
    if group:
        yield group


def _likely(ids: Array, logprobs: Array) -> bytes:
    """TopkLogprobs of [positions, k]."""
    found = _put(1, np.asarray(ids, "<i4").tobytes()) + _put(2, np.asarray(logprobs, "<f4").tobytes())
    return found + _put(3, ids.shape[1]) + _put(4, ids.shape[0])


def write_drawn(sequences: Sequence[Mapping[str, Any]], prompt: Mapping[str, Array]) -> bytes:
    """A SampleResponse. A sequence has `stop_reason`, `tokens`, `logprobs` and perhaps `top_ids` and `top_logprobs`;
    `prompt` what is told of it: `logprobs`, `top_ids` with `top_logprobs`, `targets`."""
    body = b""
    for own in sequences:
        told = _put(1, 0 if own["stop_reason"] == "stop" else 1)
        told += _put(2, np.asarray(own["tokens"], "<i4").tobytes()) + _put(
            3, np.asarray(own["logprobs"], "<f4").tobytes()
        )
        if "top_ids" in own:
            told += _put(4, _likely(own["top_ids"], own["top_logprobs"]))
        body += _put(1, told)
    if "logprobs" in prompt:
        body += _put(2, np.asarray(prompt["logprobs"], "<f4").tobytes())
    if "top_ids" in prompt:
        body += _put(3, _likely(prompt["top_ids"], prompt["top_logprobs"]))
    if "targets" in prompt:
        body += _tensor_field(5, np.asarray(prompt["targets"], "<f4"))
    return body

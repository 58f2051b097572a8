"""Tinker's protocol buffers: what google's own library writes is read, and what is written it reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from lowregret.serve.problems import Problem
from lowregret.serve.tinker.wire import place_of, read_passing, write_drawn, write_passed

FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bytes": FIELD.TYPE_BYTES,
    "string": FIELD.TYPE_STRING,
    "int32": FIELD.TYPE_INT32,
    "int64": FIELD.TYPE_INT64,
    "uint32": FIELD.TYPE_UINT32,
    "enum": FIELD.TYPE_INT32,
    "double": FIELD.TYPE_DOUBLE,
    "bool": FIELD.TYPE_BOOL,
}
_MESSAGES: dict[str, list[tuple[int, str, str]]] = {
    "Csr": [(1, "values", "bytes"), (2, "crow_indices", "bytes"), (3, "col_indices", "bytes")],
    "Tensor": [(1, "dense", "bytes"), (2, "sparse_csr", "Csr"), (3, "dtype", "enum"), (4, "shape", "*int64")],
    "Text": [(1, "tokens", "bytes")],
    "Image": [(1, "data", "bytes")],
    "Chunk": [(1, "encoded_text", "Text"), (2, "image", "Image")],
    "Named": [(1, "key", "string"), (2, "value", "Tensor")],
    "Number": [(1, "key", "string"), (2, "value", "double")],
    "Setting": [(1, "number", "double"), (2, "text", "string")],
    "Config": [(1, "key", "string"), (2, "value", "Setting")],
    "Datum": [(1, "model_input", "*Chunk"), (2, "loss_fn_inputs", "*Named")],
    "Passing": [
        (1, "model_id", "string"),
        (2, "seq_id", "int32"),
        (3, "data", "*Datum"),
        (4, "loss_fn", "string"),
        (5, "loss_fn_config", "*Number"),
        (6, "forward_only", "bool"),
        (7, "loss_fn_config_v2", "*Config"),
    ],
    "Batched": [(1, "data", "bytes"), (2, "offsets", "bytes"), (3, "dtype", "enum"), (4, "trailing_shape", "*int64")],
    "Fields": [(1, "key", "string"), (2, "value", "Batched")],
    "Record": [(1, "type_tag", "string"), (2, "fields", "*Fields"), (3, "num_datums", "int64")],
    "Passed": [(1, "loss_fn_output_type", "string"), (2, "loss_fn_outputs", "*Record"), (3, "metrics", "*Number")],
    "Likely": [(1, "token_ids", "bytes"), (2, "logprobs", "bytes"), (3, "k", "uint32"), (4, "length", "uint32")],
    "Sequence": [(1, "stop_reason", "enum"), (2, "tokens", "bytes"), (3, "logprobs", "bytes"), (4, "topk", "Likely")],
    "Drawn": [
        (1, "sequences", "*Sequence"),
        (2, "prompt_logprobs", "bytes"),
        (3, "topk", "Likely"),
        (5, "targets", "Tensor"),
    ],
}
"""The messages as the SDK's descriptor has them: numbers and types; a map is a list of its entries."""


@pytest.fixture(scope="module")
def messages() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            label = FIELD.LABEL_REPEATED if kind.startswith("*") else FIELD.LABEL_OPTIONAL
            plain = kind.removeprefix("*")
            own = message.field.add(name=field, number=number, label=label)
            own.type = _TYPES.get(plain, FIELD.TYPE_MESSAGE)
            if plain not in _TYPES:
                own.type_name = f".t.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in _MESSAGES}


def test_a_request_is_read_as_it_was_written(messages: Any) -> None:
    request = messages["Passing"](model_id="s:train:0", seq_id=7, loss_fn="ppo", forward_only=True)
    request.loss_fn_config.add(key="clip_low_threshold", value=0.7)
    request.loss_fn_config_v2.add(key="clip_low_threshold").value.number = 0.8
    request.loss_fn_config_v2.add(key="name").value.text = "x"
    datum = request.data.add()
    for part in ([1, 2], [300]):
        datum.model_input.add().encoded_text.tokens = np.array(part, "<i4").tobytes()
    dense = datum.loss_fn_inputs.add(key="weights").value
    dense.dense, dense.dtype = np.array([0.5, -1, 2], "<f4").tobytes(), 1
    matrix = datum.loss_fn_inputs.add(key="target_tokens").value
    matrix.dtype = 2
    matrix.shape.extend([3, 4])
    matrix.sparse_csr.values = np.array([9, 8], "<i8").tobytes()
    matrix.sparse_csr.crow_indices = np.array([0, 1, 1, 2], "<i8").tobytes()
    matrix.sparse_csr.col_indices = np.array([3, 0], "<i8").tobytes()
    body = request.SerializeToString()
    found = read_passing(body)
    assert (found.model_id, found.seq_id, found.loss, found.forward_only) == ("s:train:0", 7, "ppo", True)
    assert found.config == {"clip_low_threshold": 0.8, "name": "x"}, "the second map goes before the first"
    (own,) = found.data
    assert own.tokens.tolist() == [1, 2, 300]
    assert own.inputs["weights"].tolist() == [0.5, -1, 2]
    assert own.inputs["target_tokens"].tolist() == [[0, 0, 0, 9], [0] * 4, [8, 0, 0, 0]]
    assert place_of(body) == ("s:train:0", 7)


def test_an_image_is_refused_and_its_place_is_known(messages: Any) -> None:
    request = messages["Passing"](model_id="m", seq_id=3)
    request.data.add().model_input.add().image.data = b"png"
    with pytest.raises(Problem, match="no images"):
        read_passing(request.SerializeToString())
    assert place_of(request.SerializeToString()) == ("m", 3)


def test_the_answer_to_a_pass_is_read_back(messages: Any) -> None:
    arrays = [np.array([1.5, 2]), np.array([3.0]), np.ones((2, 3))]
    message = messages["Passed"].FromString(write_passed({"loss:sum": -4.25}, arrays))
    assert message.loss_fn_output_type == "ArrayRecord"
    assert [(entry.key, entry.value) for entry in message.metrics] == [("loss:sum", -4.25)]
    flat, deep = (record.fields[0].value for record in message.loss_fn_outputs)
    assert [record.num_datums for record in message.loss_fn_outputs] == [2, 1]
    assert np.frombuffer(flat.data, "<f4").tolist() == [1.5, 2, 3]
    assert np.frombuffer(flat.offsets, "<i8").tolist() == [0, 8, 12]
    assert (flat.dtype, list(flat.trailing_shape), list(deep.trailing_shape)) == (1, [], [3])


def test_what_was_drawn_is_read_back(messages: Any) -> None:
    ids, values = np.array([[1, 2], [3, 4]]), np.array([[-0.5, -1], [-1.5, -2]])
    drawn = [
        {"stop_reason": "stop", "tokens": [5, 6], "logprobs": [-1, -2], "top_ids": ids, "top_logprobs": values},
        {"stop_reason": "length", "tokens": [], "logprobs": []},
    ]
    prompt = {"logprobs": np.array([np.nan, -3]), "top_ids": ids, "top_logprobs": values, "targets": values[:1]}
    message = messages["Drawn"].FromString(write_drawn(drawn, prompt))
    first, second = message.sequences
    assert (first.stop_reason, second.stop_reason) == (0, 1)
    assert np.frombuffer(first.tokens, "<i4").tolist() == [5, 6]
    assert np.frombuffer(first.topk.logprobs, "<f4").tolist() == [-0.5, -1, -1.5, -2]
    assert (first.topk.k, first.topk.length, message.topk.k) == (2, 2, 2)
    assert np.isnan(np.frombuffer(message.prompt_logprobs, "<f4")[0])
    assert (message.targets.dtype, list(message.targets.shape)) == (1, [1, 2])


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    place_of(body)
    with suppress(Problem):
        read_passing(body)

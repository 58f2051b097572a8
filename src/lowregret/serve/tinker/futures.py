"""Requests that were taken, until somebody has been told what they came to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from starlette.responses import Response

from lowregret.serve.problems import json_response
from lowregret.serve.tinker.ledger import Answer, Ledger
from lowregret.serve.tinker.passing import NOTHING
from lowregret.serve.tinker.tensors import Array
from lowregret.serve.tinker.wire import write_drawn, write_passed

PROTO_TYPE = "application/x-protobuf"
HOLD_SECONDS = 30.0
"""For which a question after an answer is held, before its client is told to ask again: SDKs wait 45."""


@final
class Futures:
    """Who waits for which answer; in the event loop's thread but for `tell`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[str, asyncio.Event] = {}

    def begin(self) -> None:
        """The loop that runs is the one in which answers are awaited."""
        self._loop = asyncio.get_running_loop()

    def tell(self, requests: Sequence[str]) -> None:
        """These have answers now; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, list(requests))

    def _set(self, requests: Sequence[str]) -> None:
        for request in requests:
            event = self._events.pop(request, None)
            if event is not None:
                event.set()

    async def answer(self, request: str) -> Answer | str | None:
        """As the ledger has it, `waits` if it does not come in some time, `gone` if it was there; None for none."""
        event = self._events.setdefault(request, asyncio.Event())
        found = self._ledger.answer(request)
        if found != "waits":
            self._set([request])
            return found
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await event.wait()
        except TimeoutError:
            pass
        return self._ledger.answer(request)


def told(answer: Answer, *, proto: bool) -> Response:
    """An answer as its client reads it."""
    values = answer.values
    if "ends" in values:
        sequences, prompt = _drawn(values, answer.arrays)
        if proto:
            return Response(write_drawn(sequences, prompt), media_type=PROTO_TYPE)
        return json_response(_drawn_json(sequences, prompt))
    if "data" in values:
        arrays = [answer.arrays[f"logprobs/{number}"] for number in range(values["data"])]
        metrics = {name: np.nan if value is None else value for name, value in values["metrics"].items()}
        if proto:
            return Response(write_passed(metrics, arrays), media_type=PROTO_TYPE)
        outputs = [{"logprobs": _tensor(value)} for value in arrays]
        there = {name: value for name, value in values["metrics"].items() if value is not None}
        return json_response({"loss_fn_output_type": "ArrayRecord", "loss_fn_outputs": outputs, "metrics": there})
    return json_response(dict(values))


def _tensor(value: Array) -> dict[str, Any]:
    return {"data": value.flatten().tolist(), "dtype": "float32", "shape": list(value.shape)}


def _drawn(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    sequences: list[dict[str, Any]] = [{"stop_reason": end} for end in values["ends"]]
    prompt: dict[str, Array] = {}
    for name, value in arrays.items():
        owner, _, kind = name.partition("/")
        if owner == "prompt":
            prompt[kind] = value
        else:
            sequences[int(owner)][kind] = value
    return sequences, prompt


def _drawn_json(sequences: Sequence[Mapping[str, Any]], prompt: Mapping[str, Array]) -> dict[str, Any]:
    drawn = [
        {"stop_reason": own["stop_reason"], "tokens": own["tokens"].tolist(), "logprobs": own["logprobs"].tolist()}
        for own in sequences
    ]
    found: dict[str, Any] = {"type": "sample", "sequences": drawn}
    if "logprobs" in prompt:
        found["prompt_logprobs"] = prompt["logprobs"].tolist()
    if "top_ids" in prompt:
        pairs = zip(prompt["top_ids"].tolist(), prompt["top_logprobs"].tolist(), strict=True)
        rows = [list(zip(ids, values, strict=True)) for ids, values in pairs]
        unknown: list[bool] = np.all(prompt["top_logprobs"] <= NOTHING, axis=1).tolist()
        found["topk_prompt_logprobs"] = [None if gone else row for gone, row in zip(unknown, rows, strict=True)]
    return found

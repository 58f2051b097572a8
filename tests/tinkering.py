"""A client of Tinker's protocol without its SDK: JSON over HTTP, as SDKs up to 0.24 send it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving import KEY


class Refused(Exception):
    """A request that was answered by 4xx."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Failed(Exception):
    """A request that was taken and could not be done."""


def datum(tokens: Sequence[int], **inputs: Sequence[Any]) -> dict[str, Any]:
    """Tokens with what the loss takes; targets are the next tokens where none are given."""
    given: dict[str, Any] = {"target_tokens": [*tokens[1:], 0], **inputs}
    return {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": list(tokens)}]},
        "loss_fn_inputs": {name: tensor(values) for name, values in given.items()},
    }


def tensor(values: Sequence[Any]) -> dict[str, Any]:
    """A list, or a list of equally long lists."""
    deep = values and isinstance(values[0], list | tuple)
    flat = [value for row in values for value in row] if deep else list(values)
    whole = all(isinstance(value, int) for value in flat)
    shape = [len(values), len(values[0])] if deep else [len(values)]
    return {"data": flat, "dtype": "int64" if whole else "float32", "shape": shape}


@dataclass
class Client:
    """One tenant of a server."""

    address: str
    key: str = KEY
    session: str = ""
    models: int = 0
    seq: dict[str, int] = field(default_factory=dict)

    def post(self, path: str, body: Any, *, method: str = "POST", raw: bytes | None = None, **headers: str) -> Any:
        """The answer's JSON; Refused for 4xx but 408."""
        data = raw if raw is not None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "X-API-Key": self.key}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(
            f"{self.address}/api/v1/{path}", None if method == "GET" else data, sent, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read())) from None

    def begin(self) -> str:
        """A session."""
        about = {"tags": [], "user_metadata": {}, "sdk_version": "tests", "type": "create_session"}
        self.session = self.post("create_session", about)["session_id"]
        return self.session

    def result(self, taken: dict[str, Any], seconds: float = 60) -> Any:
        """What a request came to."""
        until = time.monotonic() + seconds
        while True:
            try:
                found = self.post("retrieve_future", {"request_id": taken["request_id"]})
            except Refused as refused:
                if refused.status == 408 and time.monotonic() < until:
                    continue
                raise
            if "error" in found:
                raise Failed(found["error"])
            return found

    def waits(self, taken: dict[str, Any]) -> bool:
        """Whether a request has no answer in half a second."""
        data = json.dumps({"request_id": taken["request_id"]}).encode()
        sent = {"Content-Type": "application/json", "X-API-Key": self.key}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.address}/api/v1/retrieve_future", data, sent), timeout=0.5
            ):
                return False
        except TimeoutError:
            return True

    def create(self, rank: int = 8, seed: int = 0, **config: Any) -> str:
        """A model."""
        if not self.session:
            self.begin()
        lora = {"rank": rank, "seed": seed, **config}
        body = {"session_id": self.session, "model_seq_id": self.models, "base_model": "tiny", "lora_config": lora}
        self.models += 1
        model: str = self.result(self.post("create_model", body))["model_id"]
        self.seq[model] = 1
        return model

    def _next(self, model: str) -> int:
        number = self.seq[model]
        self.seq[model] += 1
        return number

    def passing(
        self,
        model: str,
        data: Sequence[Any],
        loss: str = "cross_entropy",
        config: Any = None,
        *,
        forward: bool = False,
        seq: int | None = None,
    ) -> dict[str, Any]:
        """Take a forward_backward."""
        given = {"data": list(data), "loss_fn": loss} | ({} if config is None else {"loss_fn_config": config})
        path = "forward" if forward else "forward_backward"
        number = self._next(model) if seq is None else seq
        taken: dict[str, Any] = self.post(path, {f"{path}_input": given, "model_id": model, "seq_id": number})
        return taken

    def step(self, model: str, rate: float = 1e-2, **params: float) -> dict[str, Any]:
        """Take an optim_step."""
        body = {"adam_params": {"learning_rate": rate, **params}, "model_id": model, "seq_id": self._next(model)}
        taken: dict[str, Any] = self.post("optim_step", body)
        return taken

    def train(self, model: str, data: Sequence[Any], loss: str = "cross_entropy", rate: float = 1e-2) -> float:
        """One step; the loss before it."""
        passed, stepped = self.passing(model, data, loss), self.step(model, rate)
        found: float = self.result(passed)["metrics"]["loss:sum"]
        self.result(stepped)
        return found

    def ordered(self, endpoint: str, model: str, /, **body: Any) -> Any:
        """Something else that has a place in the model's order, and what it came to."""
        return self.result(self.post(endpoint, {"model_id": model, "seq_id": self._next(model), **body}))

    def sampler(self, model: str, number: int = 0) -> str:
        """Something to draw by the model as it is now."""
        found: str = self.ordered("save_weights_for_sampler", model, sampling_session_seq_id=number)[
            "sampling_session_id"
        ]
        return found

    def sample(self, sampler: str, prompt: Sequence[int], seq: int = 0, **more: Any) -> dict[str, Any]:
        """Take an asample."""
        params = {"max_tokens": 8, "seed": 1, **more.pop("sampling_params", {})}
        chunks = {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]}
        body = {"sampling_session_id": sampler, "seq_id": seq, "prompt": chunks, "sampling_params": params, **more}
        taken: dict[str, Any] = self.post("asample", body)
        return taken

"""Three tenants of Tinker's protocol at once beside the same three one after another, on one server.

    python -m benchmarks.tinker_tenants --model tiny --out docs/results/tinker_tenants.json

Each tenant takes steps as a program does that waits for each: forward_backward and optim_step are sent together, then
both answers are awaited. Ranks, rates and losses differ; rows are as many and as long. Both ways see fresh models in
every repeat, in turns, the first way another each time. A repeat that is in --out is not measured again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json

TENANTS: tuple[tuple[int, str, float], ...] = ((8, "cross_entropy", 1e-3), (16, "ppo", 3e-4), (32, "dro", 1e-4))
"""Rank, loss, rate."""
_VOCABULARY = 1000


class Tenant:
    """A client with one connection and one model."""

    def __init__(self, port: int, rank: int, loss: str, rate: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._loss, self._rate, self._seq = loss, rate, 1
        session = self._post("create_session", {"tags": [], "user_metadata": {}, "sdk_version": "bench"})["session_id"]
        (base,) = self._get("get_server_capabilities")["supported_models"]
        config = {"rank": rank, "seed": 0}
        body = {"session_id": session, "model_seq_id": 0, "base_model": base["model_name"], "lora_config": config}
        self.model: str = self._result(self._post("create_model", body))["model_id"]

    def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else to_json(body)
        for last in (False, True):
            try:
                self._connection.request(method, f"/api/v1/{path}", data, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                break
            except (ConnectionError, http.client.HTTPException):  # it was idle, and the server has closed it
                self._connection.close()
                if last:
                    raise
        found = json.loads(answer.read())
        if answer.status not in (200, 408) or "error" in found:
            raise RuntimeError(f"{path}: {answer.status} {found}")
        return found

    def _post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def _get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def _result(self, taken: Any) -> Any:
        while True:
            found = self._post("retrieve_future", {"request_id": taken["request_id"]})
            if found.get("type") != "try_again":
                return found

    def step(self, data: Sequence[Any]) -> float:
        """The loss before a step."""
        given = {"data": list(data), "loss_fn": self._loss}
        passed = self._post(
            "forward_backward", {"forward_backward_input": given, "model_id": self.model, "seq_id": self._seq}
        )
        params = {"learning_rate": self._rate}
        stepped = self._post("optim_step", {"adam_params": params, "model_id": self.model, "seq_id": self._seq + 1})
        self._seq += 2
        loss: float = self._result(passed)["metrics"]["loss:sum"]
        self._result(stepped)
        return loss

    def rows(self, count: int, length: int, seed: int) -> list[Any]:
        """Data of its loss."""
        numbers = random.Random(seed)
        return [self._datum([numbers.randrange(3, _VOCABULARY) for _ in range(length)]) for _ in range(count)]

    def _datum(self, tokens: list[int]) -> Any:
        inputs: dict[str, Any] = {"target_tokens": _tensor([*tokens[1:], 3], "int64")}
        if self._loss != "cross_entropy":
            inputs |= {name: _tensor([0.5] * len(tokens), "float32") for name in ("advantages", "logprobs")}
        return {"model_input": {"chunks": [{"tokens": tokens, "type": "encoded_text"}]}, "loss_fn_inputs": inputs}


def _tensor(values: Sequence[float], dtype: str) -> Any:
    return {"data": list(values), "dtype": dtype, "shape": [len(values)]}


@contextmanager
def server(model: str, folder: Path, threads: int) -> Iterator[int]:
    """The port of one that runs."""
    command = [sys.executable, "-m", "lowregret", "serve", model, "--port", "0", "--tinker-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().strip().rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(60)


def measure(port: int, *, together: bool, asked: argparse.Namespace, repeat: int) -> dict[str, Any]:
    """Seconds of all tenants' steps, and the losses of each."""
    tenants = [Tenant(port, *own) for own in TENANTS]
    data = [
        [tenant.rows(asked.rows, asked.length, 1000 * repeat + 10 * step + number) for step in range(asked.steps + 1)]
        for number, tenant in enumerate(tenants)
    ]
    losses: list[list[float]] = [[tenant.step(own[0])] for tenant, own in zip(tenants, data, strict=True)]

    def train(number: int) -> None:
        losses[number] += [tenants[number].step(rows) for rows in data[number][1:]]

    began = time.perf_counter()
    if together:
        threads = [threading.Thread(target=train, args=(number,)) for number in range(len(tenants))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for number in range(len(tenants)):
            train(number)
    return {"seconds": time.perf_counter() - began, "losses": losses}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=16)
    asked = parser.parse_args(arguments)
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {"repeats": []}
    with tempfile.TemporaryDirectory() as folder, server(asked.model, Path(folder), asked.threads) as port:
        while len(known["repeats"]) < asked.repeats:
            number = len(known["repeats"])
            ways = ["together", "apart"] if number % 2 else ["apart", "together"]
            found = {way: measure(port, together=way == "together", asked=asked, repeat=number) for way in ways}
            apart = max(
                abs(one - other) / max(abs(other), 1e-9)
                for ours, theirs in zip(found["together"]["losses"], found["apart"]["losses"], strict=True)
                for one, other in zip(ours, theirs, strict=True)
            )
            known["repeats"].append(
                {
                    **{way: round(own["seconds"], 3) for way, own in found.items()},
                    "gain": round(found["apart"]["seconds"] / found["together"]["seconds"], 3),
                    "largest_relative_difference_of_losses": apart,
                }
            )
            known |= {key: getattr(asked, key) for key in ("model", "threads", "steps", "rows", "length")}
            known["gain"] = statistics.median(own["gain"] for own in known["repeats"])
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(to_json(known, indent=2) + "\n")
            print(known["repeats"][-1], flush=True)


if __name__ == "__main__":
    main()

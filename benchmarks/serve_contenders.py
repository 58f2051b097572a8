"""The servers of `benchmarks.serve`: each in a process of its own, and how it is asked."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lowregret.models.load import resolve
from lowregret.strict_json import to_json

CLIENTS = 16
OURS, LLAMA, PEER, VLLM = "lowregret serve", "llama.cpp, f32", "transformers serve", "vLLM, CPU build"
KEY = "sk-bench"
START_SECONDS = 300


@dataclass(frozen=True)
class Contender:
    """A server that runs, and how it is asked."""

    label: str
    address: str
    body: Callable[[list[int], int, bool], tuple[str, dict[str, Any]]]
    """(prompt, tokens to draw, streamed) → path and body."""
    process: int

    def ask(
        self, prompt: list[int], drawn: int, *, stream: bool = False, until_first: bool = False
    ) -> tuple[float, int]:
        """(seconds to the answer, or to its first token; tokens that were drawn)."""
        path, body = self.body(prompt, drawn, stream)
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=600)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        connection.request("POST", path, to_json(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{self.label}: {answer.status} {answer.read(500)!r}")
        if stream:
            first = None
            while line := answer.readline():
                if first is None and _says_something(line):
                    first = time.perf_counter() - began
            connection.close()
            return (first or 0.0) if until_first else time.perf_counter() - began, drawn
        found = json.loads(answer.read())
        connection.close()
        count = found["usage"]["completion_tokens"] if "usage" in found else found["tokens_predicted"]
        return time.perf_counter() - began, int(count)


def _says_something(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    told = json.loads(line[6:])
    choice = (told.get("choices") or [told])[0]
    return bool(choice.get("text") or choice.get("content") or (choice.get("delta") or {}).get("content"))


@contextmanager
def ours(model: str, threads: int, *more: str) -> Iterator[Contender]:
    """`lowregret serve` in a process of its own."""
    command = [sys.executable, "-m", "lowregret", "serve", model, "--port", "0", *more]
    with _process(command, threads) as (process, line):
        name = line.split()[1]

        def body(prompt: list[int], drawn: int, stream: bool) -> tuple[str, dict[str, Any]]:
            asked = {"model": name, "prompt": prompt, "max_tokens": drawn, "temperature": 0, "ignore_eos": True}
            return "/v1/completions", {**asked, "stream": stream}

        yield Contender(OURS, urlsplit(line.split()[-1]).netloc, body, process.pid)


@contextmanager
def llama(file: Path, threads: int) -> Iterator[Contender]:
    """llama.cpp's server, of the wheel xllamacpp, on float32."""
    command = [sys.executable, "-m", "benchmarks.serve_llama", str(file), str(CLIENTS), str(threads)]
    with _process(command, threads) as (process, line):

        def body(prompt: list[int], drawn: int, stream: bool) -> tuple[str, dict[str, Any]]:
            asked = {"prompt": prompt, "n_predict": drawn, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
            return "/completion", {**asked, "stream": stream}

        yield Contender(LLAMA, urlsplit(line.split()[-1]).netloc, body, process.pid)


@contextmanager
def peer(model: str, threads: int) -> Iterator[Contender]:
    """`transformers serve`, batching continuously; a chat of words that are about a token each."""
    port = _free_port()
    model = resolve(model).path
    run = "from transformers.cli.transformers import main; import sys; sys.argv[0] = 'transformers'; main()"
    options = [
        "serve",
        model,
        "--continuous-batching",
        "--cb-max-memory-percent",
        "0.2",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with _process([sys.executable, "-c", run, *options], threads, says=False) as (process, _):
        address = f"localhost:{port}"
        _until_healthy(PEER, process, address)

        def body(prompt: list[int], drawn: int, stream: bool) -> tuple[str, dict[str, Any]]:
            words = " ".join(_WORDS[token % len(_WORDS)] for token in prompt[: max(len(prompt) - 30, 1)])
            own = to_json({"max_new_tokens": drawn, "min_new_tokens": drawn, "do_sample": False})
            asked = {"model": model, "messages": [{"role": "user", "content": words}], "stream": stream}
            return "/v1/chat/completions", {**asked, "max_tokens": drawn, "generation_config": own}

        yield Contender(PEER, address, body, process.pid)


@contextmanager
def vllm(python: Path, model: str, threads: int) -> Iterator[Contender]:
    """vLLM's CPU build, of an environment of its own, on float32."""
    port = _free_port()
    model = resolve(model).path
    options = [
        "--model",
        model,
        "--dtype",
        "float32",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--max-model-len",
        "512",
    ]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *options]
    more = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with _process(command, threads, says=False, **more) as (process, _):
        address = f"localhost:{port}"
        _until_healthy(VLLM, process, address)

        def body(prompt: list[int], drawn: int, stream: bool) -> tuple[str, dict[str, Any]]:
            asked = {"model": model, "prompt": prompt, "max_tokens": drawn, "temperature": 0, "ignore_eos": True}
            return "/v1/completions", {**asked, "stream": stream}

        yield Contender(VLLM, address, body, process.pid)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _until_healthy(label: str, process: Any, address: str) -> None:
    """SystemExit when a server ends before it answers, or does not within minutes."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{label} did not start.")
        time.sleep(0.5)


_WORDS = "the of and to in is was for on that with as by at from his it an were are which this be had or not".split()


@contextmanager
def _process(command: Sequence[str], threads: int, *, says: bool = True, **more: str) -> Iterator[tuple[Any, str]]:
    """A server's process and the line that says where it is."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "LOWREGRET_APIKEY": KEY, "HF_HUB_OFFLINE": "1", **more}
    with tempfile.TemporaryFile() as errors:
        out = subprocess.PIPE if says else errors
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors, env=env, text=True)
        try:
            line = ""
            while says and not line.startswith("serving"):
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    errors.seek(0)
                    raise SystemExit(f"{' '.join(command)}: {errors.read().decode()[-2000:]}")
            yield process, line
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

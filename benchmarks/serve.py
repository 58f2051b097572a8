"""The server beside llama.cpp's, transformers' and vLLM's: tokens a second, first tokens, many adapters, a long soak.

    python -m benchmarks.serve speed --model FOLDER --out docs/results/serve_speed.json [--vllm PYTHON]
    python -m benchmarks.serve adapters --model FOLDER --out docs/results/serve_adapters.json
    python -m benchmarks.serve soak --model tiny --out docs/results/serve_soak.json

Each part may be stopped and goes on: what is in --out is not measured again. `speed` starts the servers one after the
other in every repeat, in another order each time, so that all see the same machine: 1 and 8 clients that each have 64
tokens read and 24 drawn, greedily and past any end; then 16 clients, each of which asks again at once, of whose answers
the first tokens are timed. transformers serve has no prompts of tokens: its chat has a text of about as many, and its
rates count the tokens that it says it drew. `adapters`: memory and time of loading 64 adapters of rank 16, and 8 of
them in one batch beside the base alone. `soak`: random requests with joins, cancels, loads and unloads, each compared
with what the engine draws for it alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serve_contenders import CLIENTS, KEY, LLAMA, OURS, PEER, VLLM, Contender, llama, ours, peer, vllm

from lowregret.models.load import resolve
from lowregret.strict_json import to_json

READ, DRAWN, ROWS = 64, 24, 8


def rate(contender: Contender, rows: int, seed: int) -> float:
    """Tokens a second of so many clients that ask at once."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(10, 900) for _ in range(READ)] for _ in range(rows)]
    counts = [0] * rows

    def ask(row: int) -> None:
        counts[row] = contender.ask(prompts[row], DRAWN)[1]

    began = time.perf_counter()
    _at_once(ask, rows)
    return sum(counts) / (time.perf_counter() - began)


def firsts(contender: Contender, seed: int, each: int) -> list[float]:
    """Seconds to the first token of each of so many requests of 16 clients."""
    found: list[float] = []

    def ask(client: int) -> None:
        draw = random.Random(f"{seed} {client}")
        for _ in range(each):
            prompt = [draw.randrange(10, 900) for _ in range(READ)]
            found.append(contender.ask(prompt, DRAWN, stream=True, until_first=True)[0])

    _at_once(ask, CLIENTS)
    return found


def _at_once(ask: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speed(arguments: argparse.Namespace) -> None:
    """Every repeat has all contenders; what was measured is kept."""
    known = _known(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[], Any]] = {OURS: lambda: ours(arguments.model, arguments.threads)}
        if "llama" not in arguments.without:
            file = Path(folder) / "gguf"
            makers[LLAMA] = lambda: llama(_gguf(arguments.model, file), arguments.threads)
        if "transformers" not in arguments.without:
            makers[PEER] = lambda: peer(arguments.model, arguments.threads)
        if arguments.vllm is not None:
            makers[VLLM] = lambda: vllm(arguments.vllm, arguments.model, arguments.threads)
        for repeat in range(arguments.repeats):
            labels = list(makers)
            random.Random(repeat).shuffle(labels)
            for label in labels:
                done = known.setdefault(label, {})
                if str(repeat) in done:
                    continue
                with makers[label]() as contender:
                    rate(contender, 1, -1)
                    rate(contender, ROWS, -1)
                    done[str(repeat)] = {
                        "one": rate(contender, 1, repeat),
                        "eight": rate(contender, ROWS, repeat),
                        "first": sorted(firsts(contender, repeat, arguments.each)),
                    }
                _keep(arguments.out, known)
                print(
                    label,
                    repeat,
                    {key: value for key, value in done[str(repeat)].items() if key != "first"},
                    flush=True,
                )
    for label, done in known.items():
        one, eight = (statistics.median(each[key] for each in done.values()) for key in ("one", "eight"))
        first = sorted(seconds for each in done.values() for seconds in each["first"])
        p50, p99 = first[len(first) // 2], first[min(int(len(first) * 0.99), len(first) - 1)]
        print(f"{label:20} {one:7.1f} {eight:7.1f} tokens/s; first token {p50:.3f} s, p99 {p99:.3f} s")


def _gguf(model: str, folder: Path) -> Path:
    file = folder / "f32.gguf"
    if not file.exists():
        from lowregret.export.gguf.write import write_gguf
        from lowregret.export.merged.opened import opened

        folder.mkdir()
        with opened(model, (), lambda line: None) as weights:
            write_gguf(weights, file, "F32")
    return file


def adapters(arguments: argparse.Namespace) -> None:
    """64 adapters of rank 16: bytes, seconds, and 8 of them drawn together."""
    known = _known(arguments.out)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        size = _write_adapters(arguments.model, folder, arguments.count)
        with ours(arguments.model, arguments.threads, "--adapter-root", str(folder), "--prefix-memory", "0") as server:
            rate(server, ROWS, -1)
            before, seconds = _resident(server.process), []
            for number in range(arguments.count):
                began = time.perf_counter()
                _post(server, "/v1/load_lora_adapter", {"lora_name": f"a{number}", "lora_path": f"a{number}"})
                seconds.append(time.perf_counter() - began)
            after = _resident(server.process)
            alone, eight = [], []
            for repeat in range(arguments.repeats):
                alone.append(rate(server, ROWS, repeat))
                eight.append(_different(server, repeat))
    known |= {
        "adapters": arguments.count,
        "bytes": size,
        "resident_bytes": after - before,
        "load_seconds": sorted(seconds),
        "base_tokens_per_second": alone,
        "eight_adapters_tokens_per_second": eight,
    }
    _keep(arguments.out, known)
    ratio = statistics.median(eight) / statistics.median(alone)
    print(
        f"{arguments.count} adapters: {(after - before) / size:.2f} x their bytes, {max(seconds):.3f} s at most; "
        f"8 different ones {ratio:.2f} x the base alone"
    )


def _different(server: Contender, seed: int) -> float:
    """Tokens a second of 8 clients, each of which asks another adapter."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(10, 900) for _ in range(READ)] for _ in range(ROWS)]

    def ask(row: int) -> None:
        path, body = server.body(prompts[row], DRAWN, False)
        _post(server, path, {**body, "model": f"a{row}"})

    began = time.perf_counter()
    _at_once(ask, ROWS)
    return ROWS * DRAWN / (time.perf_counter() - began)


def _write_adapters(model: str, folder: Path, count: int, ranks: Sequence[int] = (16,)) -> int:
    """Random adapters as files a0, a1, …; bytes of all weights."""
    import torch

    from lowregret.engine import Engine
    from lowregret.export.peft import export_policy
    from lowregret.models.load import load_base
    from lowregret.spec import LoRA

    engine = Engine(load_base(resolve(model)))
    size = 0
    for number in range(count):
        policy: Any = engine.add_policy("a", LoRA(rank=ranks[number % len(ranks)]), seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for adapter in policy.adapters.values():
                adapter.b.copy_(0.1 * torch.randn(adapter.b.shape, generator=generator))
        size += export_policy(engine, "a", folder / f"a{number}")
        engine.remove_policy("a")
    return size


def soak(arguments: argparse.Namespace) -> None:
    """Chunks of requests to one server; a wrong answer, a hang or a leak is told."""
    known = _known(arguments.out)
    chunks = known.setdefault("chunks", [])
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        _write_adapters(arguments.model, folder, 6, (4, 8, 16))
        expected = _expected(arguments.model, folder)
        with ours(arguments.model, arguments.threads, "--adapter-root", str(folder), "--max-rows", "16") as server:
            while sum(chunk["requests"] for chunk in chunks) < arguments.requests:
                size = min(500, arguments.requests)
                chunks.append(_chunk(server, expected, len(chunks), size))
                _keep(arguments.out, known)
                print(chunks[-1], flush=True)
    wrong, total = (sum(chunk[key] for chunk in chunks) for key in ("wrong", "requests"))
    grown = chunks[-1]["resident_bytes"] - chunks[min(1, len(chunks) - 1)]["resident_bytes"]
    print(f"{total} requests, {wrong} wrong; memory grew by {grown / 1e6:.1f} MB since the second chunk")


Key = tuple[int, int, int]
"""Adapter (-1 for the base), prompt and seed."""


def _prompt(number: int) -> list[int]:
    """Every second one begins with the same 40 tokens."""
    draw = random.Random(number)
    begin = random.Random("all").choices(range(10, 900), k=40) if number % 2 else []
    return [*begin, *(draw.randrange(10, 900) for _ in range(8))]


def _expected(model: str, folder: Path) -> dict[Key, str]:
    """What the engine draws for each request alone."""
    from lowregret.engine import Engine, SamplingParams
    from lowregret.export.peft import load_adapter
    from lowregret.models.load import load_base

    engine = Engine(load_base(resolve(model)))
    found: dict[Key, str] = {}
    for adapter in range(-1, 6):
        name = "base" if adapter < 0 else f"a{adapter}"
        if adapter >= 0:
            load_adapter(engine, name, folder / name)
        for prompt in range(6):
            for seed in range(2):
                params = SamplingParams(max_tokens=8, temperature=0.7, seed=seed)
                (drawn,) = engine.sample({name: [_prompt(prompt)]}, params)[name]
                text = engine.base.tokenizer.decode(drawn.token_ids, skip_special_tokens=True)
                found[adapter, prompt, seed] = str(text)
    return found


def _chunk(server: Contender, expected: dict[Key, str], number: int, size: int) -> dict[str, Any]:
    """So many requests of 8 clients, each of which loads an adapter of its own from time to time."""
    counts = {"requests": 0, "wrong": 0, "left": 0, "loads": 0}
    lock = threading.Lock()

    def client(which: int) -> None:
        draw = random.Random(f"{number} {which}")
        own: int | None = None
        for _ in range(size // ROWS):
            if draw.random() < 0.1 or own is None:
                if own is not None and draw.random() < 0.5:
                    _post(server, "/v1/unload_lora_adapter", {"lora_name": f"w{which}"})
                    own = None
                new = draw.randrange(6)
                load = {"lora_name": f"w{which}", "lora_path": f"a{new}", "load_inplace": True}
                _post(server, "/v1/load_lora_adapter", load)
                own = new
                with lock:
                    counts["loads"] += 1
            adapter = draw.choice([-1, own])
            key = (adapter, draw.randrange(6), draw.randrange(2))
            path, body = server.body(_prompt(key[1]), 8, False)
            model = body["model"] if adapter < 0 else f"w{which}"
            asked = {**body, "model": model, "temperature": 0.7, "seed": key[2]}
            if draw.random() < 0.1:
                _leave(server, path, {**asked, "stream": True, "max_tokens": 200})
                with lock:
                    counts["left"] += 1
                    counts["requests"] += 1
                continue
            said = _post(server, path, asked)["choices"][0]["text"]
            with lock:
                counts["requests"] += 1
                counts["wrong"] += said != expected[key]
        if own is not None:
            _post(server, "/v1/unload_lora_adapter", {"lora_name": f"w{which}"})

    began = time.perf_counter()
    _at_once(client, ROWS)
    seconds = time.perf_counter() - began
    return {**counts, "seconds": round(seconds, 1), "resident_bytes": _resident(server.process)}


def _post(server: Contender, path: str, body: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection(server.address, timeout=120)
    connection.request(
        "POST", path, to_json(body), {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    )
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {text[:500]!r}")
    return json.loads(text) if text.startswith(b"{") else text


def _leave(server: Contender, path: str, body: dict[str, Any]) -> None:
    """Ask, and close the connection after the first bytes of the answer."""
    connection = http.client.HTTPConnection(server.address, timeout=120)
    connection.request(
        "POST", path, to_json(body), {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    )
    connection.getresponse().readline()
    connection.close()


def _resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS")


def _known(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def _keep(out: Path, known: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    partial.write_text(to_json(known, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "adapters", "soak"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--each", type=int, default=8, help="requests of each of the 16 clients")
    parser.add_argument("--count", type=int, default=64, help="adapters")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--without", nargs="*", default=[], choices=["llama", "transformers"])
    parser.add_argument("--vllm", type=Path, help="a Python that has vLLM: its server is measured too")
    arguments = parser.parse_args()
    {"speed": speed, "adapters": adapters, "soak": soak}[arguments.part](arguments)


if __name__ == "__main__":
    main()

"""The memory of a rank while a base is loaded (whole, whole and then cut, or part by part; in parts by FSDP2, with its
matrices cut over tensor ranks, or both) and in a pass afterwards.

    python -m benchmarks.sharded_load --out docs/results/sharded_load.json

A base of the Llama kind with random weights in bfloat16, some 100 MB, is made in a temporary folder (`TMPDIR`), which
is removed. Each way runs in processes of its own (gloo), in float32: the base is put where it computes, as an engine
does it (a cut one is tried on a short row then, whole and in parts), and then computes two rows. Every process watches
itself in /proc every 2 ms (Linux): pages of its own, and pages of the files that it reads, which the system takes back
when they are needed elsewhere. What it held before is taken off. The C library is told (MALLOC_MMAP_THRESHOLD_) to give
large pieces back when they are freed: it would keep some for later.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.placing import place
from lowregret.models.bare import bare_base
from lowregret.models.files import BUNDLED
from lowregret.models.load import Base, load_base, resolve
from lowregret.strict_json import to_json


@dataclass(frozen=True)
class Way:
    """How a base is loaded."""

    ranks: int
    tensor: int = 1
    reads: bool = True
    """Whether each rank reads its part; else all, and cuts then."""


WAYS = {
    "whole": Way(1, reads=False),
    "whole, then cut": Way(2, reads=False),
    "part by part": Way(2),
    "part by part, four ranks": Way(4),
    "tensor, whole, then cut": Way(2, tensor=2, reads=False),
    "tensor, part by part": Way(2, tensor=2),
    "fsdp and tensor, part by part": Way(4, tensor=2),
}
LAYERS, HIDDEN, INNER, VOCABULARY = 12, 512, 1536, 16384


def make_base(folder: Path) -> int:
    """The bytes of its weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED / "tiny").save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size


class Watch:
    """The most that this process holds of each kind of page, beyond what it held at the start."""

    def __init__(self) -> None:
        self.start = self._most = _held()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.002):
            now = _held()
            self._most = {kind: max(known, now[kind]) for kind, known in self._most.items()}

    def end(self) -> dict[str, int]:
        self._done.set()
        self._thread.join()
        return {kind: most - self.start[kind] for kind, most in self._most.items()}


def _held() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = dict(line.split(":", 1) for line in lines if ":" in line)
    return {kind: int(held[kind].split()[0]) * 1024 for kind in ("RssAnon", "RssFile")}


def work(folder: Path, way: str, rank: int) -> None:
    """One rank."""
    torch.set_num_threads(1)
    how = WAYS[way]
    store = dist.FileStore(str(folder / way), how.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=how.ranks)
    ranks = Ranks.of_group("cpu", tensor=how.tensor)
    parts = ranks.shards.count > 1
    small = bare_base(resolve("tiny"), torch.float32)
    place(small, torch.device("cpu"), torch.float32, ranks, in_parts=parts, trains=False)
    _pass(small)  # what is imported when it is first used
    del small
    watch, began = Watch(), time.monotonic()
    source = resolve(str(folder / "base"))
    base = bare_base(source, torch.float32) if how.reads else load_base(source)
    place(base, torch.device("cpu"), torch.float32, ranks, in_parts=parts, trains=False)
    loading, seconds = watch.end(), time.monotonic() - began
    held, watch = _held()["RssAnon"] - watch.start["RssAnon"], Watch()
    _pass(base)
    found = {
        "seconds": round(seconds, 2),
        "loading_own_bytes": loading["RssAnon"],
        "loading_file_bytes": loading["RssFile"],
        "loaded_bytes": held,
        "passes_more_bytes": watch.end()["RssAnon"],
    }
    print(to_json(found))
    dist.destroy_process_group()


@torch.no_grad()
def _pass(base: Base) -> None:
    base.model(input_ids=torch.arange(2, 12)[None].expand(2, -1), use_cache=False)


def measure(folder: Path, way: str) -> dict[str, object]:
    """The most of any rank."""
    command = [sys.executable, "-m", "benchmarks.sharded_load", "--folder", str(folder), "--way", way, "--rank"]
    surroundings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=surroundings)
        for rank in range(WAYS[way].ranks)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{way}: a rank ended with {[process.returncode for process in started]}")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    return {"ranks": WAYS[way].ranks, **{key: max(one[key] for one in found) for key in found[0]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is not None:
        work(asked.folder, asked.way, asked.rank)
        return
    with tempfile.TemporaryDirectory(prefix="lowregret-load-") as place:
        size = make_base(Path(place) / "base")
        ways = {way: measure(Path(place), way) for way in WAYS}
    found = {"file_bytes": size, "float32_bytes": 2 * size, "torch": torch.__version__, "ways": ways}
    print(to_json(found, indent=2))
    if asked.out:
        asked.out.write_text(to_json(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

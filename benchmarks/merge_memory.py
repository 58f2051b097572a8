"""The memory and the time that a merge takes: the shapes of Llama 3 70B, a few of its layers.

    python -m benchmarks.merge_memory --layers 3 --out docs/results/merge_memory.json

The base is made of files that are holes (zeros that take no room on the disk), cut as the hub has them, and the adapter
has rank 16 on every matrix, the unembedding included. The merged model is written in full: 1.7 GB a layer and 4.2 GB
for embedding and unembedding. Everything goes into a temporary folder (`TMPDIR`), which is removed. What the process
holds is read from /proc every 20 ms (Linux): pages of its own, and pages of the files it reads, which the system takes
back when they are needed elsewhere.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from lowregret.models.files import BUNDLED
from lowregret.models.tensor_file import Entry, header
from lowregret.strict_json import to_json

HIDDEN, INNER, KEYS, VOCABULARY, LAYERS = 8192, 28672, 1024, 128256, 80
"""Of Llama 3 70B, by its config.json."""
RANK = 16
SHARD = 5 * 10**9
_MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def adapted(layers: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """(matrix, its outputs and inputs) of all that the adapter is on."""
    for layer in range(layers):
        for name, shape in _MATRICES.items():
            yield f"model.layers.{layer}.{name}", shape
    yield "lm_head", (VOCABULARY, HIDDEN)


def weights(layers: int) -> Iterator[Entry]:
    """All tensors of the base."""
    yield Entry("model.embed_tokens.weight", (VOCABULARY, HIDDEN), torch.bfloat16)
    for layer in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield Entry(f"model.layers.{layer}.{norm}.weight", (HIDDEN,), torch.bfloat16)
    yield Entry("model.norm.weight", (HIDDEN,), torch.bfloat16)
    for name, shape in adapted(layers):
        yield Entry(f"{name}.weight", shape, torch.bfloat16)


def make_base(folder: Path, layers: int) -> None:
    """Files of zeros that are not there, and the settings and the tokenizer that every base has."""
    shards: list[list[Entry]] = [[]]
    for entry in weights(layers):
        if sum(other.bytes for other in shards[-1]) + entry.bytes > SHARD:
            shards.append([])
        shards[-1].append(entry)
    folder.mkdir()
    place = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        beginning, _ = header(shard)
        file.write_bytes(beginning)
        os.truncate(file, len(beginning) + sum(entry.bytes for entry in shard))
        place |= {entry.name: file.name for entry in shard}
    (folder / "model.safetensors.index.json").write_text(to_json({"metadata": {}, "weight_map": place}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(to_json(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(BUNDLED / "tiny" / name, folder / name)


def make_adapter(folder: Path, layers: int) -> int:
    """Random A and B in float32; the bytes of its file."""
    folder.mkdir()
    tensors = {}
    for name, (outputs, inputs) in adapted(layers):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, inputs)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, RANK)
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    names = sorted({name.rpartition(".")[2] for name, _ in adapted(1)})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": names, "bias": "none"}
    (folder / "adapter_config.json").write_text(to_json(config))
    return (folder / "adapter_model.safetensors").stat().st_size


def watched(command: list[str]) -> dict[str, float]:
    """Run it to its end; the most that it held at a time, in bytes, and its seconds."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    most = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        held = dict(line.split(":", 1) for line in lines if ":" in line)
        for key, known in most.items():
            if key in held:
                most[key] = max(known, int(held[key].split()[0]) * 1024)
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "peak_own_bytes": most["RssAnon"],
        "peak_of_files_bytes": most["RssFile"],
        "peak_bytes": most["VmHWM"],
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(computing, 1),
    }


def measure(layers: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="lowregret-merge-") as place:
        folder = Path(place)
        make_base(folder / "base", layers)
        adapter = make_adapter(folder / "adapter", layers)
        size = sum(entry.bytes for entry in weights(layers))
        program = str(Path(sys.executable).with_name("lowregret"))
        base = ["merge", "--model", str(folder / "base"), "--adapter", str(folder / "adapter")]
        idle = watched([sys.executable, "-c", "import lowregret.export.merged.opened, lowregret.export.merged.write"])
        found = watched([program, *base, "--out", str(folder / "out")])
        written = sum(file.stat().st_size for file in (folder / "out").glob("*.safetensors"))
    whole = sum(entry.bytes for entry in weights(LAYERS))
    whole_adapter = 4 * RANK * sum(outputs + inputs for _, (outputs, inputs) in adapted(LAYERS))
    own = int(found["peak_own_bytes"]) + whole_adapter - adapter
    return {
        "layers": layers,
        "base_bytes": size,
        "written_bytes": written,
        "adapter_bytes": adapter,
        "largest_tensor_bytes": max(entry.bytes for entry in weights(layers)),
        "imports_alone_bytes": idle["peak_bytes"],
        **found,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "derived": {
            "what": f"Llama 3 70B, {LAYERS} layers: the same tensors more often, an adapter as many times as large",
            "base_bytes": whole,
            "own_bytes": own,
            "bytes": own + int(found["peak_of_files_bytes"]),
            "processor_seconds": round(found["processor_seconds"] * whole / size),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = measure(asked.layers)
    print(to_json(found, indent=2))
    if asked.out:
        asked.out.write_text(to_json(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

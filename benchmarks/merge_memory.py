"""The memory that `lowregret merge` takes on matrices as large as those of Llama 3 70B.

    python benchmarks/merge_memory.py --folder DISK --out docs/results/merge_memory.json

A few layers of that model are made as files with holes, which read as zeros and take no disk; the merged folder does:
3.4 GB a pair of layers, and 4.2 GB for embedding and unembedding. Both are deleted. What a merge holds does not grow
with the number of layers, but for the adapter itself, so that the peak of all 80 is that of a few and the rest of the
adapter, which is added here and marked as derived.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

HIDDEN, INNER, KEYS, VOCABULARY, LAYERS = 8192, 28672, 1024, 128256, 80
"""Of meta-llama/Meta-Llama-3-70B's config.json; keys and values have 8 heads of 128."""
RANK = 16
_ADAPTED = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
"""[d_out, d_in] of each matrix of a layer."""
_FIELDS = ("VmHWM", "RssAnon", "RssFile")


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every weight."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        yield from ((f"model.layers.{layer}.{name}.weight", shape) for name, shape in _ADAPTED.items())
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_base(folder: Path, layers: int, shard: int) -> None:
    """The base in bfloat16, its shards full of holes, with the bundled tokenizer."""
    from transformers import LlamaConfig

    from lowregret.models.files import BUNDLED

    folder.mkdir()
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / "tiny" / name, folder)
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors(layers):
        if files[-1] and 2 * (sum(map(prod, files[-1].values())) + prod(shape)) > shard:
            files.append({})
        files[-1][name] = shape
    place = {}
    for number, held in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        _with_holes(folder / file, held)
        place |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def _with_holes(file: Path, held: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in held.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def write_adapter(folder: Path, base: Path, layers: int) -> int:
    """A LoRA on every matrix and the unembedding, random; returns its bytes in each layer."""
    import safetensors.torch
    import torch

    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    found = {}
    places = {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in _ADAPTED.items()}
    for name, (d_out, d_in) in {**places, "lm_head": (VOCABULARY, HIDDEN)}.items():
        found[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, d_in, generator=generator) / 100
        found[f"base_model.model.{name}.lora_B.weight"] = torch.randn(d_out, RANK, generator=generator) / 100
    safetensors.torch.save_file(found, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": [*(name.rpartition(".")[2] for name in _ADAPTED), "lm_head"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return sum(4 * RANK * sum(shape) for shape in _ADAPTED.values())


def watched(command: list[str]) -> tuple[dict[str, int], float]:
    """(the largest of each of `_FIELDS` in bytes, seconds) of a process; Linux's /proc tells them."""
    began = time.perf_counter()
    most = dict.fromkeys(_FIELDS, 0)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        for line in lines:
            key, _, value = line.partition(":")
            if key in most:
                most[key] = max(most[key], 1024 * int(value.split()[0]))
        time.sleep(0.02)
    print(process.communicate()[0])
    if process.returncode:
        raise SystemExit(process.returncode)
    return most, time.perf_counter() - began


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        base, adapter, out = (Path(name) / part for part in ("base", "adapter", "merged"))
        write_base(base, asked.layers, 5 * 10**9)
        a_layer = write_adapter(adapter, base, asked.layers)
        program = "import sys; from lowregret.cli.main import main; sys.exit(main())"
        most, seconds = watched(
            [sys.executable, "-c", program, "merge", "--model", str(base), "--adapter", str(adapter), "--out", str(out)]
        )
        written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        largest_file = max(file.stat().st_size for file in out.glob("*.safetensors"))
    found = {
        "layers": asked.layers,
        "rank": RANK,
        "bytes_written": written,
        "largest_file": largest_file,
        "largest_matrix_in_float32": 4 * VOCABULARY * HIDDEN,
        "seconds": round(seconds, 1),
        "peak_resident": most["VmHWM"],
        "peak_of_its_own": most["RssAnon"],
        "peak_of_mapped_files": most["RssFile"],
        "derived_for_80_layers": {
            "bytes": 2 * sum(prod(shape) for _, shape in tensors(LAYERS)),
            "peak_of_its_own": most["RssAnon"] + (LAYERS - asked.layers) * a_layer,
        },
    }
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()

"""The same base and adapters served by vLLM: its command, and what it is given of the environment.

vLLM is no dependency: it is the program of this name on the path. What is used of it: `vllm serve` with --enable-lora,
--lora-modules and VLLM_API_KEY (docs.vllm.ai, CLI reference and LoRA adapters).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.addresses import require_key
from lowregret.errors import SpecError
from lowregret.foreign_text import last_part
from lowregret.lora.formats.peft import read_adapter_config
from lowregret.models.load import resolve
from lowregret.runs.commands import VLLM_RANKS
from lowregret.spec.serve import ServeSpec

TAKEN = ("engine", "host", "port", "max_rows", "precision")
"""Fields of the spec that mean something to vLLM."""
_OURS = ("--host", "--port", "--api-key")
"""Words of vLLM's that would open an address without a key, or show the key to others on the machine."""
_OWN = "It is of use with --engine own alone: leave it out."


@dataclass(frozen=True)
class Start:
    """A program to become."""

    program: str
    arguments: tuple[str, ...]
    """With the program's name first."""
    environment: Mapping[str, str]


def refused(folder: Path) -> str | None:
    """Why vLLM does not take an adapter as it is; None where it does."""
    config = read_adapter_config(folder)
    if config.get("use_dora"):
        return "DoRA"
    rank = int(config["r"])
    return None if rank <= VLLM_RANKS[-1] else f"rank {rank}, above {VLLM_RANKS[-1]}"


def start(
    model: str,
    spec: ServeSpec,
    *,
    given: Collection[str],
    adapters: Mapping[str, Path],
    name: str | None,
    key: str | None,
    more: Sequence[str] = (),
) -> Start:
    """How vLLM serves a base and adapters that it takes.

    `given`: the spec's fields that were asked for. `more`: words of vLLM's own, which come last. SpecError for fields
    that vLLM has no word for, a base that is a GGUF file, an address that others reach without a key, and where there
    is no vLLM.
    """
    for field in given:
        if field not in TAKEN:
            raise SpecError(
                f"--{field.replace('_', '-')}: vLLM has its own ways there, which --vllm 'ITS OPTIONS' tells it. {_OWN}"
            )
    for word in more:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in _OURS:
            raise SpecError(f"--vllm: {flag} is a flag of `lowregret serve`, too. Give it without --vllm.")
    require_key(spec.host, key)
    program = shutil.which("vllm")
    if program is None:
        raise SpecError("--engine vllm: there is no program `vllm` on the path. pip install vllm, or use --engine own.")
    source = resolve(model)
    if source.gguf_file:
        raise SpecError("--engine vllm takes a folder or a hub id, and not a GGUF file. Use --engine own.")
    called = name or (last_part(model) if Path(model).exists() else model)
    arguments = ["vllm", "serve", source.path, "--served-model-name", called]
    arguments += ["--host", spec.host, "--port", str(spec.port), "--max-num-seqs", str(spec.max_rows)]
    arguments += ["--dtype", spec.precision]
    if adapters:
        ranks = [int(read_adapter_config(folder)["r"]) for folder in adapters.values()]
        room = next(rank for rank in VLLM_RANKS if rank >= max(ranks))
        arguments += [
            "--enable-lora",
            "--max-lora-rank",
            str(room),
            "--max-loras",
            str(len(adapters)),
            "--lora-modules",
        ]
        arguments += [f"{adapter}={folder.resolve()}" for adapter, folder in adapters.items()]
    environment = {name: value for name, value in os.environ.items() if name != "LOWREGRET_API_KEY"}
    return Start(program, (*arguments, *more), environment | ({} if key is None else {"VLLM_API_KEY": key}))

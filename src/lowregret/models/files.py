"""Which files a base consists of. Torch-free."""

from __future__ import annotations

import json
import os
import re
from glob import escape
from itertools import chain
from pathlib import Path

from lowregret.folders import expanded, user_cache

BUNDLED = Path(__file__).parent / "bundled"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them; each may have an index of parts beside it, as NAME.index.json."""
_SETTINGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
_BESIDE = ("*processor_config.json", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""What else belongs to a base: how it reads images, and on what terms it may be used."""
_GGUF_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def bundled_names() -> list[str]:
    """The bases that come with the package."""
    return sorted(config.parent.name for config in BUNDLED.glob("*/config.json"))


def is_bundled(name: str) -> bool:
    """Whether a name means a base that comes with the package: a base of the user's own in a folder of that name wins,
    a damaged one too; a folder of something else, such as a run's, does not."""
    path = Path(name)
    if name not in bundled_names() or path.is_file():
        return False
    return not any(chain(path.glob("config.json"), path.glob("*model*.safetensors"), path.glob("*model*.bin")))


def folder_of(name: str) -> Path | None:
    """The folder on this machine that `name` means, where its tokenizer lies too; None when there is none."""
    path = expanded(name)
    if is_bundled(name):
        return BUNDLED / name
    if path.is_dir():
        return path
    return cached_snapshot(name)


def cached_snapshot(name: str) -> Path | None:
    """The folder of the newest snapshot of a hub id in the local cache, if its config.json is there."""
    if name.count("/") != 1:
        return None
    home = Path(os.environ.get("HF_HOME") or user_cache() / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    repository = expanded(cache) / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / "main"
    if reference.is_file():
        snapshot = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if (snapshot / "config.json").is_file():
            return snapshot
    configs = sorted(repository.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime)
    return configs[-1].parent if configs else None


def base_files(asked: str) -> dict[str, Path]:
    """Name → file, of all by which a base and its tokenizer are loaded: weights, settings, vocabulary, templates.

    Empty for a base that is not on this machine.
    """
    path = Path(asked)
    if path.suffix == ".gguf":
        parts = _GGUF_PART.search(path.name)
        beside = f"{escape(path.name[: parts.start()])}-*-of-{parts[1]}.gguf" if parts else escape(path.name)
        return {file.name: file for file in sorted(path.parent.glob(beside))}
    folder = folder_of(asked)
    if folder is None:
        return {}
    found = [*weights_used(folder), *(folder / name for name in _SETTINGS)]
    found += [file for name in TOKENIZER for file in sorted(folder.glob(name))]
    return {str(file.relative_to(folder)): file for file in found if file.is_file()}


def companions(folder: Path) -> dict[str, Path]:
    """Name → file, of what goes with a base's weights wherever they go, but for its config.json and
    generation_config.json: tokenizer, chat templates, terms."""
    found = [file for name in (*TOKENIZER, *_BESIDE) for file in sorted(folder.glob(name))]
    return {str(file.relative_to(folder)): file for file in found if file.is_file()}


def weights_used(folder: Path) -> list[Path]:
    """The files that transformers reads a folder's weights from, and the index that names them; others may lie there.

    Empty where it finds none.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                parts = set(json.loads(index.read_bytes())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                return [index]  # whoever loads it says what is wrong
            return [index, *(folder / part for part in sorted(map(str, parts)))]
    return []

"""A base by its name and adapters by their folders, ready to be merged: nothing of the weights is in memory yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lowregret.errors import ModelError
from lowregret.export.adapter import fit_adapter, same_name
from lowregret.export.merged.places import Places
from lowregret.export.merged.weights import Added, MergedWeights
from lowregret.export.peft import write_model
from lowregret.export.weights import StoredWeights
from lowregret.lora.formats.peft import read_adapter_config
from lowregret.lora.formats.selection import CONFIG_NAME
from lowregret.models.bare import bare_model
from lowregret.models.files import base_files, folder_of
from lowregret.models.load import Source, load_base, resolve
from lowregret.models.stops import write_stops
from lowregret.runs.atomic import writing
from lowregret.runs.files import MANIFEST
from lowregret.runs.manifest import digests, manifest_over
from lowregret.runs.shipped import require_as_shipped

_WEIGHTS = (".safetensors", ".bin", ".gguf")


@contextmanager
def opened(
    model: str | None,
    adapters: Sequence[tuple[Path, float]] = (),
    dtype: torch.dtype | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[MergedWeights]:
    """Find a base and put adapters on it, each with what its update is multiplied by.

    Args:
        model: a Hugging Face folder, a hub id in the local cache, a bundled base, or a .gguf file, which is
            dequantised into a temporary folder, as float32. None is for the one that the adapters name.
        adapters: folders in PEFT's format.
        dtype: as in `MergedWeights`.
        say: is told of what may be wrong and is no error.

    Raises:
        ModelError: the base cannot be found or is quantised, an adapter does not fit it, or was trained on other
            weights by the record of its run; adapters name several bases.
        RecordsError: an adapter of a run is not what the run has shipped.
    """
    for folder, _ in adapters:
        require_as_shipped(folder)
    asked = model or named_base([folder for folder, _ in adapters])
    source = resolve(asked)
    for folder, _ in adapters:
        for line in _other_content(folder, asked):
            say(line)
    with ExitStack() as held:
        folder = _folder(source) if source.gguf_file is None else held.enter_context(_dequantised(source))
        stored = held.enter_context(StoredWeights(folder))
        places = Places(bare_model(Source(asked, str(folder))), stored.names, asked)
        added = [Added(fit_adapter(places.model, places.matrices, path), weight) for path, weight in adapters]
        weights = MergedWeights(stored, places, added, dtype)
        for each in added:
            each.adapter.refuse_other_base(weights.own)
            for line in (*each.adapter.lacking(places.matrices), *each.adapter.other_name(asked)):
                say(line)
        yield weights


def named_base(adapters: Sequence[Path]) -> str:
    """The base that the adapters' configurations name; ModelError when one names none, or another than the first."""
    first = ""
    for folder in adapters:
        named = read_adapter_config(folder).get("base_model_name_or_path")
        if not named:
            raise ModelError(f"{folder / CONFIG_NAME}: names no base. Name it with --model.")
        first = first or named
        if not same_name(first, named):
            raise ModelError(
                f"{folder / CONFIG_NAME}: was made on {named}, and {adapters[0]} on {first}. Adapters of one base can "
                "be added; if it is one under two names, name it with --model."
            )
    return first


def _folder(source: Source) -> Path:
    found = folder_of(source.path)
    if found is None:
        raise ModelError(
            f"{source.asked}: is no folder, no .gguf file and no bundled base, and as a hub id it is not in the local "
            f"cache. Fetch it first (hf download {source.asked}), or give a folder."
        )
    return found


@contextmanager
def _dequantised(source: Source) -> Iterator[Path]:
    """A .gguf file as a folder of float32, for as long as it is needed."""
    base = load_base(source)
    with TemporaryDirectory(prefix="lowregret-gguf-") as name:
        folder = Path(name)
        with writing(folder):
            write_model(base, folder)
            write_stops(base, folder)
        del base
        yield folder


def _other_content(adapter: Path, model: str) -> Iterator[str]:
    """ModelError when the run that an adapter is of was trained on other weights than the base has, by their SHA-256;
    a sentence when that cannot be told."""
    run = manifest_over(adapter)
    if run is None:
        return
    record = run[0] / MANIFEST
    files = {name: file for name, file in base_files(model).items() if name.endswith(_WEIGHTS)}
    trained = {name: digest for name, digest in run[1].base.items() if name.endswith(_WEIGHTS)}
    if not files.keys() & trained.keys():
        yield (
            f"warning: {record} has {', '.join(sorted(trained)) or 'no file'} as the weights that {adapter} was "
            f"trained on, and {model} has no file of that name: whether they are the same is not known."
        )
        return
    now = digests({name: file for name, file in files.items() if name in trained})
    if other := sorted(name for name, digest in now.items() if digest != trained[name]):
        raise ModelError(
            f"{model}: its {other[0]} is not the one that {adapter} was trained on, by {record}: it is another base. "
            "Give the one that it was trained on as --model."
        )

"""From what a user names to weights: any base, with adapters or without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download

from lowregret.errors import LowregretError, ModelError
from lowregret.export.adapter import fit_adapter, same_name
from lowregret.export.merged.weights import MergedWeights
from lowregret.export.peft import write_model
from lowregret.export.weights import StoredWeights, Weights
from lowregret.lora.formats.peft import read_adapter_config
from lowregret.lora.formats.selection import CONFIG_NAME
from lowregret.models.bare import bare_model
from lowregret.models.files import base_files, weights_used
from lowregret.models.load import Source, explaining, load_base, load_config, resolve
from lowregret.models.quantised import in_nf4, refuse_quantised
from lowregret.models.stops import write_stops
from lowregret.models.targets import matrices
from lowregret.runs.files import SPEC
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import digests, manifest_over

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_FETCHED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*")


@contextmanager
def opened(
    model: str | None, adapters: Sequence[tuple[Path, float]] = (), say: Callable[[str], None] = lambda line: None
) -> Iterator[Weights]:
    """The weights of a base, with each adapter's update times its share added; closed when the context ends.

    Args:
        model: a Hugging Face folder, a hub id, a bundled name or a .gguf file, which is dequantised; None is for the
            base that the adapters name, which must be one.
        adapters: folders in PEFT's format.
        say: is told what a user should know of an adapter that can be merged.

    ModelError when the base or an adapter cannot be read, when they do not fit each other, and for another base than
    the run that an adapter lies in was trained on.
    """
    source = resolve(model if model is not None else named_base([folder for folder, _ in adapters]))
    for folder, _ in adapters:
        _require_trained_on(source.asked, folder)
    with _folder(source) as place, StoredWeights(place) as stored:
        if not adapters:
            yield stored
            return
        base = bare_model(Source(source.asked, str(place)))
        known = matrices(base)
        fitted = [(fit_adapter(base, known, folder), share) for folder, share in adapters]
        for adapter, _ in fitted:
            for line in (*adapter.lacking(known), *adapter.other_name(source.asked)):
                say(line)
        yield MergedWeights(stored, fitted, base)


def named_base(adapters: Sequence[Path]) -> str:
    """The base that adapters name; ModelError when one names none, or they name several."""
    named: dict[str, Path] = {}
    for folder in adapters:
        base = read_adapter_config(folder).get("base_model_name_or_path")
        if not base:
            raise ModelError(f"{folder / CONFIG_NAME}: names no base. Name it with --model.")
        if other := next((name for name in named if not same_name(name, base)), None):
            raise ModelError(
                f"{folder / CONFIG_NAME}: names the base {base}, and {named[other] / CONFIG_NAME} names {other}. "
                "Adapters of several bases cannot be merged; if it is one base, name it with --model."
            )
        named.setdefault(base, folder)
    return next(iter(named))


def _require_trained_on(asked: str, adapter: Path) -> None:
    """ModelError when the run that the adapter lies in was trained on other weights, by their hashes.

    Files of other names, such as the same weights cut otherwise, say nothing.
    """
    found = manifest_over(adapter)
    if found is None:
        return
    run, manifest = found
    if _was_packed(run):  # it is merged into the original
        return
    files = base_files(asked)
    both = {name: files[name] for name in manifest.base if name in files and files[name].suffix in _WEIGHTS}
    now = digests(both)
    if changed := [name for name in both if now[name] != manifest.base[name]]:
        raise ModelError(
            f"{asked}: its {changed[0]} is not the one that the run in {run} was trained on, by its hash: the adapter "
            f"belongs to another base. Name that with --model ({run / SPEC} has its name)."
        )


def _was_packed(run: Path) -> bool:
    """Whether the files of a run's base, which is still there, are in NF4."""
    try:
        return in_nf4(load_config(resolve(str(stored_spec(run / SPEC)["spec"].get("model")))).to_dict())
    except LowregretError:
        return False


@contextmanager
def _folder(source: Source) -> Iterator[Path]:
    """A folder with the base's weights as safetensors: its own; else what transformers makes of it, for as long as the
    context lasts."""
    path = Path(source.path)
    if source.gguf_file is None:
        refuse_quantised(load_config(source).to_dict(), source.asked)  # before its weights are fetched
        if not path.is_dir():
            with explaining(source):
                path = Path(snapshot_download(source.path, allow_patterns=list(_FETCHED)))
        used = weights_used(path)
        if not used or any(file.suffix == ".safetensors" for file in used):
            yield path
            return
    with tempfile.TemporaryDirectory(prefix="lowregret-") as made:
        base = load_base(source)
        write_model(base, Path(made))
        write_stops(base, Path(made))
        del base
        yield Path(made)

"""`lowregret merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.options import option
from lowregret.cli.outcome import aside, say, say_json
from lowregret.errors import ModelError, SpecError, did_you_mean
from lowregret.runs.files import ADAPTER_CONFIG, adapter_in, model_in

_TYPES = ("float32", "bfloat16", "float16")
_GIGABYTE = 10**9
_LARGEST_SHARE = 1e6


@verb("merge")
def merge(
    *,
    out: Annotated[Path, option("A new folder for the merged model.")],
    model: Annotated[
        str | None,
        option(
            "The base: a Hugging Face folder, a hub id, a .gguf file or a bundled base. (default: the one that the "
            "adapters name)"
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        option(
            "A folder with an adapter in PEFT's format, or of a run; FOLDER:SHARE multiplies what it adds. "
            "Give it again for the sum of several; without any, the base is written as it is. (default share: 1)"
        ),
    ] = None,
    dtype: Annotated[
        str | None, option("float32, bfloat16 or float16. (default: each weight as the base stores it)")
    ] = None,
    shard_size: Annotated[float | None, option("GB of the largest file of weights. (default: 5)")] = None,
    as_json: o.Json = False,
) -> None:
    """Sums are taken in float32 and rounded once, a matrix at a time, so that a model may be larger than the memory. An
    adapter that was trained on a quantised base is merged into the original: name that with --model.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise SpecError(f"--out {out}: is there already. Name a new folder for the model.")
    if dtype is not None and dtype not in _TYPES:
        raise SpecError(f"--dtype {dtype!r}: no such type. {did_you_mean(dtype, _TYPES)}")
    if shard_size is not None and not 0.001 <= shard_size <= 10**6:
        raise SpecError(f"--shard-size {shard_size:g}: is in GB, from 0.001 to a million.")
    adapters = [_share(given) for given in adapter or ()]
    if model is None and not adapters:
        raise SpecError(
            "--adapter: is missing. Name a folder with an adapter; or with --model alone a base to rewrite."
        )
    import torch

    from lowregret.export.merged.opened import opened
    from lowregret.export.merged.write import SHARD_BYTES, write_merged

    with opened(model, adapters, aside) as weights:
        written = write_merged(
            weights,
            out,
            dtype=None if dtype is None else getattr(torch, dtype),
            shard_bytes=SHARD_BYTES if shard_size is None else int(shard_size * _GIGABYTE),
        )
    kind, lost = str(written.dtype).removeprefix("torch."), written.updates_lost
    if as_json:
        found = {"dtype": kind, "bytes": written.bytes, "files": list(written.files), "updates_lost": lost}
        say_json({"written": str(out), **found})
        return
    count = len(written.files)
    say(f"{out}: {_what(adapters)} in {kind}, {written.bytes:,} bytes in {count} file{'s' if count > 1 else ''}")
    if lost is not None:
        say(f"rounding gave {lost:.2%} of the updated entries back to the base")


def _share(given: str) -> tuple[Path, float]:
    """(the adapter's folder, what multiplies it) of FOLDER or FOLDER:SHARE."""
    from lowregret.runs.shipped import require_as_shipped

    name, colon, text = given.rpartition(":")
    try:
        share = float(text) if colon and not Path(given).exists() else None
    except ValueError:
        share = None
    folder = Path(given if share is None else name)
    share = 1.0 if share is None else share
    if not abs(share) <= _LARGEST_SHARE:
        raise SpecError(f"--adapter {given}: {share:g} is no share. Give a number.")
    found = adapter_in(folder)
    if found is None:
        whole = model_in(folder)
        remedy = f"It has a trained base: --model {whole}." if whole else "Name a folder with an adapter."
        raise ModelError(f"--adapter {given}: {folder} holds no {ADAPTER_CONFIG}. {remedy}")
    require_as_shipped(found)
    return found, share


def _what(adapters: Sequence[tuple[Path, float]]) -> str:
    if not adapters:
        return "the base as it is"
    return " + ".join(f"{folder}" if share == 1 else f"{share:g} · {folder}" for folder, share in adapters) + " merged"

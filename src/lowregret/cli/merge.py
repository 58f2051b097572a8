"""`lowregret merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.options import option
from lowregret.cli.outcome import say_json
from lowregret.cli.ship import deliver
from lowregret.errors import ModelError, SpecError
from lowregret.runs.files import ADAPTER_CONFIG, adapter_in, model_in
from lowregret.runs.shipped import require_as_shipped
from lowregret.ship.winner import Winner, of_adapters

_LARGEST_SHARE = 1e6


@verb("merge")
def merge(
    *,
    out: Annotated[Path, option("A new folder for the merged model.")],
    model: Annotated[
        str | None,
        option(
            "The base: a Hugging Face folder, a hub id, a .gguf file, a bundled base or the folder of a run that has "
            "trained one. (default: the one that the adapters name)"
        ),
    ] = None,
    adapter: o.Adapters = None,
    dtype: o.Dtype = None,
    shard_size: o.ShardSize = None,
    as_json: o.Json = False,
) -> None:
    """Sums are taken in float32 and rounded once, a matrix at a time, so that a model may be larger than the memory. An
    adapter that was trained on a quantised base is merged into the original: name that with --model.
    """
    found = deliver(named(model, adapter), out, "merged", dtype, None, shard_size, quiet=as_json)
    if as_json:
        say_json(found)


def named(model: str | None, adapter: list[str] | None) -> Winner:
    """Adapters on a base, by their flags."""
    adapters = [_share(given) for given in adapter or ()]
    if model is None and not adapters:
        raise SpecError(
            "--adapter: is missing. Name a folder with an adapter; or with --model alone a base to rewrite."
        )
    return of_adapters(_base(model), adapters)


def _base(given: str | None) -> str | None:
    """What to open: of a run's folder the model that it has trained, as it was shipped."""
    whole = model_in(Path(given)) if given is not None else None
    if whole is None:
        return given
    require_as_shipped(whole)
    return str(whole)


def _share(given: str) -> tuple[Path, float]:
    """(the adapter's folder, what multiplies it) of FOLDER or FOLDER:SHARE."""
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

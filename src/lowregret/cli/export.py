"""`lowregret export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli import options as o
from lowregret.cli.outcome import aside, exit_codes

_ADAPTER = "adapter_config.json"


def export(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders that `lowregret study` has left; or one adapter's.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="A .csv or .parquet file, or a .db that optuna-dashboard opens; of an adapter, a new folder.",
            show_default=False,
        ),
    ],
    table: Annotated[
        str | None,
        typer.Option(help="trials, curves or claims; a .db has trials and curves. (default: trials)"),
    ] = None,
    each_expert: Annotated[
        bool,
        typer.Option(
            "--each-expert",
            help="Of an adapter: a plain LoRA for each matrix of each expert, which vLLM loads for most mixtures. "
            "Without it: PEFT's own format, back from the other too.",
        ),
    ] = False,
    model: o.Model = None,
) -> None:
    """Write the trials, curves or claims of studies for other programs, or an adapter in another program's format.

    An adapter is a folder with adapter_config.json, such as RUN/adapter or STUDY/best/lora. It is put on its base,
    which its configuration names unless --model does.
    """
    with exit_codes():
        from lowregret.errors import SpecError

        adapters = [folder for folder in folders if (folder / _ADAPTER).is_file()]
        if adapters:
            if len(folders) > 1:
                raise SpecError(f"{adapters[0]}: is an adapter, which is exported alone. Name no other folder with it.")
            if table is not None:
                raise SpecError(f"--table: is of use with studies only, and {adapters[0]} is an adapter. Leave it out.")
            typer.echo(_adapter(adapters[0], out, model, each_expert))
            return
        for given, flag in ((each_expert, "--each-expert"), (model, "--model")):
            if given:
                raise SpecError(f"{flag}: is of use with an adapter only; {folders[0]} holds no {_ADAPTER}.")
        typer.echo(_tables(folders, out, table or "trials"))


def _tables(folders: list[Path], out: Path, table: str) -> str:
    from lowregret.errors import SpecError, did_you_mean
    from lowregret.report.export import TABLES
    from lowregret.report.export import export as write
    from lowregret.report.finding import find_studies

    if table not in TABLES:
        raise SpecError(f"--table {table!r}: no such table. {did_you_mean(table, TABLES)}")
    return f"{out}: {write(find_studies(folders, aside), out, table)} rows"


def _adapter(folder: Path, out: Path, model: str | None, each_expert: bool) -> str:
    from lowregret.errors import ModelError, SpecError

    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise SpecError(f"--out {out}: is there already. Name a new folder for the adapter.")
    from lowregret.engine import Engine
    from lowregret.export.peft import export_policy, load_adapter
    from lowregret.models.load import load_base, resolve

    try:
        named = json.loads((folder / _ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{folder / _ADAPTER}: cannot be read: {error}.") from None
    base = model or named
    if not base:
        raise ModelError(f"{folder / _ADAPTER}: names no base. Name it with --model.")
    engine = Engine(load_base(resolve(base)), device="cpu", precision="float32")
    policy = load_adapter(engine, "adapter", folder)
    if each_expert and not any(matrix.experts for matrix in policy.matrices):
        raise SpecError(f"--each-expert: {folder} adapts no experts, so it has one format only. Leave the flag out.")
    size = export_policy(engine, "adapter", out, each_expert=each_expert)
    form = "a plain LoRA for each expert" if each_expert else "PEFT's format"
    return f"{out}: {policy.method.name.partition(':re:')[0]} in {form}, {size:,} bytes"

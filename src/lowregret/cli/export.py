"""`lowregret export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.merge import named
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, aside, say, say_json
from lowregret.cli.ship import deliver
from lowregret.errors import ModelError, SpecError, did_you_mean
from lowregret.runs.files import ADAPTER_CONFIG, adapter_in


@verb("export")
def export(
    *folders: Annotated[
        Path,
        positional("Folders that `lowregret study` or `compare` has left; or one with an adapter.", "FOLDER"),
    ],
    out: Annotated[
        Path,
        option("A .csv or .parquet file, or a .db that optuna-dashboard opens; of a model, a new folder."),
    ],
    format: Annotated[
        str | None,
        option(
            "Of adapters, or a base alone: peft, merged, gguf, gguf-lora or ollama, proved as `lowregret ship` does. "
            "They are named by --adapter."
        ),
    ] = None,
    adapter: o.Adapters = None,
    table: Annotated[
        str | None, option("trials, curves or claims; a .db has trials and curves. (default: trials)")
    ] = None,
    each_expert: Annotated[
        bool,
        option(
            "Of an adapter: a plain LoRA for each matrix of each expert, which vLLM loads for most mixtures. "
            "Without it: PEFT's own format, back from the other too."
        ),
    ] = False,
    model: Annotated[str | None, option("Of an adapter: its base. (default: the one that it names)")] = None,
    dtype: o.Dtype = None,
    kind: o.Kind = None,
    shard_size: o.ShardSize = None,
    as_json: o.Json = False,
) -> None:
    """An adapter is a folder with adapter_config.json, or a run's that has one: of `train` its own, of `compare`, where
    --out is no table, the best LoRA's (best/lora). It is put on its base, which its configuration names unless --model
    does.
    """
    if format is not None:
        for given, flag in ((folders, "FOLDER"), (table, "--table"), (each_expert, "--each-expert")):
            if given:
                raise SpecError(f"{flag}: is of no use with --format, whose adapters --adapter names. Leave it out.")
        made = deliver(named(model, adapter), out, format, dtype, kind, shard_size, quiet=as_json)
        if as_json:
            say_json(made)
        return
    for other, flag in ((adapter, "--adapter"), (dtype, "--dtype"), (kind, "--kind"), (shard_size, "--shard-size")):
        if other is not None:
            raise SpecError(f"{flag}: is of use with --format only. Say which.")
    if not folders:
        raise SpecError("FOLDER: is missing. Name a study's or a compare's, or say --format and --adapter.")
    from lowregret.cli.progress import activities_shown

    with activities_shown():
        found, words = _write(folders, out, table, each_expert, model)
    if as_json:
        say_json(found)
    else:
        say(words)


def _write(
    folders: Sequence[Path], out: Path, table: str | None, each_expert: bool, model: str | None
) -> tuple[dict[str, Any], str]:
    """What was written, as data and in words."""
    adapters = [adapter for folder in folders if (adapter := _adapter_in(folder, out)) is not None]
    if adapters:
        if len(folders) > 1:
            raise SpecError(f"{folders[0]}: holds an adapter, which is exported alone. Name no other folder with it.")
        if table is not None:
            raise SpecError(
                f"--table: is of use with studies only, compares among them, and {adapters[0]} is an adapter. "
                "Leave it out."
            )
        return _adapter(adapters[0], out, model, each_expert)
    for given, flag in ((each_expert, "--each-expert"), (model, "--model")):
        if given:
            raise SpecError(f"{flag}: is of use with an adapter only; {folders[0]} holds no {ADAPTER_CONFIG}.")
    return _tables(folders, out, table or "trials")


def _adapter_in(folder: Path, out: Path) -> Path | None:
    """The adapter that a folder is or has; None when it has none, or when `out` is a table of its trials."""
    from lowregret.report.export import FORMATS

    if out.suffix in FORMATS:
        return folder if (folder / ADAPTER_CONFIG).is_file() else None
    return adapter_in(folder)


def _tables(folders: Sequence[Path], out: Path, table: str) -> tuple[dict[str, Any], str]:
    from lowregret.report.export import TABLES
    from lowregret.report.export import export as write
    from lowregret.report.finding import find_studies

    if table not in TABLES:
        raise SpecError(f"--table {table!r}: no such table. {did_you_mean(table, TABLES)}")
    rows = write(find_studies(folders, aside, compares=True), out, table)
    return {"written": str(out), "table": table, "rows": rows}, f"{out}: {rows} rows"


def _adapter(folder: Path, out: Path, model: str | None, each_expert: bool) -> tuple[dict[str, Any], str]:
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise SpecError(f"--out {out}: is there already. Name a new folder for the adapter.")
    with doing(LIBRARIES):
        from lowregret.engine import Engine
        from lowregret.export.peft import export_policy, load_adapter
        from lowregret.lora.formats.peft import read_adapter_config
        from lowregret.models.load import load_base, resolve
        from lowregret.models.stops import stops
        from lowregret.runs.shipped import require_as_shipped

    require_as_shipped(folder)
    base = model or read_adapter_config(folder).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: names no base. Name it with --model.")
    engine = Engine(load_base(resolve(base)), device="cpu", precision="float32")
    policy = load_adapter(engine, "adapter", folder, aside)
    if each_expert and not any(matrix.experts for matrix in policy.matrices):
        raise SpecError(f"--each-expert: {folder} adapts no experts, so it has one format only. Leave the flag out.")
    size = export_policy(engine, "adapter", out, each_expert=each_expert)
    for line in stops(engine.base).serving_lines(out):
        aside(line)
    form = "a plain LoRA for each expert" if each_expert else "PEFT's format"
    method = policy.method.name.partition(":re:")[0]
    return {
        "written": str(out),
        "method": method,
        "bytes": size,
    }, f"{out}: {method} of {folder} in {form}, {size:,} bytes"

"""`lowregret eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli.outcome import exit_codes


def evaluate(
    model: o.Model = None,
    data: Annotated[
        str | None, typer.Option(help="Held-out rows: a file, a hub dataset id, or builtin:NAME.", show_default=False)
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A folder with a LoRA in PEFT's format.", show_default=False)
    ] = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    max_length: o.MaxLength = None,
    overlong: o.Overlong = None,
    max_eval: o.MaxEval = None,
    skip_bad_rows: o.SkipBadRows = None,
    precision: o.Precision = None,
    device: o.Device = None,
    json_: Annotated[
        bool, typer.Option("--json", help='Print {"nll", "tokens", "examples"} and nothing else on standard output.')
    ] = False,
) -> None:
    """The held-out loss of a base, or of an adapter on it: mean nats per supervised token.

    Of a builtin or hub source the test split is used; of a file, all rows.

    The number is the one that training reported for the same held-out data.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("adapter", "json_"):
        flags.pop(name)
    with exit_codes():
        from lowregret.spec import TrainingSpec
        from lowregret.train.job import evaluate_model

        found = evaluate_model(
            o.make_spec(TrainingSpec, None, flags), adapter, say=lambda line: typer.echo(line, err=True)
        )
        if json_:
            typer.echo(json.dumps(found))
        else:
            size = f"{found['tokens']:,} tokens, {found['examples']:,} examples"
            typer.echo(f"{found['nll']:.6f} nats per supervised token ({size})")

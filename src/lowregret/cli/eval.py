"""`lowregret eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli import options as o
from lowregret.cli.outcome import exit_codes


def evaluate(
    model: Annotated[
        str, typer.Option(help="A Hugging Face folder, a hub id, a .gguf file, or a bundled base.", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(help="Held-out rows: a file, a hub dataset id, or builtin:NAME.", show_default=False)
    ],
    adapter: Annotated[
        Path | None, typer.Option(help="A folder with a LoRA in PEFT's format.", show_default=False)
    ] = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    max_length: Annotated[int, typer.Option(help="Longest example in tokens.")] = 512,
    overlong: Annotated[str, typer.Option(help="Over-long examples: cut or drop.")] = "cut",
    max_eval: o.MaxEval = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Go on past broken rows and report them.")
    ] = False,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    json_: Annotated[
        bool, typer.Option("--json", help='Print {"nll", "tokens", "examples"} and nothing else on standard output.')
    ] = False,
) -> None:
    """The held-out loss of a base, or of an adapter on it: mean nats per supervised token.

    Of a builtin or hub source the test split is used; of a file, all rows. The number is the one that training
    reported.
    """
    with exit_codes():
        from lowregret.train.job import evaluate_model

        found = evaluate_model(
            model,
            data,
            adapter=adapter,
            prompt_field=prompt_field,
            completion_field=completion_field,
            max_length=max_length,
            overlong=overlong,
            max_eval=max_eval,
            skip_bad_rows=skip_bad_rows,
            precision=precision,
            device=device,
            say=lambda line: typer.echo(line, err=True),
        )
        if json_:
            typer.echo(json.dumps(found))
        else:
            size = f"{found['tokens']:,} tokens, {found['examples']:,} examples"
            typer.echo(f"{found['nll']:.6f} nats per supervised token ({size})")

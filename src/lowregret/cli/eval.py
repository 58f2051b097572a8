"""`lowregret eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli import rewards as r
from lowregret.cli.outcome import exit_codes
from lowregret.errors import SpecError

if TYPE_CHECKING:
    from lowregret.spec import TrainingSpec

_WITH_A_RUN = ("max_eval", "precision", "device", *r.FIELDS)
"""What may be asked otherwise than the run had it."""


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(help="A folder of `lowregret train`: its result, on its own held-out data.", show_default=False),
    ] = None,
    model: o.Model = None,
    data: Annotated[
        str | None, typer.Option(help="Held-out rows: a file, a hub dataset id, or builtin:NAME.", show_default=False)
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A folder with a LoRA in PEFT's format.", show_default=False)
    ] = None,
    eval_data: o.EvalData = None,
    task: r.Task = None,
    instruction: r.Instruction = None,
    max_tokens: r.MaxTokens = None,
    temperature: r.Temperature = None,
    top_p: r.TopP = None,
    stop: r.Stop = None,
    time_limit: r.TimeLimit = None,
    failure_reward: r.FailureReward = None,
    eval_samples: r.EvalSamples = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    max_length: o.MaxLength = None,
    overlong: o.Overlong = None,
    max_eval: o.MaxEval = None,
    skip_bad_rows: o.SkipBadRows = None,
    precision: o.Precision = None,
    device: o.Device = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON and nothing else on standard output.")
    ] = False,
) -> None:
    """The held-out loss of a base or an adapter, in nats per supervised token; with --task, its reward and pass rate.

    Of a builtin or hub source the test split is used; of a file, all rows. A task holds out what it does in training.

    The number is the one that training reported for the same held-out data.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("run", "adapter", "json_"):
        flags.pop(name)
    if any(flags[name] is not None for name in r.FIELDS if name in flags):
        flags["objective"] = "rl"
    with exit_codes():
        spec, adapter = _asked(run, adapter, flags)
        found, words = (_rewards if spec.objective.kind == "rl" else _losses)(spec, adapter)
        typer.echo(json.dumps(found) if json_ else words)


def _asked(run: Path | None, adapter: Path | None, flags: dict[str, Any]) -> tuple[TrainingSpec, Path | None]:
    """(what is evaluated, the adapter on it): of a run, with what is asked otherwise, or of the options alone."""
    from lowregret.spec import TrainingSpec, build

    if run is None:
        if flags["eval_data"] is not None and flags.get("objective") is None:
            raise SpecError("--eval-data is of use with --task only. Give the held-out rows as --data.")
        return o.make_spec(TrainingSpec, None, flags), adapter
    own = ["adapter"] if adapter is not None else []
    own += [name for name, value in flags.items() if value is not None and name not in (*_WITH_A_RUN, "objective")]
    if own:
        raise SpecError(f"--{own[0].replace('_', '-')}: {run} has its own. Leave it out, or give no run.")
    from lowregret.train.rl.evaluate import trained_spec

    spec, adapter = trained_spec(run)
    values = spec.model_dump(mode="json")
    values["objective"] = r.objective(values["objective"], flags)
    if values["objective"]["kind"] != "rl":
        raise SpecError(
            f"{run}: was trained on examples. Give --model, --adapter and --data for its loss, or --task for a reward."
        )
    if flags["max_eval"] is not None:
        values["data"]["max_eval"] = flags["max_eval"]
    values |= {name: flags[name] for name in ("precision", "device") if flags[name] is not None}
    kept = {name: value for name, value in values.items() if name in TrainingSpec.model_fields}
    return build(TrainingSpec, kept, source=str(run)), adapter


def _losses(spec: TrainingSpec, adapter: Path | None) -> tuple[Mapping[str, Any], str]:
    from lowregret.train.job import evaluate_model

    found = evaluate_model(spec, adapter, say=_say)
    size = f"{found['tokens']:,} tokens, {found['examples']:,} examples"
    return found, f"{found['nll']:.6f} nats per supervised token ({size})"


def _rewards(spec: TrainingSpec, adapter: Path | None) -> tuple[Mapping[str, Any], str]:
    from lowregret.analysis.pass_rate import pass_interval
    from lowregret.train.rl.evaluate import evaluate_reward

    found = evaluate_reward(spec, adapter, say=_say)
    problems, rate = len(found.pass_rates), sum(found.pass_rates) / len(found.pass_rates)
    low, high = pass_interval(found.pass_rates, found.samples)
    numbers = {
        "reward": found.reward,
        "pass_rate": rate,
        "pass_rate_ci95": [low, high],
        "problems": problems,
        "samples": found.samples,
        "tokens": found.tokens,
        "failures": found.failures,
    }
    failed = f"; {found.failures:,} could not be graded" if found.failures else ""
    return numbers, (
        f"reward {found.reward:.4f}; pass rate {rate:.3f} (95 %: {low:.3f} to {high:.3f}), "
        f"{problems:,} problems, {found.samples} completion{'s' * (found.samples > 1)} each{failed}"
    )


def _say(line: str) -> None:
    typer.echo(line, err=True)

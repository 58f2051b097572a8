"""`lowregret compare`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli import rewards as r
from lowregret.cli.outcome import command_line, exit_codes


def compare(
    config: o.Config = None,
    model: o.Model = None,
    data: o.Data = None,
    eval_data: o.EvalData = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas: full, lora:RANK, lora:RANK:TARGETS. (default: lora:16,full)",
            show_default=False,
        ),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(help="auto, or exactly these, separated by commas. (default: auto)", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trials at each best learning rate. (default: 3)", show_default=False)
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="Regret below this share of the FullFT loss is low; of rewards, below so much. (default: 0.5%, 0.02)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The study's folder. (default: runs/compare-…, named by the spec)", show_default=False),
    ] = None,
    objective: r.Objective = None,
    task: r.Task = None,
    instruction: r.Instruction = None,
    group_size: r.GroupSize = None,
    max_tokens: r.MaxTokens = None,
    temperature: r.Temperature = None,
    top_p: r.TopP = None,
    sampler: r.Sampler = None,
    stop: r.Stop = None,
    estimator: r.Estimator = None,
    clip: r.Clip = None,
    divide_by_std: r.DivideByStd = None,
    kl: r.Kl = None,
    entropy: r.Entropy = None,
    updates: r.Updates = None,
    time_limit: r.TimeLimit = None,
    failure_reward: r.FailureReward = None,
    eval_samples: r.EvalSamples = None,
    targets: o.Targets = None,
    alpha: o.Alpha = None,
    dropout: o.Dropout = None,
    batch_size: o.BatchSize = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    evals: o.Evals = None,
    prune: Annotated[
        str | None,
        typer.Option(
            help="Stop a search trial whose mid-run loss is this share above the best one's, or whose reward is so "
            "much below it, or `off`. (default: 25%, off for rewards)",
            show_default=False,
        ),
    ] = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    max_length: o.MaxLength = None,
    overlong: o.Overlong = None,
    max_train: o.MaxTrain = None,
    max_eval: o.MaxEval = None,
    eval_fraction: o.EvalFraction = None,
    skip_bad_rows: o.SkipBadRows = None,
    schedule: o.Schedule = None,
    warmup_steps: o.WarmupSteps = None,
    clip_norm: o.ClipNorm = None,
    weight_decay: o.WeightDecay = None,
    balance_experts: o.BalanceExperts = None,
    precision: o.Precision = None,
    device: o.Device = None,
    micro_batch_size: o.MicroBatchSize = None,
    memory_gb: o.MemoryGb = None,
    checkpoint_activations: o.CheckpointActivations = None,
    checkpoint_seconds: o.CheckpointSeconds = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print verdict.json on standard output, all else on standard error.")
    ] = False,
    track: o.Track = None,
    quiet: o.Quiet = False,
) -> None:
    """LoRA or full fine-tuning, for this base and this data?

    Brackets each method's best learning rate, repeats it over seeds, and judges the regret with an interval.

    The same command goes on where it was stopped.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("config", "out", "json_", "track", "quiet"):
        flags.pop(name)
    with exit_codes(resumable=True):
        from lowregret.cli.progress import Progress
        from lowregret.spec import CompareSpec

        flags["methods"] = methods.split(",") if methods else None
        flags["learning_rates"] = _rates(learning_rates)
        spec = o.make_spec(CompareSpec, config, flags)
        folder = out or Path("runs") / f"compare-{_name(spec)}"
        with Progress(quiet=quiet, to_stderr=json_) as progress:
            progress.say(f"study: {folder}")
            progress.say(o.filled_in(spec))
            from lowregret.report.pages.html import write_report
            from lowregret.study.runner import compare as run
            from lowregret.study.tracking.tracker import tracked
            from lowregret.train.liveness import untrained_experts

            with tracked(track, folder, progress) as watching:
                verdict = run(spec, folder, command=command_line(), observer=watching)
            for line in untrained_experts(sorted((folder / "trials").iterdir())):
                progress.say(line)
            page = write_report(folder)
        if json_:
            typer.echo(json.dumps(verdict.model_dump(mode="json"), indent=2))
        else:
            from rich.text import Text

            from lowregret.cli.progress import make_console
            from lowregret.report.pages.captions import headline
            from lowregret.report.reading import load_study

            console = make_console()
            console.print(Text(headline(load_study(folder))))
            for reason in verdict.reasons:
                console.print(Text(f"- {reason}"))
            console.print(Text(f"report: {page}"), soft_wrap=True)


def _rates(text: str | None) -> Any:
    if text is None or text == "auto":
        return text
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError:
        from lowregret.errors import SpecError

        raise SpecError(
            f"--learning-rates {text!r}: give auto, or numbers separated by commas such as 1e-4,2e-4,4e-4."
        ) from None


def _name(spec: Any) -> str:
    """Readable and unique: the same spec always gets the same folder."""
    digest = hashlib.sha256(spec.model_dump_json(exclude=set(spec.FREE)).encode()).hexdigest()[:8]
    return f"{Path(spec.model).stem or 'model'}-{digest}"

"""`lowregret train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli import rewards as r
from lowregret.cli.outcome import command_line, exit_codes


def train(
    out: Annotated[Path, typer.Option(help="The run's folder.", show_default=False)],
    config: o.Config = None,
    model: o.Model = None,
    data: o.Data = None,
    eval_data: o.EvalData = None,
    method: Annotated[
        str | None,
        typer.Option(help="full, lora:RANK or lora:RANK:TARGETS. (default: lora:16)", show_default=False),
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option(help="A number, or auto: the prior. (default: auto)", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draws the initial A and the order of examples. (default: 0)", show_default=False)
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
    track: o.Track = None,
    quiet: o.Quiet = False,
) -> None:
    """Train one adapter, or the whole base, and measure its held-out loss, or its held-out reward.

    Leaves trial.json, metrics.jsonl and adapter/ (PEFT's format) or model/ in the folder.

    The same command goes on where it was stopped.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("config", "out", "track", "quiet"):
        flags.pop(name)
    with exit_codes(resumable=True):
        from lowregret.cli.progress import Progress
        from lowregret.spec import TrainSpec

        spec = o.make_spec(TrainSpec, config, flags)
        with Progress(quiet=quiet) as progress:
            progress.say(o.filled_in(spec))
            from lowregret.study.tracking.tracker import tracked
            from lowregret.train.job import fine_tune as run

            with tracked(track, out, progress) as watching:
                record = run(spec, out, command=command_line(), say=watching.say, on_step=watching.step)
        shipped = out / ("adapter" if record.method != "full" else "model")
        from lowregret.analysis.numbers import nats

        if record.test_reward is not None:
            found = f"reward {record.test_reward:.4f}"
        elif record.test_nll is not None:
            found = f"loss {nats(record.test_nll)} nats per supervised token"
        else:
            found = "loss none"
        typer.echo(f"held-out {found} after {record.steps} steps, {record.seconds:.1f} s; {shipped}")

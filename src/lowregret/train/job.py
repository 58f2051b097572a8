"""`lowregret train` and `lowregret eval`, as functions: config, build, loop, checkpoint, in this order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData, prepare_held_out
from lowregret.engine import Engine
from lowregret.environment import environment
from lowregret.errors import DivergedError, RecordsError
from lowregret.export.peft import export_policy, load_adapter
from lowregret.lora.formats.peft import read_adapter
from lowregret.models.load import Source, load_config, load_tokenizer, resolve
from lowregret.models.stops import stops
from lowregret.plan.price import Price
from lowregret.runs.atomic import read_record
from lowregret.runs.extension import as_begun, known_choices
from lowregret.runs.files import ADAPTER, METRICS, MODEL, TRIAL
from lowregret.runs.lock import bind_spec, lock_run
from lowregret.runs.manifest import note_manifest
from lowregret.runs.metrics import require_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.shipped import require_shipped
from lowregret.runs.study import note_environment, shipped_folder
from lowregret.spec import LoRA, TrainingSpec, TrainSpec, TrialSpec
from lowregret.spec.method import Quantisation
from lowregret.train.checkpoint import delete_checkpoint, read_checkpoint
from lowregret.train.inputs import (
    RunInputs,
    Say,
    confined,
    engine_lines,
    fits_context,
    grading,
    make_engine,
    make_workload,
    open_inputs,
)
from lowregret.train.interrupt import stop_requests
from lowregret.train.liveness import untrained_experts
from lowregret.train.loop import OnStep, Pack, rounds
from lowregret.train.new_tokens import new_token_lines
from lowregret.train.pause import forget_pause, hold
from lowregret.train.price import Wanted, hardware_of, price_of
from lowregret.train.replies import Replying
from lowregret.train.sft.work import evaluate, mean_nll
from lowregret.train.trial import begin, conclude
from lowregret.train.vocabulary import fits_vocabulary

HeldOutLoss = dict[str, float | int]
"""{"nll": nats per supervised token, "tokens": supervised tokens, "examples": examples}"""


def fine_tune(
    spec: TrainSpec,
    out: str | Path,
    *,
    command: str = "lowregret.fine_tune(...)",
    say: Say = lambda line: None,
    on_step: OnStep = lambda trial, steps, metric: None,
    priced: Callable[[Price], None] = lambda price: None,
) -> TrialRecord:
    """Train one policy and leave trial.json, metrics.jsonl and adapter/ or model/ in `out`.

    Started again with the same spec it goes on from the last checkpoint, and returns at once when it has finished.
    `priced` is told what the training takes before it begins, and may raise what ends it. Raises LowregretError
    (DivergedError when the loss left the region of sense) or Interrupted after a clean stop.
    """
    with lock_run(Path(out)) as folder:
        forget_pause(folder, say)
        spec = as_begun(folder, spec, say)
        inputs = open_inputs(spec, say, known_choices(folder))
        rate = inputs.prior(spec.method).value if spec.learning_rate == "auto" else spec.learning_rate
        for line in inputs.advice([spec.method], rate):
            say(line)
        if spec.learning_rate == "auto":
            say(f"learning rate: {rate:.3g} (the prior for {spec.method.name}; `lowregret compare` finds the best)")
        inputs.require_manifest(folder, say)
        if not (folder / TRIAL).exists():  # before the folder is bound: whoever declines may ask for something else
            priced(price_of(inputs, [Wanted(spec.method, 1, 1.0)], hardware_of(inputs.device), folder))
        bind_spec(folder, spec, {**inputs.resolved, "learning_rate": rate}, command)
        note_manifest(folder, inputs.manifest)
        record = _finished(folder)
        if record is not None:
            say("already finished: nothing to do")
        else:
            trial = TrialSpec(method=spec.method, learning_rate=rate, seed=spec.seed)
            record = _train(inputs, trial, folder, say, on_step)
            for line in untrained_experts([folder]):
                say(line)
        if record.status == "finished":
            Replying(folder, inputs, say).write()
            return record
    if record.status == "diverged" and not record.steps:
        raise DivergedError(
            f"{folder}: {record.error} No update had been made: the base's own numbers are not finite on these data, "
            "though its weights are. Use --precision float32, or other data, and another --out."
        )
    if record.status == "diverged":
        raise DivergedError(
            f"{folder}: training diverged: {record.error} Lower the learning rate (--learning-rate {rate / 4:.2g}) "
            "and use another --out."
        )
    raise RecordsError(f"{folder}: the trial failed: {record.error}")


def _finished(folder: Path) -> TrialRecord | None:
    """The record of a training that has ended well, whose weights and curve are as they were."""
    record = read_record(TrialRecord, folder / TRIAL) if (folder / TRIAL).exists() else None
    if record is None or record.status != "finished":
        return None
    require_shipped(
        record,
        folder / shipped_folder(record),
        f"Bring it back, delete {folder / TRIAL} to train again, or use another --out.",
    )
    require_curve(folder / METRICS, record.steps)
    delete_checkpoint(folder)  # left behind by a kill just after the record was written
    return record


def _train(inputs: RunInputs, trial: TrialSpec, folder: Path, say: Say, on_step: OnStep) -> TrialRecord:
    """Train what is wanted; no engine is left when it ends."""
    spec = inputs.spec
    with stop_requests(say) as should_stop, grading(spec, say) as grader:
        if grader is not None:
            note_environment(folder, environment() | confined(grader))
        engine = inputs.loaded_engine(trial.method.quantisation)
        for line in engine_lines(engine, spec):
            say(line)
        if isinstance(inputs.data, PreparedData):
            for line in new_token_lines(engine, inputs.data.train, [trial.method]):
                say(line)
        pack = Pack(make_workload(inputs, engine, grader, say), on_step)
        record = _run_alone(pack, trial, folder, should_stop, say)
        if record.status == "finished" and isinstance(trial.method, LoRA):
            for line in stops(engine.base).serving_lines(folder / ADAPTER):
                say(line)
        return record


def _run_alone(pack: Pack, trial: TrialSpec, folder: Path, should_stop: Callable[[], bool], say: Say) -> TrialRecord:
    """Train one trial with its record, from its checkpoint if there is one, and leave adapter/ or model/."""

    def deliver(engine: Engine, policy: str, _: TrialRecord) -> Path:
        shipped = folder / (ADAPTER if isinstance(trial.method, LoRA) else MODEL)
        export_policy(engine, policy, shipped)
        return shipped

    record = begin(pack, trial, folder, read_checkpoint(folder, pack.workload.identity))
    for done in rounds(pack, folder, should_stop):
        for member, outcome in done.ended:
            record = conclude(pack, member, outcome, deliver)
        if pack.members:
            hold(folder, should_stop, say, partial(pack.save, folder))
    return record


def evaluate_model(
    spec: TrainingSpec,
    adapter: Path | None = None,
    quantisation: Quantisation = "none",
    say: Say = lambda line: None,
) -> HeldOutLoss:
    """The held-out loss of the base `spec.model` in a quantisation, or of an adapter on it, on `spec.data.train`: the
    same number that training reported for the same held-out data, to the bit in float32.
    """
    source = resolve(spec.model)
    if adapter is not None:
        read_adapter(adapter)  # what is wrong with it is said before the data are read
    config, tokenizer = load_config(source), load_tokenizer(source)
    examples, report = prepare_held_out(spec.data, tokenizer)
    for line in report.lines():
        say(line)
    fits_context((examples,), config, spec.data.max_length)
    fits_vocabulary((examples,), config, tokenizer, spec.data)
    return evaluate_examples(spec, source, examples, adapter, quantisation, say)


def evaluate_examples(
    spec: TrainingSpec,
    source: Source,
    examples: Sequence[Example],
    adapter: Path | None = None,
    quantisation: Quantisation = "none",
    say: Say = lambda line: None,
) -> HeldOutLoss:
    """The loss of a base, or of an adapter on it, on these examples."""
    engine = make_engine(spec, source, quantisation)
    if adapter is not None:
        load_adapter(engine, "adapter", adapter, say)
    policy = "base" if adapter is None else "adapter"
    losses = evaluate(engine, [policy], examples)[policy]
    nll = mean_nll(losses)
    if not math.isfinite(nll):
        raise DivergedError(
            f"{adapter or spec.model}: the held-out loss is {nll}, though all weights are finite. Try --precision "
            "float32, or other data."
        )
    return {"nll": nll, "tokens": sum(losses.tokens), "examples": len(examples)}

"""`lowregret train` and `lowregret eval`, as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.data.chat import Example
from lowregret.data.prepare import PreparedData, prepare, prepare_held_out
from lowregret.engine import Engine
from lowregret.engine.engine import choose_device, choose_dtype
from lowregret.engine.export import export_policy, load_adapter
from lowregret.errors import DivergedError, RecordsError, SpecError
from lowregret.models.load import Source, load_base, load_config, load_tokenizer, resolve
from lowregret.plan.learning_rate import Rate, recommend
from lowregret.records import Metric, TrialRecord, read_record
from lowregret.spec import RL, FullFT, LoRA, TrainingSpec, TrainSpec, TrialSpec
from lowregret.tasks import Grader
from lowregret.train.advice import advice_lines
from lowregret.train.checkpoint import delete_checkpoint, read_checkpoint
from lowregret.train.folder import claim, fingerprint, opened
from lowregret.train.interrupt import stop_requests
from lowregret.train.liveness import untrained_experts
from lowregret.train.pack import Hooks, Pack, run_pack
from lowregret.train.prior import shapes_from
from lowregret.train.rl import RLTask
from lowregret.train.rl_problems import Problems, prepare_problems
from lowregret.train.schedule import total_steps
from lowregret.train.step import Ending, Job, Member, Task, evaluate, mean_nll
from lowregret.train.trial import RECORD, begin, settle

Say = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """What a run knows before it loads any weights."""

    spec: TrainingSpec
    source: Source
    data: PreparedData | Problems
    steps: int
    config: Any
    """The base's transformers configuration."""
    device: str
    dtype: str

    @property
    def examples(self) -> PreparedData:
        """The data of supervised fine-tuning."""
        assert isinstance(self.data, PreparedData)
        return self.data

    @property
    def resolved(self) -> dict[str, Any]:
        """For spec.json: what the spec leaves open."""
        return {
            "steps": self.steps,
            "train_examples": len(self.data.train),
            "test_examples": len(self.data.test),
            "train_data": fingerprint(self.data.train),
            "test_data": fingerprint(self.data.test),
            "device": self.device,
            "dtype": self.dtype,
        }

    def prior(self, method: FullFT | LoRA) -> Rate:
        """Where a search for this method's learning rate starts, and how sure that is."""
        shapes = shapes_from(self.config, self.spec.model)
        kind = self.spec.objective.kind
        return recommend(method, shapes, batch_size=self.spec.batch_size, steps=self.steps, objective=kind)

    def advice(self, methods: Sequence[FullFT | LoRA], learning_rate: float | None = None) -> list[str]:
        """What the plan says of this run, as lines to print."""
        shapes = shapes_from(self.config, self.spec.model)
        return advice_lines(self.spec, shapes, self.data, self.steps, methods, learning_rate)


def open_inputs(spec: TrainingSpec, say: Say) -> Opened:
    """Resolve the base, prepare the data, and say what was found and filled in."""
    source = resolve(spec.model)
    config = load_config(source)
    device = choose_device(spec.device)
    data: PreparedData | Problems
    if isinstance(spec.objective, RL):
        data = prepare_problems(spec.data, spec.objective, load_tokenizer(source), say)
        _completions_fit(data, config, spec.objective)
    else:
        data = prepare(spec.data, load_tokenizer(source))
        for line in data.report.lines():
            say(line)
        _fits_context((*data.train, *data.test), config, spec.data.max_length)
    dtype = str(choose_dtype(spec.precision, device)).removeprefix("torch.")
    return Opened(spec, source, data, total_steps(spec, len(data.train)), config, str(device), dtype)


def _completions_fit(problems: Problems, config: Any, objective: RL) -> None:
    """SpecError when a prompt and its completion may be longer than the base has positions for."""
    context = _context(config)
    longest = max(len(prompt.token_ids) for prompt in (*problems.train, *problems.test))
    if context is not None and context < longest + objective.max_tokens:
        raise SpecError(
            f"--max-tokens {objective.max_tokens}: a prompt has {longest} tokens, and the base {context} positions. "
            f"Use --max-tokens {max(context - longest, 1)}, or drop long prompts by a lower --max-length."
        )


def _context(config: Any) -> int | None:
    """How many positions the base has; None when it does not say."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return context if isinstance(context, int) and context > 0 else None


def _fits_context(examples: Sequence[Example], config: Any, max_length: int) -> None:
    """SpecError when an example is longer than the base has positions for."""
    context = _context(config)
    longest = max(len(example.token_ids) for example in examples)
    if context is not None and context < longest:
        raise SpecError(
            f"--max-length {max_length}: an example has {longest} tokens, and the base has {context} positions. "
            f"Use --max-length {context}."
        )


def make_engine(spec: TrainingSpec, source: Source) -> Engine:
    """A fresh engine on a freshly loaded base."""
    device = choose_device(spec.device)
    return Engine(
        load_base(source, choose_dtype(spec.precision, device)),
        device=spec.device,
        precision=spec.precision,
        checkpoint_activations=spec.checkpoint_activations,
        balance_experts=spec.balance_experts,
    )


@contextmanager
def grading(spec: TrainingSpec) -> Iterator[Grader | None]:
    """The process that grades, started, for an objective that needs one; SpecError when its task cannot be loaded."""
    objective = spec.objective
    if not isinstance(objective, RL):
        yield None
        return
    with Grader(objective.task, time_limit=objective.time_limit, failure_reward=objective.failure_reward) as grader:
        grader.start()
        yield grader


def make_task(
    spec: TrainingSpec, inputs: Opened, engine: Engine, grader: Grader | None, say: Say = lambda line: None
) -> Job:
    """What the trials of a run share, by its objective."""
    if grader is None:
        return Task(engine, spec, inputs.examples.train, inputs.examples.test)
    assert isinstance(inputs.data, Problems)
    reference = None
    if isinstance(spec.objective, RL) and spec.objective.kl and _changes_base(spec):
        reference = make_engine(spec, inputs.source)
    return RLTask(engine, spec, inputs.data.train, inputs.data.test, grader, reference, say)


def _changes_base(spec: TrainingSpec) -> bool:
    """Whether a FullFT is among the methods."""
    asked = getattr(spec, "methods", None) or (getattr(spec, "method", None),)
    return any(isinstance(method, FullFT) for method in asked)


def train(
    spec: TrainSpec,
    out: str | Path,
    *,
    command: str = "lowregret.train(...)",
    say: Say = lambda line: None,
    on_step: Callable[[TrialSpec, int, Metric], None] = lambda trial, steps, metric: None,
) -> TrialRecord:
    """Train one policy and leave trial.json, metrics.jsonl and adapter/ or model/ in `out`.

    Started again with the same spec it goes on from the last checkpoint, and returns at once when it has finished.
    Raises LowregretError (DivergedError when the loss left the region of sense) or Interrupted after a clean stop.
    """
    with opened(Path(out)) as folder:
        inputs = open_inputs(spec, say)
        rate = inputs.prior(spec.method).value if spec.learning_rate == "auto" else spec.learning_rate
        for line in inputs.advice([spec.method], rate):
            say(line)
        if spec.learning_rate == "auto":
            say(f"learning rate: {rate:.3g} (the prior for {spec.method.name}; `lowregret compare` finds the best)")
        claim(folder, spec, {**inputs.resolved, "learning_rate": rate}, command)
        if (folder / RECORD).exists():
            record = read_record(TrialRecord, folder / RECORD)
            if record.status == "finished":
                delete_checkpoint(folder)  # left behind by a kill just after the record was written
                say("already finished: nothing to do")
                return record
        trial = TrialSpec(method=spec.method, learning_rate=rate, seed=spec.seed)
        with stop_requests(say) as should_stop, grading(spec) as grader:
            task = make_task(spec, inputs, make_engine(spec, inputs.source), grader, say)
            pack = Pack(task, Hooks(on_step=on_step, should_stop=should_stop))
            record = _run_alone(pack, trial, folder)
        for line in untrained_experts([folder]):
            say(line)
    if record.status == "diverged":
        raise DivergedError(
            f"{folder}: training diverged: {record.error} Lower the learning rate (--learning-rate {rate / 4:.2g}) "
            "and use another --out."
        )
    if record.status == "failed":
        raise RecordsError(f"{folder}: the trial failed: {record.error}")
    return record


def _run_alone(pack: Pack, trial: TrialSpec, folder: Path) -> TrialRecord:
    """Train one trial with its record, from its checkpoint if there is one, and leave adapter/ or model/."""
    target = folder / ("adapter" if isinstance(trial.method, LoRA) else "model")
    checkpoint = read_checkpoint(folder)
    found = [begin(pack, trial, folder, checkpoint)]

    def deliver(engine: Engine, policy: str, _: TrialRecord) -> None:
        export_policy(engine, policy, target)

    def ended(member: Member, ending: Ending) -> None:
        found.append(settle(pack, member, ending, deliver))

    run_pack(pack, folder, refill=lambda: None, settle=ended)
    return found[-1]


def evaluate_model(
    spec: TrainingSpec, adapter: Path | None = None, say: Say = lambda line: None
) -> dict[str, float | int]:
    """The held-out loss of the base `spec.model`, or of an adapter on it, on `spec.data.train`.

    Returns {"nll": nats per supervised token, "tokens": supervised tokens, "examples": examples}: the same number that
    training reported for the same held-out data, to the bit in float32.
    """
    source = resolve(spec.model)
    examples, report = prepare_held_out(spec.data, load_tokenizer(source))
    for line in report.lines():
        say(line)
    _fits_context(examples, load_config(source), spec.data.max_length)
    engine = make_engine(spec, source)
    if adapter is not None:
        load_adapter(engine, "adapter", adapter)
    policy = "base" if adapter is None else "adapter"
    losses = evaluate(engine, [policy], examples)[policy]
    return {"nll": mean_nll(losses), "tokens": sum(losses.tokens), "examples": len(examples)}

"""What a run is made of before its first step: base, data, engine and grader, from a spec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lowregret.data.chat.template import choose_template
from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData, prepare
from lowregret.data.table import select, supervised_counts, token_counts
from lowregret.engine import Engine
from lowregret.engine.device import choose_device, choose_dtype
from lowregret.errors import SpecError
from lowregret.models.context import positions_of
from lowregret.models.load import Source, load_base, load_config, load_tokenizer, resolve
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.resources.flops import multiply_adds
from lowregret.spec import RL, FullFT, GroupSpec, LoRA, TrainingSpec
from lowregret.tasks import Grader, reward_source
from lowregret.train.advice import advice_lines
from lowregret.train.judging import choose_judging
from lowregret.train.members import Workload
from lowregret.train.prior import shapes_from
from lowregret.train.rl.problems import Problems, Prompt, prepare_problems
from lowregret.train.rl.sampling import sampling_lines
from lowregret.train.rl.work import RLWorkload
from lowregret.train.schedule import total_steps
from lowregret.train.sft.work import SFTWorkload
from lowregret.train.vocabulary import fits_vocabulary

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunInputs:
    """What a run knows before it loads any weights."""

    spec: TrainingSpec
    """With the evaluations that were chosen."""
    source: Source
    data: PreparedData | Problems
    steps: int
    config: Any
    """The base's transformers configuration."""
    device: str
    dtype: str
    shared: tuple[int, ...] | None = None
    """Positions of the held-out examples by which the folder's first trials were judged; None for all."""

    @property
    def examples(self) -> PreparedData:
        """The data of supervised fine-tuning."""
        assert isinstance(self.data, PreparedData)
        return self.data

    @cached_property
    def resolved(self) -> Mapping[str, Any]:
        """For spec.json: what the spec leaves open."""
        evals = self.spec.evals
        chosen: dict[str, Any] = {}
        if isinstance(self.data, PreparedData) and not isinstance(self.spec, GroupSpec):
            chosen = {"held_out": self.data.held_out, **({"evals": list(evals)} if isinstance(evals, tuple) else {})}
        return {
            "steps": self.steps,
            "train_examples": len(self.data.train),
            "test_examples": len(self.data.test),
            "train_data": fingerprint(self.data.train),
            "test_data": fingerprint(self.data.test),
            "device": self.device,
            "dtype": self.dtype,
            **chosen,
            **source_of(self.spec),
        }

    def first_test_data(self, count: int) -> str:
        """The fingerprint of the first so many held-out examples."""
        if isinstance(self.data, Problems):
            return fingerprint(self.data.test[:count])
        return fingerprint(select(self.data.test, self.data.first(count)))

    def prior(self, method: FullFT | LoRA) -> RatePrior:
        """Where a search for this method's learning rate starts, and how sure that is."""
        shapes = shapes_from(self.config, self.spec.model)
        return recommend(
            method,
            shapes,
            batch_size=self.spec.batch_size,
            steps=self.steps,
            schedule=self.spec.optimizer.schedule,
            objective=self.spec.objective.kind,
        )

    def multiply_adds(self, methods: Sequence[FullFT | LoRA]) -> dict[str, float]:
        """Method → multiply-adds of a training token, by the plan; {} with reinforcement learning, whose rows vary."""
        if not isinstance(self.data, PreparedData):
            return {}
        shapes, rows = shapes_from(self.config, self.spec.model), self.data.train
        tokens = int(token_counts(rows).sum())
        share = int(supervised_counts(rows).sum()) / tokens
        length = round(tokens / len(rows))
        return {method.name: multiply_adds(shapes, method, length, share).total for method in methods}

    def advice(self, methods: Sequence[FullFT | LoRA], learning_rate: float | None = None) -> list[str]:
        """What the plan says of this run, as lines to print."""
        shapes = shapes_from(self.config, self.spec.model)
        return advice_lines(self.spec, shapes, self.data, self.steps, methods, learning_rate)


def open_inputs(spec: TrainingSpec, say: Say, stored: Mapping[str, Any] | None = None) -> RunInputs:
    """Resolve the base, prepare the data, and say what was found and filled in.

    `stored` is what a run of this folder has resolved before: what was chosen then is kept.
    """
    source = resolve(spec.model)
    config = load_config(source)
    device = choose_device(spec.device)
    tokenizer = load_tokenizer(source)
    data: PreparedData | Problems
    shared = None
    if isinstance(spec.objective, RL):
        data = prepare_problems(spec.data, spec.objective, tokenizer, say)
        _completions_fit(data, config, spec.objective)
        fits_vocabulary((data.train, data.test), config, tokenizer, spec.data)
    else:
        data = prepare(spec.data, tokenizer)
        for line in data.report.lines():
            say(line)
        fits_context((data.train, data.test), config, spec.data.max_length)
        fits_vocabulary((data.train, data.test), config, tokenizer, spec.data)
        judging = choose_judging(spec, data, stored)
        if judging.line:
            say(judging.line)
        data = judging.data
        if judging.evals is not None:
            spec = spec.model_copy(update={"evals": judging.evals})
        first = len(data.test) if stored is None else stored.get("search_examples", stored["test_examples"])
        shared = data.first(first) if first < len(data.test) else None
    dtype = str(choose_dtype(spec.precision, device)).removeprefix("torch.")
    return RunInputs(spec, source, data, total_steps(spec, len(data.train)), config, str(device), dtype, shared)


def _completions_fit(problems: Problems, config: Any, objective: RL) -> None:
    """SpecError when a prompt and its completion may be longer than the base has positions for."""
    context = positions_of(config)
    longest = max(len(prompt.token_ids) for prompt in (*problems.train, *problems.test))
    if context is not None and context < longest + objective.max_tokens:
        raise SpecError(
            f"--max-tokens {objective.max_tokens}: a prompt has {longest} tokens, and the base {context} positions. "
            f"Use --max-tokens {max(context - longest, 1)}, or drop long prompts by a lower --max-length."
        )


def fits_context(sets: Iterable[Sequence[Example]], config: Any, max_length: int) -> None:
    """SpecError when an example of any of the sets is longer than the base has positions for."""
    context = positions_of(config)
    longest = max(int(token_counts(examples).max()) for examples in sets)
    if context is not None and context < longest:
        raise SpecError(
            f"--max-length {max_length}: an example has {longest} tokens, and the base has {context} positions. "
            f"Use --max-length {context}."
        )


def make_engine(spec: TrainingSpec, source: Source) -> Engine:
    """A fresh engine on a freshly loaded base."""
    device = choose_device(spec.device)
    base = load_base(source, choose_dtype(spec.precision, device))
    choose_template(base.tokenizer, spec.data.chat_template)
    return Engine(
        base,
        device=spec.device,
        precision=spec.precision,
        checkpoint_activations=spec.checkpoint_activations,
        balance_experts=spec.balance_experts,
    )


def engine_lines(engine: Engine, spec: TrainingSpec) -> list[str]:
    """What to say of an engine before it works: how its base is run, and with rewards how completions are drawn."""
    rewards = sampling_lines(engine, spec.objective) if isinstance(spec.objective, RL) else []
    return [engine.forward_path.line(), *rewards]


def source_of(spec: TrainingSpec) -> dict[str, Any]:
    """{"reward_source": files and their hashes} where the user's own function rewards (tasks.source), else {}."""
    source = reward_source(spec.objective.task) if isinstance(spec.objective, RL) else None
    return {} if source is None else {"reward_source": source}


@contextmanager
def grading(spec: TrainingSpec, say: Say) -> Iterator[Grader | None]:
    """The process that grades, started, for an objective that needs one, and what confines it said.

    SpecError when its task cannot be loaded, or not be confined.
    """
    objective = spec.objective
    if not isinstance(objective, RL):
        yield None
        return
    with Grader(
        objective.task,
        time_limit=objective.time_limit,
        failure_reward=objective.failure_reward,
        trusted=objective.trust_task,
    ) as grader:
        grader.start()
        say(grader.line())
        yield grader


def confined(grader: Grader | None) -> dict[str, str | int]:
    """For the record of a run's environment: what confines grading, where anything is graded."""
    return {} if grader is None else {"grading": grader.line()}


def make_workload(inputs: RunInputs, engine: Engine, grader: Grader | None, say: Say = lambda line: None) -> Workload:
    """What the trials of a run share, by its objective."""
    spec = inputs.spec
    if grader is None:
        return SFTWorkload(engine, spec, inputs.examples.train, inputs.examples.test, inputs.shared)
    assert isinstance(inputs.data, Problems)
    assert isinstance(spec.objective, RL)
    reference = None
    if spec.objective.kl and spec.trains_base:
        reference = make_engine(spec, inputs.source)
    return RLWorkload(engine, spec, inputs.data.train, inputs.data.test, grader, reference, say)


def fingerprint(examples: Sequence[Example | Prompt]) -> str:
    """A hash of the tokens and masks, or answers: another file, tokenizer or template gives another."""
    digest = hashlib.sha256()
    for example in examples:
        judged = example.supervised if isinstance(example, Example) else example.problem.gold
        digest.update(repr((example.token_ids, judged)).encode())
    return digest.hexdigest()[:16]

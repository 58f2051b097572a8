"""What a run is made of before its first step: base, data, engine and grader, from a spec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowregret.activity import doing
from lowregret.data.chat.template import choose_template
from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData, prepare
from lowregret.data.table import select, supervised_counts, token_counts
from lowregret.engine import Engine
from lowregret.engine.device import choose_device, choose_dtype
from lowregret.engine.parallel.launch import crew, ranks_here
from lowregret.errors import RecordsError, SpecError
from lowregret.foreign_text import without_secrets
from lowregret.models.bare import bare_base
from lowregret.models.context import positions_of
from lowregret.models.files import base_files
from lowregret.models.fill import can_fill
from lowregret.models.four_bit import bitsandbytes
from lowregret.models.load import Source, load_base, load_config, load_tokenizer, resolve
from lowregret.models.quantised import in_nf4
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.resources.flops import multiply_adds
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.runs.files import SPEC
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import Manifest, digests, identity, require_manifest
from lowregret.spec import RL, FullFT, GroupSpec, LoRA, TrainingSpec
from lowregret.spec.method import Quantisation
from lowregret.strict_json import to_json
from lowregret.tasks import Grader
from lowregret.train.advice import advice_lines
from lowregret.train.devices import arrange, device_lines
from lowregret.train.judging import choose_judging
from lowregret.train.manifest import make_manifest
from lowregret.train.members import Workload
from lowregret.train.prior import shapes_from
from lowregret.train.rl.problems import Problems, Prompt, prepare_problems
from lowregret.train.rl.sampling import sampling_lines
from lowregret.train.rl.work import RLWorkload
from lowregret.train.schedule import total_steps
from lowregret.train.sft.work import SFTWorkload
from lowregret.train.steppable import require_steppable
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
    template: Any = None
    """The tokenizer's chat template: a text, texts by name, or None."""
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
            "train_data": self._tokens[0][:_SHORT],
            "test_data": self._tokens[1][:_SHORT],
            "device": self.device,
            "dtype": self.dtype,
            **chosen,
        }

    def first_test_data(self, count: int) -> str:
        """The fingerprint of the first so many held-out examples."""
        if isinstance(self.data, Problems):
            return fingerprint(self.data.test[:count])[:_SHORT]
        return fingerprint(select(self.data.test, self.data.first(count)))[:_SHORT]

    @cached_property
    def _tokens(self) -> tuple[str, str]:
        """The fingerprints of what is trained on and of what it is judged by."""
        return fingerprint(self.data.train), fingerprint(self.data.test)

    @cached_property
    def manifest(self) -> Manifest:
        """What the run's numbers depend on beside its spec, by content."""
        train, test = self._tokens
        if isinstance(self.data, Problems):  # a reward may read any column of a row
            train, test = _with_rows(train, self.data.train), _with_rows(test, self.data.test)
        with doing("hashing what the run depends on"):
            return make_manifest(self.spec, train, test, self.template)

    @cached_property
    def identity(self) -> str:
        """A digest of all that a trial's numbers depend on beside the trial."""
        return identity(self.spec, self.manifest)

    def require_manifest(self, folder: Path, say: Say) -> None:
        """See that a folder's numbers come from what is there now; RecordsError if not. Before anything is written.

        Nothing is said where other data or another base are asked for than the folder has: its spec tells that better.
        """
        if not self._asks_the_same(folder):
            return
        require_manifest(folder, self.manifest, say, held_out_grows=isinstance(self.data, PreparedData))

    def _asks_the_same(self, folder: Path) -> bool:
        try:
            there = stored_spec(folder / SPEC)["spec"] if (folder / SPEC).exists() else None
        except RecordsError:
            return False
        here = without_secrets(self.spec.model_dump(mode="json"))
        if there is None or any(there.get(name) != here[name] for name in ("model", "objective")):
            return False
        data, asked = dict(there.get("data") or {}), dict(here["data"])
        return data | {"max_eval": None} == asked | {"max_eval": None}

    def loaded_engine(self, quantisation: Quantisation = "none") -> Engine:
        """A fresh engine on a freshly loaded base; RecordsError when its files are not those of the manifest."""
        engine = make_engine(self.spec, self.source, quantisation)
        files = digests(base_files(self.spec.model))
        changed = list(self.manifest.differences(self.manifest.model_copy(update={"base": files})))
        if changed:
            raise RecordsError(
                f"{self.spec.model}: {', '.join(changed)} changed while the run was going on: two trials would be of "
                "two bases. Bring back what was there and run the same command again, or use another --out."
            )
        return engine

    @property
    def as_stored(self) -> Quantisation:
        """Of the base as its files have it."""
        return "nf4" if in_nf4(self.config.to_dict()) else "none"

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

    def adapter_parameters(self, methods: Sequence[FullFT | LoRA]) -> dict[str, int]:
        """LoRA → numbers that it trains, by the plan."""
        shapes = shapes_from(self.config, self.spec.model)
        return {
            method.name: sum(lora_parameters(shapes, method.rank, method.targets, method.convention).values())
            for method in methods
            if isinstance(method, LoRA)
        }

    def advice(self, methods: Sequence[FullFT | LoRA], learning_rate: float | None = None) -> list[str]:
        """What the plan says of this run, as lines to print."""
        shapes = shapes_from(self.config, self.spec.model)
        return advice_lines(self.spec, shapes, self.data, self.steps, methods, learning_rate)


def open_inputs(spec: TrainingSpec, say: Say, stored: Mapping[str, Any] | None = None) -> RunInputs:
    """Resolve the base, prepare the data, and say what was found and filled in.

    `stored` is what a run of this folder has resolved before: what was chosen then is kept.
    """
    if "nf4" in spec.quantisations:
        bitsandbytes()  # what is missing is said before the data are read
    source = resolve(spec.model)
    with doing(f"reading the configuration and the tokenizer of {spec.model}"):
        config = load_config(source)
        _fits_files(spec, config)
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
    require_steppable(spec, device, dtype)
    steps, template = total_steps(spec, len(data.train)), tokenizer.chat_template
    return RunInputs(spec, source, data, steps, config, str(device), dtype, template, shared)


def _fits_files(spec: TrainingSpec, config: Any) -> None:
    """SpecError when a method needs the base as it is, and its files are quantised."""
    needing = [method.name for method in spec.asked if method.quantisation == "none"]
    if needing and in_nf4(config.to_dict()):
        raise SpecError(
            f"{spec.model}: its files are in NF4, over which lora:RANK:nf4 alone trains, and {', '.join(needing)} "
            "needs the base as it is. Give the original, in bfloat16 or float32, that it was made from."
        )


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


def make_engine(spec: TrainingSpec, source: Source, quantisation: Quantisation = "none") -> Engine:
    """A fresh engine on a freshly loaded base, on as many devices as the spec asks for."""
    with doing(f"loading {spec.model}"):
        return _made(spec, source, quantisation)


def _made(spec: TrainingSpec, source: Source, quantisation: Quantisation) -> Engine:
    found = arrange(spec, lambda: shapes_from(load_config(source), spec.model), quantisation)
    mesh = found.mesh
    ranks = crew(mesh.devices, spec.device, replicate=mesh.replicate, expert=mesh.expert, tensor=mesh.tensor)
    if ranks.lead is None:
        return _engine_here(spec, source, quantisation)
    return ranks.lead.build(_engine_here, spec, source, quantisation, found.base_in_parts)


def _engine_here(spec: TrainingSpec, source: Source, quantisation: Quantisation, base_in_parts: bool = False) -> Engine:
    """What each rank makes. Of a base in parts it reads its own part alone, where the files are safetensors."""
    dtype = choose_dtype(spec.precision, choose_device(spec.device))
    ranks = ranks_here()
    in_parts = base_in_parts or max(ranks.tensor.count, ranks.expert.count) > 1
    base = bare_base(source, dtype) if in_parts and can_fill(source) else load_base(source, dtype)
    choose_template(base.tokenizer, spec.data.chat_template)
    return Engine(
        base.quantised(quantisation),
        device=spec.device,
        precision=spec.precision,
        checkpoint_activations=spec.checkpoint_activations,
        offload_activations=spec.offload_activations,
        balance_experts=spec.balance_experts,
        ranks=ranks,
        base_in_parts=base_in_parts,
        base_trains=base_in_parts and spec.trains_base,
    )


def trained_engine(spec: TrainingSpec, folder: Path) -> Engine:
    """The same of the folder of a full fine-tuning, whose tokenizer was saved with the one template that was chosen."""
    alone = spec.data.model_copy(update={"chat_template": None})
    return make_engine(spec.model_copy(update={"data": alone}), resolve(str(folder)))


def engine_lines(engine: Engine, spec: TrainingSpec) -> list[str]:
    """What to say of an engine before it works: how its base is run, and with rewards how completions are drawn."""
    rewards = sampling_lines(engine, spec.objective) if isinstance(spec.objective, RL) else []
    return [*device_lines(engine), engine.forward_path.line(), *rewards]


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
        return SFTWorkload(
            engine, spec, inputs.examples.train, inputs.examples.test, inputs.shared, identity=inputs.identity
        )
    assert isinstance(inputs.data, Problems)
    assert isinstance(spec.objective, RL)
    reference = None
    if spec.objective.kl and spec.trains_base and engine.base.quantisation == "none":  # else LoRAs alone train
        reference = make_engine(spec, inputs.source)
    return RLWorkload(
        engine, spec, inputs.data.train, inputs.data.test, grader, reference, say, identity=inputs.identity
    )


_SHORT = 16
"""Hexadecimal digits of the digests in spec.json."""


def fingerprint(examples: Sequence[Example | Prompt]) -> str:
    """SHA-256 of the tokens and masks, or answers: another file, tokenizer or template gives another."""
    digest = hashlib.sha256()
    for example in examples:
        judged = example.supervised if isinstance(example, Example) else example.problem.gold
        digest.update(repr((example.token_ids, judged)).encode())
    return digest.hexdigest()


def _with_rows(found: str, prompts: Sequence[Prompt]) -> str:
    """The fingerprint of prompts and of the whole rows that they come from."""
    digest = hashlib.sha256(found.encode())
    for prompt in prompts:
        digest.update(to_json(dict(prompt.problem.row), sort_keys=True, default=repr).encode())
    return digest.hexdigest()

"""What to type after a plan: commands for what fits, that run as they stand. Torch-free."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lowregret.data.facts import DEFAULT_LENGTH
from lowregret.errors import SpecError
from lowregret.plan.formatting import money
from lowregret.plan.plan import MethodPlan, Plan
from lowregret.plan.resources.hardware import Hardware
from lowregret.quantities import duration
from lowregret.spec import FullFT
from lowregret.spec.plan import PlanSpec
from lowregret.spec.rl import OWN_PROBLEMS
from lowregret.tasks.registry import find_entry

_COMMAND_WIDTH = 74
_Option = tuple[str, ...]
"""A flag, with its value where it has one."""


def next_steps(plan: Plan) -> list[str]:
    """Commands to go on with, to be copied as they stand; where a method does not fit, what would make it."""
    if plan.facts is None or plan.facts.blocked or (source := _source(plan)) is None:
        return []
    choice = plan.advice.choice
    advised = plan.full if isinstance(choice.method, FullFT) else plan.lora
    if advised.here is None:
        return [_does_not_fit(advised)]
    start, spread = started(plan.request, plan.hardware)
    common = [("--model", plan.shapes.name), *source, ("--batch-size", str(choice.batch_size)), *_length(plan), *spread]
    method = choice.method if advised.fits is not False else advised.here.method
    train: list[_Option] = [
        *_activations(plan, advised),
        ("--method", method.name),
        ("--learning-rate", f"{plan.advice.learning_rate:.2g}"),
        ("--out", "runs/one"),
    ]
    return [_command(start, "train", [*common, *train]), _comparison(plan, start, common)]


def _comparison(plan: Plan, start: list[_Option], common: list[_Option]) -> str:
    """The command that measures the regret; what is missing where one of both methods does not fit."""
    lora, full = plan.lora, plan.full
    for side in (lora, full):
        if side.here is None:
            return _does_not_fit(side)
    assert lora.here is not None
    assert full.here is not None
    methods = f"{lora.here.method.name},{full.here.method.name}"
    activations = _activations(plan, lora, full)
    said = _command(start, "compare", [*common, *activations, ("--methods", methods), ("--out", "runs/study")])
    if plan.study is None:
        return said
    cost = "" if plan.study.money is None else f", {money(plan.study.money)}"
    return f"{said}\n    # measures the regret: about {plan.study.trials} trials, {duration(plan.study.seconds)}{cost}"


def _does_not_fit(side: MethodPlan) -> str:
    label = "full fine-tuning" if isinstance(side.method, FullFT) else "LoRA"
    if not side.remedy:
        return f"# {label} does not fit here"
    return f"# {label} does not fit here: plan {'' if side.remedy.startswith('without') else 'with '}{side.remedy}"


def _activations(plan: Plan, *sides: MethodPlan) -> list[_Option]:
    """What becomes of activations: computed twice where that was asked for or a method does not fit otherwise, else
    kept by the host where that was asked for. One run has one of both."""
    again = any(side.here is not None and side.here.checkpoint_activations for side in sides)
    if again or plan.request.checkpoint_activations:
        return [("--checkpoint-activations",)]
    return [("--offload-activations",)] if plan.request.offload_activations else []


def _source(plan: Plan) -> list[_Option] | None:
    """The flags that name the data; None when none do: rows of a file do not say how they are graded."""
    request = plan.request
    assert plan.facts is not None
    source = plan.facts.source
    if request.objective == "rl":
        if not _is_task(source):
            return None
        rl = (("--task", source), ("--max-tokens", str(request.max_tokens)), ("--group-size", str(request.group_size)))
        return [("--objective", "rl"), *rl]
    named = ("eval_data", "prompt_field", "completion_field")
    given = [(f"--{name.replace('_', '-')}", value) for name in named if (value := getattr(request, name)) is not None]
    return [("--data", source), *given]


def _length(plan: Plan) -> Iterator[_Option]:
    """How long rows and the run are, and how a step is taken."""
    choice, request = plan.advice.choice, plan.request
    assert plan.facts is not None
    if plan.facts.max_length != DEFAULT_LENGTH:
        yield "--max-length", str(plan.facts.max_length)
    yield ("--steps", str(choice.steps)) if choice.epochs is None else ("--epochs", f"{choice.epochs:g}")
    if request.schedule != "constant":
        yield "--schedule", request.schedule
    if request.micro_batch_size is not None:
        yield "--micro-batch-size", str(request.micro_batch_size)


def started(request: PlanSpec, hardware: Hardware | None) -> tuple[list[_Option], list[_Option]]:
    """What starts a verb on so many devices, and the options that say so: of several nodes each starts its own, meets
    the others at HOST, one of them, and is told how many there are."""
    options: list[_Option] = [] if request.parallel is None else [("--parallel", request.parallel)]
    nodes = 1 if hardware is None else -(-request.devices // hardware.node)
    if nodes > 1:
        each = -(-request.devices // nodes)
        there = [("--nnodes", str(nodes)), ("--nproc-per-node", str(each))]
        meet = [("--rdzv-backend", "c10d"), ("--rdzv-endpoint", "HOST:29500")]
        return [("torchrun",), *there, *meet, ("-m", "lowregret")], options
    return [("lowregret",)], options + [("--devices", str(request.devices))] * (request.devices > 1)


def _is_task(source: str) -> bool:
    """Whether a source of data is a task as well, with problems and rewards of its own."""
    try:
        find_entry(source)
    except SpecError:
        return False
    return source.startswith(OWN_PROBLEMS)


def _command(start: list[_Option], verb: str, options: list[_Option]) -> str:
    """A command of lines of at most 76 characters, broken between options so that it can be copied as it stands."""
    words = [shlex.join(option) for option in (*start[:-1], (*start[-1], verb), *options)]
    lines = words[:1]
    for option in words[1:]:
        if len(lines[-1]) + len(option) > _COMMAND_WIDTH:
            lines[-1] += " \\"
            lines.append("    " + option)
        else:
            lines[-1] += " " + option
    return "\n".join(lines)

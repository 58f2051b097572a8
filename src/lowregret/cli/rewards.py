"""Options of reinforcement learning, and how they and a file's become one objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lowregret.errors import SpecError

_PANEL = "Reinforcement learning"

Objective = Annotated[
    str | None,
    typer.Option(help="sft, or rl: sample completions and follow their rewards. (default: sft)", show_default=False),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="What rewards: builtin:arithmetic, gym:NAME, math, or a function (prompt, completion, row) -> float of "
        "yours as MODULE:FUNCTION.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Instruction = Annotated[
    str | None,
    typer.Option(
        help="Follows each problem in the prompt: how to answer. (default: nothing)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Completions of each problem. (default: 8)", rich_help_panel=_PANEL, show_default=False),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="Longest completion in tokens. (default: 128)", rich_help_panel=_PANEL, show_default=False),
]
Temperature = Annotated[
    float | None, typer.Option(help="Of sampling. (default: 1)", rich_help_panel=_PANEL, show_default=False)
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the likeliest tokens of this probability. (default: 1)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="What samples: engine, or vllm on a GPU, which takes plain LoRAs. (default: engine)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="A text that ends a completion; may be repeated.", rich_help_panel=_PANEL, show_default=False),
]
Estimator = Annotated[
    str | None,
    typer.Option(
        help="importance_sampling, ppo_clip or cispo. (default: importance_sampling)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Clip = Annotated[
    float | None,
    typer.Option(
        help="How far a ratio may be from 1. (default: 0.2 for ppo_clip, 4 for cispo)",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
DivideByStd = Annotated[
    bool | None,
    typer.Option(
        "--divide-by-std",
        help="Divide advantages by their group's standard deviation, as GRPO does.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Kl = Annotated[
    float | None,
    typer.Option(help="Weight of the KL from the base. (default: 0)", rich_help_panel=_PANEL, show_default=False),
]
Entropy = Annotated[
    float | None,
    typer.Option(help="Weight of the policy's entropy. (default: 0)", rich_help_panel=_PANEL, show_default=False),
]
Updates = Annotated[
    int | None,
    typer.Option(help="Optimizer steps a batch of samples. (default: 1)", rich_help_panel=_PANEL, show_default=False),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Seconds that grading a completion may take. (default: 5)", rich_help_panel=_PANEL, show_default=False
    ),
]
FailureReward = Annotated[
    float | None,
    typer.Option(
        help="Reward of a completion whose grading fails. (default: 0)", rich_help_panel=_PANEL, show_default=False
    ),
]
EvalSamples = Annotated[
    int | None,
    typer.Option(help="Completions of each held-out problem. (default: 1)", rich_help_panel=_PANEL, show_default=False),
]

FIELDS = (
    "task", "instruction", "group_size", "max_tokens", "temperature", "top_p", "sampler", "stop", "estimator", "clip",
    "divide_by_std", "kl", "entropy", "updates", "time_limit", "failure_reward", "eval_samples",
)  # fmt: skip


def objective(asked: Any, flags: Mapping[str, Any]) -> Any:
    """The objective of a file (or None) under the flags; None when neither says anything.

    SpecError for a flag that the objective has no use for.
    """
    given = {name: flags[name] for name in FIELDS if flags.get(name) is not None}
    kind = flags.get("objective")
    known = dict(asked) if isinstance(asked, dict) else {} if asked is None else {"kind": asked}
    if kind is not None:
        known = {**known, "kind": kind} if known.get("kind", kind) == kind else {"kind": kind}
    if given and known.get("kind") != "rl":
        name = next(iter(given)).replace("_", "-")
        raise SpecError(f"--{name} is of use with --objective rl only. Add that, or leave it out.")
    if not known:
        return None
    if known["kind"] == "rl" and "task" not in {**known, **given}:
        raise SpecError("--objective rl needs a --task. `--task builtin:arithmetic` works as it is.")
    return {**known, **given}


def brings_problems(asked: Any) -> bool:
    """Whether the task of an objective needs no data."""
    from lowregret.spec.rl import OWN_PROBLEMS

    task = asked.get("task") if isinstance(asked, dict) else None
    return isinstance(task, str) and task.startswith(OWN_PROBLEMS)

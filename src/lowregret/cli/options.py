"""Options that several verbs share, and how flags and a TOML file become one spec.

Every flag defaults to None, "not given": the defaults live in the specs alone, and a flag that is given wins over the
file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lowregret.cli import rewards
from lowregret.errors import SpecError

if TYPE_CHECKING:  # pydantic takes longer to import than `--help` may take: the functions below import it when called
    from lowregret.spec import Spec

S = TypeVar("S", bound="Spec")

_DATA, _TRAINING, _OPTIMIZER, _MACHINE = "Data", "Training", "Optimizer", "Machine"

Config = Annotated[
    Path | None, typer.Option(help="A TOML file of the same fields; flags win over it.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(help="A Hugging Face folder, a hub id, a .gguf file, or a bundled base.", show_default=False),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Training rows: .jsonl, .json, .csv, .parquet, a hub dataset id, or builtin:NAME[:key=value,…].",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        help="Held-out rows of the same forms. (default: a split of the training data)",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
PromptField = Annotated[
    str | None,
    typer.Option(help="Column of the prompt. (default: detected)", rich_help_panel=_DATA, show_default=False),
]
CompletionField = Annotated[
    str | None,
    typer.Option(help="Column of the completion. (default: detected)", rich_help_panel=_DATA, show_default=False),
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Longest example in tokens. (default: 512)", rich_help_panel=_DATA, show_default=False),
]
Overlong = Annotated[
    str | None,
    typer.Option(help="Over-long examples: cut or drop. (default: cut)", rich_help_panel=_DATA, show_default=False),
]
MaxTrain = Annotated[
    int | None, typer.Option(help="Use the first N training examples.", rich_help_panel=_DATA, show_default=False)
]
MaxEval = Annotated[
    int | None, typer.Option(help="Use the first N held-out examples.", rich_help_panel=_DATA, show_default=False)
]
EvalFraction = Annotated[
    float | None,
    typer.Option(
        help="Share held out when no eval data are given. (default: 0.1)", rich_help_panel=_DATA, show_default=False
    ),
]
SkipBadRows = Annotated[
    bool | None,
    typer.Option(
        "--skip-bad-rows", help="Go on past broken rows and report them.", rich_help_panel=_DATA, show_default=False
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        help="LoRA targets: attention, mlp, experts, router, unembedding (join with +), all, or re:REGEX. "
        "(default: all)",
        rich_help_panel=_TRAINING,
        show_default=False,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="LoRA alpha; the update is scaled by alpha / rank. (default: 32)",
        rich_help_panel=_TRAINING,
        show_default=False,
    ),
]
Dropout = Annotated[
    float | None,
    typer.Option(
        help="LoRA dropout: share of A's inputs zeroed while training. (default: 0)",
        rich_help_panel=_TRAINING,
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Examples per step. (default: 8)", rich_help_panel=_TRAINING, show_default=False)
]
MicroBatchSize = Annotated[
    int | None,
    typer.Option(
        help="Examples of a trial per forward/backward: less memory, same result. (default: what memory allows)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        help="For the activations of one forward/backward, in GB; same result. (default: half of what is left)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
BalanceExperts = Annotated[
    bool | None,
    typer.Option(
        "--balance-experts",
        help="Train on the load-balancing loss of a mixture of experts too, with both methods.",
        rich_help_panel=_TRAINING,
        show_default=False,
    ),
]
CheckpointActivations = Annotated[
    bool | None,
    typer.Option(
        "--checkpoint-activations",
        help="Compute layers again in the backward pass: far less memory, a third to half more time, same result.",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
Epochs = Annotated[
    float | None,
    typer.Option(help="Passes over the training data. (default: 1)", rich_help_panel=_TRAINING, show_default=False),
]
Steps = Annotated[
    int | None, typer.Option(help="Optimizer steps, instead of epochs.", rich_help_panel=_TRAINING, show_default=False)
]
Evals = Annotated[
    int | None,
    typer.Option(help="Held-out evaluations per trial. (default: 2)", rich_help_panel=_TRAINING, show_default=False),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, float32 or bfloat16. (default: float32 on a CPU, else bfloat16)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda, cuda:1, … (default: auto)", rich_help_panel=_MACHINE, show_default=False),
]
CheckpointSeconds = Annotated[
    float | None,
    typer.Option(
        help="Wall time between resumable checkpoints. (default: 60)", rich_help_panel=_MACHINE, show_default=False
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="constant, linear, cosine or wsd. (default: constant)", rich_help_panel=_OPTIMIZER, show_default=False
    ),
]
WarmupSteps = Annotated[
    int | None, typer.Option(help="Linear warm-up. (default: 0)", rich_help_panel=_OPTIMIZER, show_default=False)
]
ClipNorm = Annotated[
    float | None,
    typer.Option(help="Clip the global gradient norm. (default: off)", rich_help_panel=_OPTIMIZER, show_default=False),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(help="Decoupled weight decay. (default: 0)", rich_help_panel=_OPTIMIZER, show_default=False),
]
Track = Annotated[
    str | None,
    typer.Option(
        help="Send every trial, step by step, to mlflow, wandb or tensorboard; TOOL:WHERE names a server, project or "
        "folder.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]

_DATA_NAMES = ("prompt_field", "completion_field", "max_length", "overlong", "max_train", "max_eval", "eval_fraction")
_DATA_FIELDS = {
    "data": "train",
    "eval_data": "eval",
    "skip_bad_rows": "skip_bad_rows",
    **{name: name for name in _DATA_NAMES},
}
_OPTIMIZER_FIELDS = ("schedule", "warmup_steps", "clip_norm", "weight_decay")
_METHOD_FIELDS = ("targets", "alpha", "dropout")


def make_spec(kind: type[S], config: Path | None, flags: Mapping[str, Any]) -> S:
    """The TOML file's fields under the given flags, validated; SpecError names the flag or the file's key at fault."""
    from lowregret.spec import build, read_toml

    values: dict[str, Any] = read_toml(config) if config is not None else {}
    if isinstance(values.get("data"), str):
        values["data"] = {"train": values["data"]}
    for table in ("data", "optimizer"):
        if not isinstance(values.get(table, {}), dict):
            raise SpecError(
                f"{config}: {table} is {values[table]!r}, and must be a table: write [{table}] above its keys."
            )
    for name, value in flags.items():
        if value is None or name in _METHOD_FIELDS or name in ("objective", *rewards.FIELDS):
            continue
        if name in _DATA_FIELDS:
            values.setdefault("data", {})[_DATA_FIELDS[name]] = value
        elif name in _OPTIMIZER_FIELDS:
            values.setdefault("optimizer", {})[name] = value
        else:
            values[name] = value
            if name in ("epochs", "steps"):  # the flag replaces the file's choice of the other
                other = "steps" if name == "epochs" else "epochs"
                if flags.get(other) is None:
                    values.pop(other, None)
    objective = rewards.objective(values.get("objective"), flags)
    if objective is not None:
        values["objective"] = objective
    _require(values, config)
    defaults = {name: flags[name] for name in _METHOD_FIELDS if flags.get(name) is not None}
    if defaults:
        if "method" in kind.model_fields:
            values.setdefault("method", "lora:16")
        _fill_methods(values, defaults)
    spec = build(kind, values, source=str(config) if config is not None else "")
    for name in ("epochs", "tolerance", "prune"):  # where the spec gives one, pydantic takes it for the user's
        if name not in values:
            spec.model_fields_set.discard(name)
    return spec


def _require(values: Mapping[str, Any], config: Path | None) -> None:
    missing = [] if values.get("model") else ["--model"]
    if not values.get("data", {}).get("train") and not rewards.brings_problems(values.get("objective")):
        missing.append("--data")
    if missing:
        where = f", or `model` and `data.train` in {config}" if config else ", or a TOML file with --config"
        raise SpecError(f"missing {' and '.join(missing)}{where}. To try it: `--model tiny --data builtin:arithmetic`.")


def _fill_methods(values: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """--targets, --alpha and --dropout reach every LoRA that does not say otherwise; SpecError when there is none."""
    from lowregret.spec.method import parse_method

    unused = set(defaults)

    def filled(method: Any) -> Any:
        try:
            fields = parse_method(method)
        except ValueError:
            unused.clear()
            return method  # judged, with its field's name, by the spec
        if not isinstance(fields, dict) or fields.get("kind") != "lora":
            return method
        unused.difference_update(defaults.keys() - fields.keys())
        return {**defaults, **fields}

    if "method" in values:
        values["method"] = filled(values["method"])
    elif isinstance(methods := values.get("methods", ("lora:16", "full")), list | tuple):
        values["methods"] = [filled(method) for method in methods]
    else:
        return  # no list: judged by the spec as well
    if unused:
        name = sorted(unused)[0]
        raise SpecError(f"--{name} is of no use here: no method is a LoRA that leaves its {name} open. Leave it out.")


def filled_in(spec: Spec) -> str:
    """The defaults that the user did not give, as one line; those of nested tables included."""
    shown = ", ".join(_unset(spec))
    return f"filled in: {shown}" if shown else ""


def _unset(spec: Spec, prefix: str = "") -> Iterator[str]:
    from lowregret.spec import Spec as Table

    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Table) and (not hasattr(value, "kind") or (name == "objective" and value.kind == "rl")):
            yield from _unset(value, f"{prefix}{name}.")
        elif name not in spec.model_fields_set:
            yield f"{prefix}{name} {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_plain(item) for item in value) or "none"
    return "none" if value is None else str(getattr(value, "name", value))

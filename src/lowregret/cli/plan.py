"""`lowregret plan`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli.outcome import exit_codes

if TYPE_CHECKING:
    from lowregret.plan.plan import Plan

_MEASURED_EXAMPLES = 64
_WIDEST = 104
_DATA, _TRAINING, _RL = "Data", "Training", "Reinforcement learning"


def plan(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL [DATA]",
            help="A model: folder, .gguf file, bundled base, hub id or a name of the catalogue. Then training rows.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, as the other verbs have it.", show_default=False)
    ] = None,
    objective: Annotated[str, typer.Option(help="sft or rl.")] = "sft",
    method: Annotated[
        str | None,
        typer.Option(help="full, lora:RANK or lora:RANK:TARGETS. (default: as advised)", show_default=False),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(help="What to run on: a name such as H100, or auto for this machine.", show_default=False),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="Devices that share the weights (FSDP). (default: 1)", show_default=False)
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="Per hour and device. (default: that of the catalogue)", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Training rows, when they do not stand behind the model.", rich_help_panel=_DATA, show_default=False
        ),
    ] = None,
    eval_data: o.EvalData = None,
    prompt_field: o.PromptField = None,
    completion_field: o.CompletionField = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Longest example in tokens. (default: what the data need)", rich_help_panel=_DATA, show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure the base's loss on a sample of the data (loads the base).",
            rich_help_panel=_DATA,
        ),
    ] = False,
    pilot: Annotated[
        Path | None,
        typer.Option(
            help="A finished run or study on such data: does it teach or elicit, and how much?",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Examples per step. (default: as advised)", rich_help_panel=_TRAINING, show_default=False),
    ] = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="A rate to judge. (default: as advised)", rich_help_panel=_TRAINING, show_default=False),
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Examples per forward/backward. (default: as many as fit)",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    checkpoint_activations: o.CheckpointActivations = None,
    group_size: Annotated[
        int | None, typer.Option(help="Samples of a problem. (default: 32)", rich_help_panel=_RL, show_default=False)
    ] = None,
    pass_rate: Annotated[
        float | None,
        typer.Option(help="Share of samples that are right. (default: 0.5)", rich_help_panel=_RL, show_default=False),
    ] = None,
    compare_models: Annotated[
        bool, typer.Option("--compare-models", help="Several MODELs side by side; data by --data.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the plan as Markdown.")] = False,
) -> None:
    """LoRA or full fine-tuning, which rank and rate, how much memory, time and money: before anything is spent.

    `lowregret plan qwen3-8b train.jsonl --hardware H100`. Nothing is loaded, trained or fetched.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("names", "model", "data", "measure", "compare_models", "json_", "markdown"):
        flags.pop(name)
    with exit_codes():
        from lowregret.errors import SpecError

        if json_ and markdown:
            raise SpecError("--json and --markdown: choose one.")
        models, source = _split([*([model] if model else []), *(names or [])], data, compare_models)
        if measure and pilot is not None:
            raise SpecError("--measure and --pilot both say what the data hold; a pilot says it better. Choose one.")
        for flag, given in (("--measure", measure), ("--pilot", pilot), ("--eval-data", eval_data)):
            if given and source is None:
                raise SpecError(f"{flag} needs data to plan for. Name them behind the model, or with --data.")
        plans = []
        for name in models:
            from lowregret.plan.api import make_plan as make

            bits = _measure(name, source, flags) if measure and source is not None else None
            plans.append(make(name, source, bits_per_token=bits, **flags))
        _print(plans, side_by_side=compare_models, as_json=json_, markdown=markdown)


def _split(names: list[str], data: str | None, several: bool) -> tuple[list[str], str | None]:
    """The models and the data that the arguments name."""
    from lowregret.data.readers.registry import FILE_SUFFIXES, SOURCE_PREFIXES
    from lowregret.errors import SpecError

    def is_data(name: str) -> bool:
        return name.startswith(SOURCE_PREFIXES) or name.lower().endswith(FILE_SUFFIXES)

    if not names or is_data(names[0]):
        raise SpecError("missing MODEL. `lowregret plan qwen3-8b train.jsonl` plans a model of the catalogue.")
    rest = names[1:]
    if several:
        sources = [name for name in rest if is_data(name)]
        models = [names[0], *(name for name in rest if not is_data(name))]
    else:
        sources, models = rest, names[:1]
    sources += [data] if data is not None else []
    if len(sources) > 1:
        hint = "" if several else " To set models side by side, add --compare-models."
        raise SpecError(f"{sources[1]!r} is one name too many: one source of data is planned for.{hint}")
    return models, sources[0] if sources else None


def _measure(model: str, source: str, flags: dict[str, Any]) -> float:
    """Bits per supervised token of the base on the first examples of the source."""
    from lowregret.spec import DataSpec, TrainingSpec
    from lowregret.train.job import evaluate_model

    columns = {name: flags[name] for name in ("prompt_field", "completion_field")}
    longest = {} if flags["max_length"] is None else {"max_length": flags["max_length"]}
    spec = DataSpec(train=source, max_eval=_MEASURED_EXAMPLES, skip_bad_rows=True, **columns, **longest)
    found = evaluate_model(TrainingSpec(model=model, data=spec))
    return found["nll"] / math.log(2)


def _print(plans: list[Plan], *, side_by_side: bool, as_json: bool, markdown: bool) -> None:
    if as_json:
        forms = [plan.as_dict() for plan in plans]
        typer.echo(json.dumps({"models": forms} if side_by_side else forms[0], indent=2, allow_nan=False))
        return
    from lowregret.plan import page

    if markdown:
        typer.echo(page.models_markdown(plans) if side_by_side else page.markdown(plans[0]))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    console.print(page.models_page(plans) if side_by_side else page.page(plans[0]))

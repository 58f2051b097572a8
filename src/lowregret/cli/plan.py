"""`lowregret plan`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import say, say_json
from lowregret.errors import SpecError
from lowregret.spec import TrainingSpec, build
from lowregret.spec.plan import PlanSpec, needs_data

if TYPE_CHECKING:
    from lowregret.plan.plan import Plan

ASKS = VerbFlags(PlanSpec)
_MEASURED_EXAMPLES = 64
_WIDEST = 104


@verb("plan", ASKS.parameters())
def plan(
    *names: Annotated[
        str,
        positional(
            "A model: folder, .gguf file, bundled base, hub id or a name of the catalogue. Then training rows.",
            "MODEL [DATA]",
        ),
    ],
    model: Annotated[str | None, option("The model, as the other verbs have it.")] = None,
    data: Annotated[str | None, option("Training rows, when they do not stand behind the model.")] = None,
    measure: Annotated[bool, option("Measure the base's loss on a sample of the data (loads the base).")] = False,
    study: Annotated[
        str | None,
        option("Simulate a study on a --cluster: a question's name or all, on MODEL, else on the question's own base."),
    ] = None,
    cluster: Annotated[
        str | None, option("What the --study is simulated on, NUMBERxHARDWARE, such as 64xH100.")
    ] = None,
    preempted_hours: Annotated[
        float | None,
        option("Of the --cluster: mean hours until a node is taken back. (default: never; nodes only fail)"),
    ] = None,
    compare_models: Annotated[bool, option("Several MODELs side by side; data by --data.")] = False,
    as_json: o.Json = False,
    markdown: Annotated[bool, option("Print the plan as Markdown.")] = False,
    **flags: Any,
) -> None:
    """`lowregret plan qwen3-8b train.jsonl --hardware H100`. Nothing is loaded, trained or fetched."""
    if as_json and markdown:
        raise SpecError("--json and --markdown: choose one.")
    if study is not None or cluster is not None or preempted_hours is not None:
        own = [*([model] if model else []), *names]
        _simulate(study, cluster, preempted_hours, own, as_json, flags, {"data": data, "measure": measure})
        return
    models, source = _split([*([model] if model else []), *names], data, compare_models)
    if measure and "pilot" in flags:
        raise SpecError("--measure and --pilot both say what the data hold; a pilot says it better. Choose one.")
    if measure and flags.get("objective") == "rl":
        raise SpecError(
            "--measure is of use with --objective sft only: rewards, not losses, are what an episode tells."
        )
    if measure and source is None:
        raise needs_data("measure")
    plans = []
    for name in models:
        from lowregret.plan.api import make_plan as make

        bits = _measure(name, source, flags) if measure and source is not None else None
        plans.append(make(name, source, bits_per_token=bits, **flags))
    _print(plans, side_by_side=compare_models, as_json=as_json, markdown=markdown)


def _simulate(
    study: str | None,
    cluster: str | None,
    preempted_hours: float | None,
    models: list[str],
    as_json: bool,
    flags: dict[str, Any],
    others: dict[str, Any],
) -> None:
    """A study on a cluster that is not there."""
    if study is None or cluster is None:
        raise SpecError("--study and --cluster go together: plan --study all --cluster 64xH100.")
    given = [name for name, value in {**flags, **others}.items() if value is not None and value is not False]
    unused = [name for name in given if name != "price"]
    if unused:
        raise SpecError(f"--{unused[0].replace('_', '-')}: is of no use with --study. Leave it out.")
    from lowregret.study.cluster import simulate_study

    found = simulate_study(study, cluster, models=models, price=flags.get("price"), preempted_hours=preempted_hours)
    if as_json:
        say_json({"study": study, "clusters": [each.as_dict() for each in found]})
        return
    from lowregret.cli.cluster import show_simulation

    show_simulation(study, found)


def _split(names: list[str], data: str | None, several: bool) -> tuple[list[str], str | None]:
    """The models and the data that the arguments name."""
    from lowregret.data.readers.registry import is_data

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
        if all(map(is_data, sources)):
            hint = " Several files go into one name, with commas between or as a pattern in quotes."
        raise SpecError(f"{sources[1]!r} is one name too many: one source of data is planned for.{hint}")
    return models, sources[0] if sources else None


def _measure(model: str, source: str, flags: dict[str, Any]) -> float:
    """Bits per supervised token of the base on the first examples of the source."""
    # What is wrong with a flag is said by its name, and before anything is loaded.
    build(PlanSpec, {name: value for name, value in flags.items() if value is not None})
    data: dict[str, Any] = {"train": source, "max_eval": _MEASURED_EXAMPLES, "skip_bad_rows": True}
    data |= {name: flags[name] for name in ("prompt_field", "completion_field", "max_length") if name in flags}
    spec = build(TrainingSpec, {"model": model, "data": data})
    from lowregret.train.job import evaluate_model

    return evaluate_model(spec)["nll"] / math.log(2)


def _print(plans: list[Plan], *, side_by_side: bool, as_json: bool, markdown: bool) -> None:
    if as_json:
        forms = [plan.as_dict() for plan in plans]
        say_json({"models": forms} if side_by_side else forms[0])
        return
    from lowregret.plan import page

    if markdown:
        say(page.models_markdown(plans) if side_by_side else page.markdown(plans[0]))
        return
    from lowregret.progress.console import make_console

    console = make_console()
    console.soft_wrap, console.width = False, min(console.width, _WIDEST)
    console.print(page.models_page(plans) if side_by_side else page.page(plans[0]))

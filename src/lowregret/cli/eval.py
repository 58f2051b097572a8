"""`lowregret eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from lowregret.activity import doing
from lowregret.cli import objective as objectives
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, aside, say, say_json
from lowregret.cli.specs import make_spec
from lowregret.errors import SpecError, did_you_mean
from lowregret.spec import TrainingSpec, TrainSpec, build
from lowregret.spec.method import Quantisation

Result = tuple[Mapping[str, Any], str]
"""The numbers, and the line that says them."""
ASKS = VerbFlags(
    TrainingSpec,
    leaves_out={
        "it is about how a policy is trained, and nothing is trained here": (
            "optimizer", "batch_size", "micro_batch_size", "memory_gb", "checkpoint_activations", "offload_activations",
            "balance_experts",
            "epochs", "steps", "evals", "checkpoint_seconds", "data.max_train",
            "objective.group_size", "objective.sampler", "objective.estimator", "objective.clip",
            "objective.divide_by_std", "objective.kl", "objective.entropy", "objective.updates",
        ),
        "--task says it": ("objective.kind",),
        "all rows of a file are held out here": ("data.eval_fraction", "data.split_seed"),
    },
    says={"data": "Held-out rows: a file, a hub dataset id, or builtin:NAME."},
    defaults={"model": "that of RUN", "data": "that of RUN"},
)  # fmt: skip
_MACHINE = ("precision", "device", "devices", "parallel")
_WITH_A_RUN = ("max_eval", *_MACHINE)
"""What may be asked otherwise than the run had it."""
_WITH_ROWS = ("data", "prompt_field", "completion_field", "max_length", "overlong", "skip_bad_rows")
"""And of other rows than its own."""


@verb("eval", ASKS.parameters())
def evaluate(
    run: Annotated[
        Path | None,
        positional(
            "A folder of `lowregret train`: its result, on the held-out data that judged it, or on those of --data.",
            "RUN",
        ),
    ] = None,
    /,
    *,
    adapter: Annotated[Path | None, option("A folder with a LoRA in PEFT's format.")] = None,
    quantisation: Annotated[
        str | None, option("Of the base: none, or nf4. (default: as RUN was trained; none without RUN)")
    ] = None,
    as_json: o.Json = False,
    **flags: Any,
) -> None:
    """Of a builtin or hub source the test split is used; of a file, all rows. A task holds out what it does in
    training.

    The number is the one that training reported for the same held-out data. RUN repeats the split that its training
    made.
    """
    if not flags.keys().isdisjoint(objectives.FIELDS):
        flags["objective"] = "rl"
    base = None if quantisation is None else _quantisation(quantisation)
    from lowregret.cli.progress import activities_shown

    with activities_shown():
        if run is not None:
            found, words = _of_run(run, adapter, flags, base)
        else:
            found, words = _of_options(adapter, flags, base or "none")
    if as_json:
        say_json(found, indent=None)
    else:
        say(words)


def _quantisation(asked: str) -> Quantisation:
    known: tuple[Quantisation, ...] = get_args(Quantisation)
    found = next((each for each in known if each == asked), None)
    if found is None:
        raise SpecError(f"--quantisation {asked!r}: no such one. {did_you_mean(asked, get_args(Quantisation))}")
    return found


def _of_options(adapter: Path | None, flags: dict[str, Any], quantisation: Quantisation) -> Result:
    """Of the options alone."""
    if "eval_data" in flags and "objective" not in flags:
        raise SpecError("--eval-data is of use with --task only. Give the held-out rows as --data.")
    spec = make_spec(TrainingSpec, None, flags)
    if spec.objective.kind == "rl":
        return _rewards(spec, adapter, quantisation)
    with doing(LIBRARIES):
        from lowregret.train.job import evaluate_model

    return _losses(evaluate_model(spec, adapter, quantisation, say=aside))


def _of_run(run: Path, adapter: Path | None, flags: dict[str, Any], quantisation: Quantisation | None) -> Result:
    """Of what a run has made, with what is asked otherwise."""
    with doing(LIBRARIES):
        from lowregret.train.finished import evaluate_again, require_reward, trained_spec

    trained, made = trained_spec(run)
    quantisation = quantisation or trained.method.quantisation
    rewarded = trained.objective.kind == "rl"
    if not rewarded and flags.get("objective") == "rl":
        raise SpecError(
            f"{run}: was trained on examples. Give --model and --adapter with --task for its reward; without --task "
            "its loss is measured again."
        )
    allowed = (*_WITH_A_RUN, "objective", *(objectives.FIELDS if rewarded else _WITH_ROWS if "data" in flags else ()))
    own = ["adapter"] if adapter is not None else []
    own += [name for name in flags if name not in allowed]
    if own:
        remedy = "Leave it out, give no run" + ("" if rewarded or own[0] not in _WITH_ROWS else ", or give --data too")
        raise SpecError(f"--{own[0].replace('_', '-')}: {run} has its own. {remedy}.")
    values = trained.model_dump(mode="json", exclude=set(TrainSpec.model_fields) - set(TrainingSpec.model_fields))
    values["objective"] = objectives.objective(values["objective"], flags)
    rows = {name: flags[name] for name in ("max_eval", *_WITH_ROWS) if name in flags}
    if "data" in rows:
        kept = {name: values["data"][name] for name in ("max_length", "overlong", "skip_bad_rows")}
        values["data"] = {**kept, "train": rows.pop("data"), **rows}
    else:
        values["data"] |= rows
    values |= {"devices": 1, "parallel": None} | {name: flags[name] for name in _MACHINE if name in flags}
    spec = build(TrainingSpec, values, source=str(run))
    if rewarded:
        require_reward(run, spec)
        return _rewards(spec, made, quantisation)
    if "data" in flags:
        from lowregret.train.job import evaluate_model

        return _losses(evaluate_model(spec, made, quantisation, say=aside))
    return _losses(evaluate_again(run, spec, made, quantisation, say=aside))


def _losses(found: Mapping[str, Any]) -> Result:
    size = f"{found['tokens']:,} tokens, {found['examples']:,} examples"
    return found, f"{found['nll']:.6f} nats per supervised token ({size})"


def _rewards(spec: TrainingSpec, adapter: Path | None, quantisation: Quantisation) -> Result:
    from lowregret.analysis.pass_rate import pass_interval
    from lowregret.train.rl.evaluate import evaluate_reward

    found = evaluate_reward(spec, adapter, quantisation, say=aside)
    problems, rate = len(found.pass_rates), sum(found.pass_rates) / len(found.pass_rates)
    low, high = pass_interval(found.pass_rates, found.samples)
    numbers = {
        "reward": found.reward,
        "pass_rate": rate,
        "pass_rate_ci95": [low, high],
        "problems": problems,
        "samples": found.samples,
        "tokens": found.tokens,
        "failures": found.failures,
    }
    failed = f"; {found.failures:,} could not be graded" if found.failures else ""
    return numbers, (
        f"reward {found.reward:.4f}; pass rate {rate:.3f} (95 %: {low:.3f} to {high:.3f}), "
        f"{problems:,} problems, {found.samples} completion{'s' * (found.samples > 1)} each{failed}"
    )

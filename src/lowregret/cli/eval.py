"""`lowregret eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from lowregret.cli import objective as objectives
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import aside, say, say_json
from lowregret.cli.specs import make_spec
from lowregret.errors import SpecError
from lowregret.spec import TrainingSpec, build

ASKS = VerbFlags(
    TrainingSpec,
    leaves_out={
        "it is about how a policy is trained, and nothing is trained here": (
            "optimizer", "batch_size", "micro_batch_size", "memory_gb", "checkpoint_activations", "balance_experts",
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
_WITH_A_RUN = ("max_eval", "precision", "device", *objectives.FIELDS)
"""What may be asked otherwise than the run had it."""


@verb("eval", ASKS.parameters())
def evaluate(
    run: Annotated[
        Path | None, positional("A folder of `lowregret train`: its result, on its own held-out data.", "RUN")
    ] = None,
    /,
    *,
    adapter: Annotated[Path | None, option("A folder with a LoRA in PEFT's format.")] = None,
    as_json: o.Json = False,
    **flags: Any,
) -> None:
    """Of a builtin or hub source the test split is used; of a file, all rows. A task holds out what it does in
    training.

    The number is the one that training reported for the same held-out data.
    """
    if not flags.keys().isdisjoint(objectives.FIELDS):
        flags["objective"] = "rl"
    spec, adapter = _asked(run, adapter, flags)
    found, words = (_rewards if spec.objective.kind == "rl" else _losses)(spec, adapter)
    if as_json:
        say_json(found, indent=None)
    else:
        say(words)


def _asked(run: Path | None, adapter: Path | None, flags: dict[str, Any]) -> tuple[TrainingSpec, Path | None]:
    """(what is evaluated, the adapter on it): of a run, with what is asked otherwise, or of the options alone."""
    if run is None:
        if "eval_data" in flags and "objective" not in flags:
            raise SpecError("--eval-data is of use with --task only. Give the held-out rows as --data.")
        return make_spec(TrainingSpec, None, flags), adapter
    own = ["adapter"] if adapter is not None else []
    own += [name for name in flags if name not in (*_WITH_A_RUN, "objective")]
    if own:
        raise SpecError(f"--{own[0].replace('_', '-')}: {run} has its own. Leave it out, or give no run.")
    from lowregret.train.rl.evaluate import trained_spec

    spec, adapter = trained_spec(run)
    values = spec.model_dump(mode="json")
    values["objective"] = objectives.objective(values["objective"], flags)
    if values["objective"]["kind"] != "rl":
        raise SpecError(
            f"{run}: was trained on examples. Give --model, --adapter and --data for its loss, or --task for a reward."
        )
    if "max_eval" in flags:
        values["data"]["max_eval"] = flags["max_eval"]
    values |= {name: flags[name] for name in ("precision", "device") if name in flags}
    kept = {name: value for name, value in values.items() if name in TrainingSpec.model_fields}
    return build(TrainingSpec, kept, source=str(run)), adapter


def _losses(spec: TrainingSpec, adapter: Path | None) -> tuple[Mapping[str, Any], str]:
    from lowregret.train.job import evaluate_model

    found = evaluate_model(spec, adapter, say=aside)
    size = f"{found['tokens']:,} tokens, {found['examples']:,} examples"
    return found, f"{found['nll']:.6f} nats per supervised token ({size})"


def _rewards(spec: TrainingSpec, adapter: Path | None) -> tuple[Mapping[str, Any], str]:
    from lowregret.analysis.pass_rate import pass_interval
    from lowregret.train.rl.evaluate import evaluate_reward

    found = evaluate_reward(spec, adapter, say=aside)
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

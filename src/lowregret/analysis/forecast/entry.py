"""A comparison's folder as an entry of the bank. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowregret import limits
from lowregret.analysis.forecast.pilots import FULL
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.bank import MOST_NATS, BankEntry, BankMethod, RateCurve, is_lora
from lowregret.runs.files import METRICS, SPEC, VERDICT
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import read_manifest
from lowregret.runs.metrics import held_out_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import base_facts, read_trials, start_loss, trial_folder
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.spec import CompareSpec, build
from lowregret.strict_json import to_json

LEAST_SEEDS = 2
"""Of a method whose result a bank takes: with one, nobody knows how much of a regret is the seed's."""


def finished_entry(folder: Path) -> BankEntry:
    """What a bank keeps of a comparison; RecordsError when it measured no regret in nats, or not all of it, or under a
    schedule or with so few seeds that no forecast may be made from it.

    A verdict need not be settled: a forecast is judged by the measured regret and its error bar, whatever they are.
    """
    path = folder / VERDICT
    if not path.exists():
        raise RecordsError(f"{folder}: no finished comparison: it has no {VERDICT}. Name one that `compare` has left.")
    verdict = read_record(Verdict, path)
    if verdict.regret_nats is None:
        raise RecordsError(f"{folder}: no regret in nats was measured there. A bank is of supervised fine-tuning.")
    if verdict.decision is not None:
        raise RecordsError(
            f"{folder}: was decided by --until-decided, and what could not change the decision is not measured there: "
            "its regret may be a bound. Run the same `compare` without the flag, which goes on from it."
        )
    _require_constant(folder)
    results = {result.name: result for result in verdict.methods}
    _require_seeds(path, results)
    entry = entry_so_far(folder)
    measured = [
        method.model_copy(
            update={
                "loss": results[method.name].test_nll,
                "regret_nats": results[method.name].regret_nats,
                "ci95": results[method.name].ci95,
            }
        )
        for method in entry.methods
        if method.name in results
    ]
    return entry.model_copy(update={"methods": tuple(measured)})


def entry_so_far(folder: Path) -> BankEntry:
    """A comparison with the curves that its search has by now, and no result of any method."""
    manifest, records, base = read_manifest(folder), read_trials(folder), start_loss(folder)
    identity = next((record.inputs for record in records if record.inputs), None)
    facts = base_facts(folder)
    if manifest is None or identity is None or base is None or facts.get("supervised_tokens") is None:
        raise RecordsError(
            f"{folder}: no comparison of supervised fine-tuning by this version. Run `compare` in another --out."
        )
    begun = [record for record in records if record.trainable_parameters > 0]  # of others nothing is known
    steps, batch, examples = _length(read_json(folder / SPEC), folder)
    try:
        return BankEntry(
            identity=identity,
            base=_digest(manifest.base),
            data=manifest.train,
            steps=steps,
            batch_size=batch,
            epochs=steps * batch / examples,
            supervised_tokens=facts["supervised_tokens"],
            fact_bits=facts.get("fact_bits") or None,
            base_nll=base,
            methods=tuple(_method(folder, name, records) for name in sorted({record.method for record in begun})),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordsError(f"{folder}: damaged: {where}: {first['msg']}. Run `compare` in another --out.") from None


def _require_constant(folder: Path) -> None:
    """RecordsError for a learning rate that decays: a pilot is not a shorter run then, and an entry does not say it."""
    path = folder / SPEC
    schedule = build(CompareSpec, stored_spec(path)["spec"], source=str(path)).optimizer.schedule
    if schedule != "constant":
        raise RecordsError(
            f"{path}: optimizer.schedule is {schedule}, and a bank is of constant learning rates, under which a pilot "
            "is a shorter run. Add a comparison with --schedule constant (in another --out)."
        )


def _require_seeds(path: Path, results: Mapping[str, MethodResult]) -> None:
    """RecordsError unless full fine-tuning has a loss, and it and every LoRA with a regret have two seeds."""
    if FULL not in results or results[FULL].test_nll is None:
        raise RecordsError(
            f"{path}: methods: no loss of {FULL} is there, which forecasts are against. Run `compare` with it among "
            "--methods."
        )
    for result in results.values():
        if result.seeds < LEAST_SEEDS and (
            result.name == FULL or (is_lora(result.name) and result.regret_nats is not None)
        ):
            raise RecordsError(
                f"{path}: methods: {result.name} has {result.seeds} seed, and a bank takes comparisons of "
                f"{LEAST_SEEDS} or more: with one, nobody knows how much of the regret is the seed's. Run the same "
                f"`compare` with --seeds {LEAST_SEEDS} or more: it goes on from there."
            )


def _digest(files: Mapping[str, str]) -> str:
    """Of a base's weights and configuration: another template is the same base."""
    kept = {name: digest for name, digest in files.items() if name.endswith((".safetensors", ".gguf", "config.json"))}
    return hashlib.sha256(to_json(kept, sort_keys=True).encode()).hexdigest()


def _length(stored: Any, folder: Path) -> tuple[int, int, int]:
    """Steps of a trial, examples of a step and of a pass."""
    try:
        resolved = stored["resolved"]
        found = int(resolved["steps"]), int(stored["spec"]["batch_size"]), int(resolved["train_examples"])
        if min(found) < 1 or max(found) > limits.EXAMPLES:
            raise ValueError(found)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RecordsError(f"{folder / SPEC}: names no steps, batch_size and train_examples. Is this a run?") from None
    return found


def _method(folder: Path, name: str, records: Sequence[TrialRecord]) -> BankMethod:
    own = sorted((record for record in records if record.method == name), key=lambda record: record.learning_rate)
    curves = [
        (record.learning_rate, held_out_curve(trial_folder(folder, record.id) / METRICS))
        for record in own
        if record.seed == SEARCH_SEED
    ]
    return BankMethod(
        name=name,
        parameters=max(record.trainable_parameters for record in own),
        curves=tuple(
            RateCurve(learning_rate=rate, losses={step: loss for step, loss in curve.items() if abs(loss) <= MOST_NATS})
            for rate, curve in curves
            if curve
        ),
    )

"""A finished comparison as an entry of the bank. Torch-free."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.bank import BankEntry, BankMethod, RateCurve
from lowregret.runs.files import METRICS, SPEC, VERDICT
from lowregret.runs.manifest import read_manifest
from lowregret.runs.metrics import held_out_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import base_facts, read_trials, trial_folder
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.strict_json import to_json


def bank_entry(folder: Path) -> BankEntry:
    """What a bank keeps of a comparison's folder; RecordsError when it has no regret, or is not finished.

    A verdict need not be settled: a forecast is judged by the measured regret and its error bar, whatever they are.
    """
    path = folder / VERDICT
    if not path.exists():
        raise RecordsError(f"{folder}: no finished comparison: it has no {VERDICT}. Name one that `compare` has left.")
    verdict = read_record(Verdict, path)
    if verdict.regret_nats is None or verdict.base_nll is None:
        raise RecordsError(f"{folder}: no regret in nats was measured there. A bank is of supervised fine-tuning.")
    manifest, records = read_manifest(folder), read_trials(folder)
    identity = next((record.inputs for record in records if record.inputs), None)
    facts = base_facts(folder)
    if manifest is None or identity is None or facts.get("supervised_tokens") is None:
        raise RecordsError(
            f"{folder}: an earlier lowregret has made it. Run the same `compare` again in another --out."
        )
    stored = read_json(folder / SPEC)
    steps, batch, examples = _length(stored, folder)
    return BankEntry(
        identity=identity,
        base=_digest(manifest.base),
        data=manifest.train,
        steps=steps,
        batch_size=batch,
        epochs=steps * batch / examples,
        supervised_tokens=facts["supervised_tokens"],
        fact_bits=facts.get("fact_bits"),
        base_nll=verdict.base_nll,
        methods=tuple(_method(folder, result, records) for result in verdict.methods),
    )


def _digest(files: Mapping[str, str]) -> str:
    """Of a base's weights and configuration: another template is the same base."""
    kept = {name: digest for name, digest in files.items() if name.endswith((".safetensors", ".gguf", "config.json"))}
    return hashlib.sha256(to_json(kept, sort_keys=True).encode()).hexdigest()


def _length(stored: Any, folder: Path) -> tuple[int, int, int]:
    """Steps of a trial, examples of a step and of a pass."""
    try:
        resolved = stored["resolved"]
        return int(resolved["steps"]), int(stored["spec"]["batch_size"]), int(resolved["train_examples"])
    except (KeyError, TypeError, ValueError):
        raise RecordsError(f"{folder / SPEC}: names no steps, batch_size and train_examples. Is this a run?") from None


def _method(folder: Path, result: MethodResult, records: Sequence[TrialRecord]) -> BankMethod:
    own = [record for record in records if record.method == result.name and record.seed == SEARCH_SEED]
    curves = [(record, held_out_curve(trial_folder(folder, record.id) / METRICS)) for record in own]
    return BankMethod(
        name=result.name,
        parameters=result.trainable_parameters,
        curves=tuple(
            RateCurve(
                learning_rate=record.learning_rate, losses={s: loss for s, loss in curve.items() if math.isfinite(loss)}
            )
            for record, curve in sorted(curves, key=lambda each: each[0].learning_rate)
            if curve
        ),
        loss=result.test_nll,
        regret_nats=result.regret_nats,
        ci95=result.ci95,
    )

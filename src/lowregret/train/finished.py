"""A folder that `lowregret train` has left, taken up again: what was trained, and its held-out loss once more."""

from __future__ import annotations

from pathlib import Path

from lowregret.errors import DataError, RecordsError
from lowregret.runs.extension import known_choices
from lowregret.runs.files import ADAPTER, MODEL, SPEC
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import read_manifest
from lowregret.runs.shipped import require_as_shipped
from lowregret.spec import FullFT, TrainingSpec, TrainSpec, build
from lowregret.spec.method import Quantisation
from lowregret.train.inputs import Say, open_inputs
from lowregret.train.job import HeldOutLoss, evaluate_examples
from lowregret.train.manifest import rewarded_by


def trained_spec(run: Path) -> tuple[TrainSpec, Path | None]:
    """(the spec of a run of `lowregret train` with its result as the base, the adapter's folder if it made one).

    RecordsError when the folder holds no finished run of `lowregret train`.
    """
    asked = stored_spec(run / SPEC)["spec"] if (run / SPEC).is_file() else {}
    if "method" not in asked:
        raise RecordsError(f"{run}: is no run of `lowregret train`. Give --model and --adapter instead.")
    spec = build(TrainSpec, asked, source=str(run / SPEC))
    result = run / (MODEL if isinstance(spec.method, FullFT) else ADAPTER)
    if not result.is_dir():
        raise RecordsError(f"{run}: has no {result.name}/ yet. Let the run finish: start its command again.")
    require_as_shipped(result)
    if isinstance(spec.method, FullFT):
        alone = spec.data.model_copy(update={"chat_template": None})  # the one that was chosen was saved with it
        return spec.model_copy(update={"model": str(result), "data": alone}), None
    return spec, result


def require_reward(run: Path, spec: TrainingSpec) -> None:
    """RecordsError when the file of the run's own reward function, or one that it imports, has changed since."""
    manifest = read_manifest(run)
    there, here = {} if manifest is None else manifest.reward, rewarded_by(spec)
    if there and here and next(iter(there)) == next(iter(here)) and there != here:
        changed = sorted(name for name in {**there, **here} if there.get(name) != here.get(name))
        raise RecordsError(
            f"{run}: was rewarded by {next(iter(there))} as it was; {', '.join(changed)} changed since. Restore what "
            "changed, or give --model and --adapter instead of the run to judge by what it is now."
        )


def evaluate_again(
    run: Path,
    spec: TrainingSpec,
    adapter: Path | None = None,
    quantisation: Quantisation = "none",
    say: Say = lambda line: None,
) -> HeldOutLoss:
    """The loss of a run's result on the held-out examples that judged it: the run's own `test_nll`, to the bit in
    float32.

    Args:
        run: a folder of `lowregret train`, of supervised fine-tuning.
        spec, adapter: of `trained_spec`. Another `data.max_eval` than the run's takes other examples.
        quantisation: of the base; the run's method says it.

    Raises:
        DataError: the examples are no longer those of the run: its data, or its tokenizer, have changed since.
    """
    stored = known_choices(run)
    inputs = open_inputs(spec, say, stored)
    asked = (stored_spec(run / SPEC)["spec"].get("data") or {}).get("max_eval")
    if stored is not None and asked == spec.data.max_eval and stored["test_data"] != inputs.resolved["test_data"]:
        raise DataError(
            f"the held-out examples are not those that {run} was judged by: the file, the tokenizer or its chat "
            "template has changed since. Bring them back, or give other rows by --data.",
            source=spec.data.train,
        )
    return evaluate_examples(spec, inputs.source, inputs.examples.test, adapter, quantisation)

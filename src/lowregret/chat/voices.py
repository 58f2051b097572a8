"""Who takes part in a chat: the base and the winners of a run, or a base and adapters that are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.data.chat.template import choose_template
from lowregret.engine import Engine
from lowregret.engine.device import choose_device, choose_dtype
from lowregret.errors import RecordsError, SpecError, did_you_mean
from lowregret.export.peft import load_adapter
from lowregret.lora.formats.peft import read_adapter
from lowregret.models.files import base_files
from lowregret.models.load import load_base, resolve
from lowregret.runs.files import SPEC
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import digests, read_manifest
from lowregret.runs.replies import BASE_SPEAKER, FULL, speaker, winners
from lowregret.runs.shipped import require_as_shipped
from lowregret.spec import CompareSpec, TrainingSpec, TrainSpec, build
from lowregret.spec.chat import ChatSpec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Voice:
    """One model, by the name that its replies have."""

    name: str
    engine: Engine
    policy: str
    """On the engine; `base` is the bare base."""


def of_model(model: str, adapters: Mapping[str, Path], spec: ChatSpec, say: Say) -> list[Voice]:
    """A base and adapters on it, all in one engine."""
    for folder in adapters.values():
        read_adapter(folder)  # what is wrong with it is said before the base is loaded
    return _on_one_base(model, (BASE_SPEAKER, *adapters), adapters, spec, say)


def of_run(run: Path, wanted: Sequence[str], spec: ChatSpec, say: Say) -> list[Voice]:
    """Those of a run of `lowregret compare` or `train` that are wanted, in this order.

    By default the base and a training's result, or a compare's best LoRA: its best FullFT is a second base in memory,
    and is loaded when it is asked for. RecordsError when the folder holds no finished run, or other files than it has
    shipped or was made on; SpecError for a name that it does not have.
    """
    trained = _trained(run)
    found: dict[str, Path] = {speaker(record).name: folder for folder, record in winners(run).items()}
    if not found:
        raise RecordsError(f"{run}: has no result yet. Let the run finish: start its command again.")
    names: Sequence[str] = wanted or (
        BASE_SPEAKER,
        *(name for name in found if name != FULL or isinstance(trained, TrainSpec)),
    )
    for name in names:
        if name not in (BASE_SPEAKER, *found):
            raise SpecError(f"--with {name}: {run} has none. {did_you_mean(name, (BASE_SPEAKER, *found))}")
    spec = _as_trained(spec, trained)
    adapters = {name: found[name] for name in names if name in found and name != FULL}
    for name in names:
        if name in found:
            require_as_shipped(found[name])
    voices: dict[str, Voice] = {}
    if base := [name for name in names if name != FULL]:
        _require_base(run, trained.model)
        voices |= {voice.name: voice for voice in _on_one_base(trained.model, base, adapters, spec, say)}
    if FULL in names:
        alone = spec.model_copy(update={"chat_template": None})  # the one that was chosen was saved with it
        engine = _engine(str(found[FULL]), alone)
        voices[FULL] = Voice(FULL, engine, BASE_SPEAKER)
    return [voices[name] for name in names]


def _trained(run: Path) -> TrainingSpec:
    """What a run was asked; RecordsError for a folder of something else."""
    asked = stored_spec(run / SPEC)["spec"] if (run / SPEC).is_file() else {}
    if not asked.keys() & {"methods", "method"}:
        raise RecordsError(f"{run}: is no run of `lowregret compare` or `lowregret train`. Give --model instead.")
    return build(CompareSpec if "methods" in asked else TrainSpec, asked, source=str(run / SPEC))


def _as_trained(spec: ChatSpec, trained: TrainingSpec) -> ChatSpec:
    """With the run's own values of what was not asked for."""
    own = {
        "precision": trained.precision,
        "device": trained.device,
        "chat_template": trained.data.chat_template,
    }
    return spec.model_copy(update={name: value for name, value in own.items() if getattr(spec, name) is None})


def _require_base(run: Path, model: str) -> None:
    """RecordsError when the base's files are no longer those of the run."""
    manifest = read_manifest(run)
    if manifest is None:
        return
    now = manifest.model_copy(update={"base": digests(base_files(model))})
    changed = list(manifest.differences(now))
    if changed:
        raise RecordsError(
            f"{run}: {', '.join(changed)} changed since it was made. Bring back what was there, or give --model and "
            "--adapter instead of the run."
        )


def _on_one_base(
    model: str, names: Sequence[str], adapters: Mapping[str, Path], spec: ChatSpec, say: Say
) -> list[Voice]:
    engine = _engine(model, spec)
    for name, folder in adapters.items():
        load_adapter(engine, name, folder, say)
    return [Voice(name, engine, name) for name in names]


def _engine(model: str, spec: ChatSpec) -> Engine:
    device, precision = (
        getattr(spec, name) or TrainingSpec.model_fields[name].default for name in ("device", "precision")
    )
    base = load_base(resolve(model), choose_dtype(precision, choose_device(device)))
    choose_template(base.tokenizer, spec.chat_template)
    return Engine(base, device=device, precision=precision)

"""A saved adapter fitted to a base: every check that needs no weight of it, so that a base without any will do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.errors import ModelError, SpecError
from lowregret.export.experts import SavedExperts, read_experts
from lowregret.lora.formats.fields import method_fields
from lowregret.lora.formats.peft import WEIGHTS_NAME, SavedAdapter, read_adapter
from lowregret.lora.formats.ranks import alike
from lowregret.lora.formats.selection import CONFIG_NAME, missing, selects
from lowregret.models.finite import refuse_broken
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA, build

_BROKEN = "It is a broken copy, or its training had diverged: give another."


@dataclass(frozen=True)
class FittedAdapter:
    """An adapter of which every weight has its place in a base."""

    folder: Path
    config: Mapping[str, Any]
    """adapter_config.json."""
    method: LoRA
    plain: Mapping[str, SavedAdapter]
    """By matrix, all at the method's rank and scale."""
    experts: SavedExperts
    copies: Mapping[str, Tensor]
    """Weights of the base that lie in the file, too."""

    @property
    def adapted(self) -> list[str]:
        """The matrices that it adapts."""
        return sorted({*self.plain, *self.experts.experts})

    def refuse_other_base(self, own: Callable[[str], Tensor | None]) -> None:
        """ModelError when a weight of the base that the file has, too, is not what `own` gives for its name; None is
        for a weight that the base does not have."""
        for name, copy in self.copies.items():
            _same_as_base(self.folder, name, copy, own(name))

    def lacking(self, known: Sequence[Matrix]) -> Iterator[str]:
        """A warning when the file has fewer matrices than its configuration names."""
        lacking = missing(self.config, known, self.adapted)
        if lacking:
            yield (
                f"warning: {self.folder / WEIGHTS_NAME} lacks {len(lacking)} of the {len(lacking) + len(self.adapted)} "
                f"matrices that {CONFIG_NAME} names, the first is {lacking[0]}: they stay as the base has them. If a "
                "save was cut off, fetch it again."
            )

    def other_name(self, given: str) -> Iterator[str]:
        """A warning when the adapter says that it was made on a base of another name than the `given` one."""
        named = self.config.get("base_model_name_or_path")
        if isinstance(named, str) and named and not same_name(named, given):
            yield (
                f"warning: {self.folder / CONFIG_NAME} says that the adapter was made on {named}; it is put on "
                f"{given}. If that is another base, name the right one with --model."
            )


def fit_adapter(model: PreTrainedModel, matrices: Sequence[Matrix], folder: Path) -> FittedAdapter:
    """Read an adapter for a base, of which the shapes are looked at alone; ModelError when it does not fit."""
    file = read_adapter(folder)
    if not file.weights:
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds no LoRA matrices.")
    read = read_experts(model, matrices, folder, file.config, file.weights)
    known = {matrix.name: matrix for matrix in matrices}
    for module in read.plain:
        if module not in known:
            raise ModelError(f"{folder}: adapts {module}, which this base does not have.")
        if selects(file.config, known[module]) is False:
            raise ModelError(
                f"{folder}: {WEIGHTS_NAME} has {module}, which {CONFIG_NAME} does not select: PEFT leaves such weights "
                "out. Take them out of the file, or add the module to target_modules."
            )
    config, weights = alike(folder, file.config, read.plain, fixed=bool(read.experts))
    names = sorted({*weights, *read.experts})
    pattern = "re:^(" + "|".join(name.replace(".", r"\.") for name in names) + ")$"
    method = _method(folder, {**config, "convention": read.convention}, pattern)
    for module, saved in weights.items():
        _check_shapes(folder, known[module], method.rank, saved)
    refuse_broken(str(folder), _tensors(weights, read), _BROKEN)
    return FittedAdapter(folder, file.config, method, weights, read, file.copies)


def _check_shapes(folder: Path, matrix: Matrix, rank: int, saved: SavedAdapter) -> None:
    needed = (rank, matrix.d_in), (matrix.d_out, rank)
    if (tuple(saved.a.shape), tuple(saved.b.shape)) != needed:
        raise ModelError(
            f"{folder}: {matrix.name} has A {tuple(saved.a.shape)} and B {tuple(saved.b.shape)}; this base needs "
            f"{needed[0]} and {needed[1]}."
        )
    if saved.magnitude is not None and saved.magnitude.shape != (matrix.d_out,):
        raise ModelError(
            f"{folder}: {matrix.name} has {saved.magnitude.numel()} magnitudes; this base needs {matrix.d_out}."
        )


def _tensors(plain: Mapping[str, SavedAdapter], read: SavedExperts) -> dict[str, Tensor]:
    """Every weight by its name."""
    found: dict[str, Tensor] = {}
    for name, lora in read.experts.items():
        found |= {f"{name}.lora_A": lora.a, f"{name}.lora_B": lora.b}
    for name, saved in plain.items():
        found |= {f"{name}.lora_A": saved.a, f"{name}.lora_B": saved.b}
        if saved.magnitude is not None:
            found[f"{name}.lora_magnitude"] = saved.magnitude
    return found


def _same_as_base(folder: Path, name: str, copy: Tensor, own: Tensor | None) -> None:
    if own is None:
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: holds {name}, which is neither a LoRA nor a weight of this base. Merge the "
            "adapter into its base with PEFT (merge_and_unload) and give the merged model as --model."
        )
    remedy = (
        "It was trained with the adapter, or the adapter belongs to another base. Give that base as --model; of a "
        "trained weight, the model that PEFT's merge_and_unload gives."
    )
    if copy.shape != own.shape:
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: holds {name} as {tuple(copy.shape)}; this base has {tuple(own.shape)} there. "
            f"{remedy}"
        )
    coarser = min(copy.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
    if not torch.allclose(copy.to(own.device, coarser).float(), own.to(coarser).float()):
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds {name}, with other values than this base has. {remedy}")


def same_name(one: str, other: str) -> bool:
    """Whether two places of a base, folders or hub ids, end in the same name."""
    return _name(one) == _name(other)


def _name(base: str) -> str:
    """What a base is called, wherever it lies: the last part of a path or a hub id, in lower case."""
    parts = [part for part in base.replace("\\", "/").split("/") if part not in ("", ".")]
    cached = next(
        (part for part in parts if part.startswith("models--")), None
    )  # the hub's cache: …/snapshots/REVISION
    last = cached.rpartition("--")[2] if cached else parts[-1] if parts else Path.cwd().name
    return last.lower().removesuffix(".gguf")


def _method(folder: Path, config: Mapping[str, Any], pattern: str) -> LoRA:
    """What adapter_config.json says the weights are; ModelError when it cannot be."""
    file = folder / CONFIG_NAME
    fields = {**method_fields(config), "convention": config["convention"]}
    try:
        method = build(LoRA, {**fields, "targets": (pattern,)})
    except SpecError:
        rank, alpha, dropout = (fields[key] for key in ("rank", "alpha", "dropout"))
        raise ModelError(
            f"{file}: r is {rank!r}, lora_alpha is {alpha!r} and lora_dropout is {dropout!r}; "
            "they must be a whole number, a number above 0 and one from 0 to below 1."
        ) from None
    return method

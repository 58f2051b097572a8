"""Where the matrices of a model lie in its files.

The names on the disk are not those of the modules: transformers renames (a prefix, `block_sparse_moe`) and puts
matrices together (one tensor for the experts of a layer) when it loads. Its own tables of that are asked:
`transformers.conversion_mapping`, and `convert_and_load_state_dict_in_model` in `core_model_loading.py` of 5.23 for
how they are applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D

from lowregret.errors import ModelError
from lowregret.models.experts import columns, stored_name
from lowregret.models.targets import Matrix

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A matrix that a stored tensor is, or that lies in it."""

    matrix: Matrix
    expert: int | None
    """Whose it is; None of a matrix that there is one of."""
    view: View
    """Stored tensor → a view of the matrix, [d_out, d_in]."""


class Names:
    """The tensors of a model's files by the parameters of the model that transformers makes of them."""

    def __init__(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        mapping = get_model_conversion_mapping(model)
        self._prefix = model.base_model_prefix
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._state: Mapping[str, Tensor] = model.state_dict()
        self.stored: dict[str, list[tuple[str, str | None]]] = {}
        """Parameter → (stored name, the pattern of the conversion by which it is a part of it), in transformers' order
        of them."""
        for name in sorted(names, key=dot_natural_key):
            parameter, pattern = self.parameter(name)
            self.stored.setdefault(parameter, []).append((name, pattern))

    def parameter(self, name: str) -> tuple[str, str | None]:
        """(The parameter that a stored tensor becomes, the pattern of a conversion that makes it of several)."""
        known: dict[str, Any] = {"base_model_prefix": self._prefix, "meta_state_dict": self._state}
        found, pattern = rename_source_key(name, self._renamings, self._converters, **known)
        if found not in self._state and name in self._state:
            found, pattern = rename_source_key(name, [], [], **known)
        return found, pattern

    def conversion(self, pattern: str) -> WeightConverter:
        """The conversion that a pattern belongs to."""
        return next(entry for entry in self._converters if pattern in entry.source_patterns)


def places(
    model: PreTrainedModel, names: Names, adapted: Sequence[Matrix], shape: Callable[[str], tuple[int, ...]]
) -> dict[str, list[Part]]:
    """{stored name: the adapted matrices in it}; ModelError for one that is not in the files exactly once, or in a form
    that is not merged here.

    Args:
        model: the base, which may be without weights.
        names: of its files.
        adapted: the matrices to find.
        shape: of a stored tensor.
    """
    found: dict[str, list[Part]] = {}
    for matrix in adapted:
        for name, part in _experts(model, names, matrix) if matrix.experts else _plain(model, names, matrix):
            view = part.view(torch.empty(shape(name), device="meta"))
            if view.shape != (matrix.d_out, matrix.d_in):
                raise ModelError(
                    f"{name}: is {tuple(shape(name))} in the base's files, where {matrix.name} of {matrix.d_out} × "
                    f"{matrix.d_in} was looked for. Give the base that the adapter was made on."
                )
            found.setdefault(name, []).append(part)
    _require_once(found, adapted)
    return found


def _require_once(found: Mapping[str, Sequence[Part]], adapted: Sequence[Matrix]) -> None:
    counts = Counter((part.matrix.name, part.expert) for parts in found.values() for part in parts)
    for matrix in adapted:
        experts = range(matrix.experts.count) if matrix.experts else [None]
        if wrong := [expert for expert in experts if counts[matrix.name, expert] != 1]:
            which = matrix.name if wrong[0] is None else f"expert {wrong[0]} of {matrix.name}"
            raise ModelError(
                f"{which}: is adapted, and lies in {counts[matrix.name, wrong[0]]} tensors of the base's files instead "
                "of one, so that nothing can be merged. Load the base with transformers, save it anew by "
                "save_pretrained, and give that folder as --model."
            )


def _plain(model: PreTrainedModel, names: Names, matrix: Matrix) -> Iterator[tuple[str, Part]]:
    turned = isinstance(model.get_submodule(matrix.name), Conv1D)
    for name, pattern in names.stored.get(f"{matrix.name}.weight", ()):
        if pattern is not None:
            raise _not_merged(names, matrix, name, pattern)
        yield name, Part(matrix, None, torch.t if turned else _as_it_is)


def _experts(model: PreTrainedModel, names: Names, matrix: Matrix) -> Iterator[tuple[str, Part]]:
    """A fused tensor holds all experts' matrices; separate ones come in transformers' order."""
    assert matrix.experts is not None
    place, _, role = matrix.name.rpartition(".")
    module: Any = model.get_submodule(place)
    held = names.stored.get(f"{place}.{stored_name(module, role)}", [])
    for name in (name for name, pattern in held if pattern is None):
        for expert in range(matrix.experts.count):
            yield name, Part(matrix, expert, _in_fused(module, role, expert))
    parts = [(name, pattern) for name, pattern in held if pattern is not None]
    wanted = _pattern(names, module, matrix, *parts[0]) if parts else None
    for expert, name in enumerate(name for name, pattern in parts if pattern == wanted):
        yield name, Part(matrix, expert, _as_it_is)


def _pattern(names: Names, module: Any, matrix: Matrix, name: str, pattern: str) -> str:
    """That of the tensors which are one expert's matrix each; ModelError when transformers puts them together
    otherwise than by stacking, gate above up."""
    role = matrix.name.rpartition(".")[2]
    conversion, gated = names.conversion(pattern), stored_name(module, role) == "gate_up_proj"
    steps = [(type(operation), getattr(operation, "dim", None)) for operation in conversion.operations]
    expected = [(MergeModulelist, 0), (Concatenate, 1)] if gated else [(MergeModulelist, 0)]
    patterns: list[str] = conversion.source_patterns
    straight = not module.is_transposed and (module.is_concatenated or not gated)
    if steps != expected or len(patterns) != len(expected) or not straight:
        raise _not_merged(names, matrix, name, pattern)
    return patterns[1 if gated and role == "up_proj" else 0]


def _in_fused(module: Any, role: str, expert: int) -> View:
    def view(stored: Tensor) -> Tensor:
        own = stored[expert].T if module.is_transposed else stored[expert]
        return own[columns(module, role, len(own))]

    return view


def _as_it_is(stored: Tensor) -> Tensor:
    return stored


def _not_merged(names: Names, matrix: Matrix, name: str, pattern: str) -> ModelError:
    steps = ", ".join(type(operation).__name__ for operation in names.conversion(pattern).operations)
    return ModelError(
        f"{matrix.name}: is adapted, and transformers makes it of {name} by {steps}, which a merge cannot undo. Load "
        "the base with transformers, merge with PEFT (merge_and_unload), and save that."
    )

"""Which tensor of a base's files is which of its matrices.

A file's names are not always the model's. transformers says how the one becomes the other when it loads: it renames
(Mixtral's `block_sparse_moe` is `mlp`, a checkpoint of a bare GPT-2 has no `transformer.`), and it makes one tensor of
several (the experts of most mixtures lie one by one and are stacked, gate above up). The same table is read here, so
that what is added to a matrix of the model is added to the tensors that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
from lowregret.lora.formats.experts import stored_names
from lowregret.models.bare import can_be_untied
from lowregret.models.experts import columns, fused_experts, roles
from lowregret.models.targets import Matrix, matrices

_REMEDY = "Merge with PEFT's merge_and_unload, which loads the whole model."


@dataclass(frozen=True)
class Part:
    """A matrix of the model that lies in a stored tensor."""

    matrix: Matrix
    expert: int | None
    """The one whose matrix it is, where each expert has a tensor of its own; else None."""
    rows: slice
    """Of its outputs among the tensor's, which may hold gate and up."""
    turned: bool
    """Whether it is stored as [d_in, d_out]."""


@dataclass(frozen=True)
class _Made:
    """A tensor of the model out of the converter's table: which of its sources a stored tensor is."""

    parameter: str
    source: int
    number: int
    """Among the tensors of the same source: the expert."""
    converter: WeightConverter


class Places:
    """A base without its weights, and where its matrices lie in its files.

    Args:
        model: the base's, on the device `meta` (`models.bare`).
        names: of all tensors in its files.
        asked: what the user called it, for messages.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], asked: str) -> None:
        self.model: Any = model
        self.asked = asked
        self.matrices = matrices(self.model)
        self.stored_as: dict[str, str] = {}
        """Parameter of the model → the stored tensor that is it, as it is."""
        self._made: dict[str, _Made] = {}
        self._find(names)
        self.tied = self._tied()
        """(the unembedding's weight, the stored embedding that is it, too), where the two are one; else None."""
        self.parts: Mapping[str, tuple[Part, ...]] = self._parts()
        """Stored tensor → the matrices in it; a tied unembedding under the name that it is stored by when it is not."""

    def of(self, matrix: Matrix) -> Iterator[tuple[str, Part]]:
        """The stored tensors that a matrix lies in; ModelError when they do not hold all of it exactly once."""
        found = self._by_matrix.get(matrix.name, [])
        experts = [part.expert for _, part in found]
        each = list(range(matrix.experts.count)) if matrix.experts else []
        if experts != [None] and (not each or sorted(-1 if e is None else e for e in experts) != each):
            raise ModelError(
                f"{self.asked}: {matrix.name} is adapted, and {self._why(matrix)}, so that nothing can be added to it "
                f"there. {_REMEDY}"
            )
        yield from found

    @cached_property
    def _by_matrix(self) -> dict[str, list[tuple[str, Part]]]:
        found: dict[str, list[tuple[str, Part]]] = {}
        for name, parts in self.parts.items():
            for part in parts:
                found.setdefault(part.matrix.name, []).append((name, part))
        return found

    def require_untied(self) -> None:
        """ModelError when the base's code takes the unembedding from the embedding, whatever its configuration says."""
        if not can_be_untied(self.model):
            raise ModelError(
                f"{self.asked}: its unembedding is adapted, and transformers' {type(self.model).__name__} has none "
                "apart from the embedding. Serve the adapter unmerged."
            )

    def _find(self, names: Sequence[str]) -> None:
        """As transformers' `convert_and_load_state_dict_in_model` goes through a file's names."""
        table = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in table if isinstance(entry, WeightConverter)]
        by_source = {source: converter for converter in converters for source in converter.source_patterns}
        known = self.model.state_dict()
        prefix = self.model.base_model_prefix
        counts: dict[tuple[str, str], int] = {}
        for name in sorted(names, key=dot_natural_key):
            parameter, source = rename_source_key(name, renamings, converters, prefix, known)
            if parameter not in known and name in known:
                parameter, source = rename_source_key(name, [], [], prefix, known)
            if parameter not in known:
                continue  # transformers leaves it out; it travels as it is
            if source is None:
                self.stored_as[parameter] = name
                continue
            number = counts.get((parameter, source), 0)
            counts[parameter, source] = number + 1
            converter = by_source[source]
            self._made[name] = _Made(parameter, converter.source_patterns.index(source), number, converter)

    def _tied(self) -> tuple[str, str] | None:
        head, embedding = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        if head is None or getattr(head, "weight", None) is not getattr(embedding, "weight", None):
            return None
        by_module = {module: name for name, module in self.model.named_modules()}
        stored = self.stored_as.get(f"{by_module[embedding]}.weight") or self.stored_as.get(f"{by_module[head]}.weight")
        return (f"{by_module[head]}.weight", stored) if stored else None

    def _parts(self) -> dict[str, tuple[Part, ...]]:
        found: dict[str, tuple[Part, ...]] = {}
        known = {matrix.name: matrix for matrix in self.matrices}
        plain = {f"{name}.weight": matrix for name, matrix in known.items() if not matrix.experts}
        for parameter, matrix in plain.items():
            turned = isinstance(self.model.get_submodule(matrix.name), Conv1D)
            if self.tied is not None and parameter == self.tied[0]:
                found[parameter] = (Part(matrix, None, slice(0, matrix.d_out), turned),)
            elif parameter in self.stored_as:
                found[self.stored_as[parameter]] = (Part(matrix, None, slice(0, matrix.d_out), turned),)
        fused = dict(fused_experts(self.model))
        for name, module in fused.items():
            for stored in stored_names(module):
                if f"{name}.{stored}" in self.stored_as:
                    found[self.stored_as[f"{name}.{stored}"]] = tuple(_halves(name, module, stored, known))
        for name, made in self._made.items():
            place, _, stored = made.parameter.rpartition(".")
            if place in fused and stored in stored_names(fused[place]) and _stacks(made.converter, fused[place]):
                role = roles(fused[place])[made.source] if stored == "gate_up_proj" else stored
                matrix = known[f"{place}.{role}"]
                found[name] = (Part(matrix, made.number, slice(0, matrix.d_out), False),)
        return found

    def _why(self, matrix: Matrix) -> str:
        made = [name for name, made in self._made.items() if made.parameter.startswith(matrix.name.rpartition(".")[0])]
        if made:
            return f"transformers makes it of {made[0]} and others in a way that is not known here"
        return "the files hold no tensor that is all of it"


def _halves(name: str, module: Any, stored: str, known: Mapping[str, Matrix]) -> Iterator[Part]:
    """The matrices in a stored tensor of all experts."""
    outputs = getattr(module, stored).shape[2 if module.is_transposed else 1]
    for role in roles(module):
        if (role == "down_proj") == (stored == "down_proj"):
            yield Part(known[f"{name}.{role}"], None, columns(module, role, outputs), bool(module.is_transposed))


def _stacks(converter: WeightConverter, module: Any) -> bool:
    """Whether a converter stacks experts, and puts gate above up where they are one tensor."""
    kinds = [(type(operation), getattr(operation, "dim", None)) for operation in converter.operations]
    if module.is_transposed or kinds[:1] != [(MergeModulelist, 0)]:
        return False
    if len(converter.source_patterns) == 1:
        return len(kinds) == 1
    return kinds[1:] == [(Concatenate, 1)] and len(converter.source_patterns) == 2 and module.is_concatenated

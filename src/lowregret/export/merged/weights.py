"""The weights of a base with adapters merged in: float32 arithmetic, a block of a matrix at a time, rounded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.errors import ModelError
from lowregret.export.adapter import FittedAdapter
from lowregret.export.merged.places import Names, Part, places
from lowregret.export.weights import Weights
from lowregret.lora.bank import updates
from lowregret.lora.init import initial
from lowregret.lora.weights import change
from lowregret.models.bare import untied
from lowregret.models.targets import Matrix, matrices

BLOCK = 2**24
"""Numbers of a matrix that are in float32 at a time."""


@dataclass(frozen=True)
class _Factors:
    """One adapter on one matrix, and what multiplies what it adds."""

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None
    share: float

    def change(self, weight: Tensor, rows: slice) -> Tensor:
        """What it adds to some rows of a weight."""
        magnitude = None if self.magnitude is None else self.magnitude[rows].to(weight.dtype)
        a, b = self.a.to(weight.dtype), self.b[rows].to(weight.dtype)
        return change(weight, a, b, self.scale, magnitude) * self.share


class MergedWeights:
    """W + Σ share · ΔW of each adapter, by the names of the base's files (see `export.weights.Weights`).

    ΔW is scale · B A, less the product of a start that was taken off the base; with DoRA, what its magnitudes make of W
    less W. Every adapted matrix has its one place, or ModelError names it. A tied unembedding that is adapted is
    untied: it gets a tensor of its own, and the embedding stays as it was.

    Args:
        stored: the base, open for as long as this is read.
        adapters: fitted to `model`, each with its share.
        model: the base as `models.bare.bare_model` builds it.
    """

    def __init__(
        self, stored: Weights, adapters: Sequence[tuple[FittedAdapter, float]], model: PreTrainedModel
    ) -> None:
        self._stored, self._adapters = stored, adapters
        adapted = {name for fitted, _ in adapters for name in fitted.adapted}
        found = [matrix for matrix in matrices(model) if matrix.name in adapted]
        self._ties = _ties(model, found)
        self._untied = _untied(Names(model, stored.names), self._ties)
        names = Names(model, self.names)
        self._places = places(model, names, found, self.shape)
        self._counts: dict[str, tuple[int, int]] = {}
        for fitted, _ in adapters:
            fitted.refuse_other_base(lambda parameter: self._own(names, parameter))

    @property
    def folder(self) -> Path:
        """Where the tokenizer and the settings lie that travel with them."""
        return self._stored.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The base's config.json; where a tie was undone, it says so."""
        return untied_config(self._stored.config) if self._ties else self._stored.config

    @property
    def names(self) -> Sequence[str]:
        """Those of the base, and of weights that were tied."""
        return (*self._stored.names, *self._untied)

    @property
    def updates_lost(self) -> float | None:
        """Of the entries that `rounded` has rounded and that an adapter changes: the share that is the base's, rounded
        alike, again. None when there were none."""
        updated = sum(count for count, _ in self._counts.values())
        return sum(lost for _, lost in self._counts.values()) / updated if updated else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return self._stored.shape(self._untied.get(name, name))

    def dtype(self, name: str) -> torch.dtype:
        """In which the base stores it."""
        return self._stored.dtype(self._untied.get(name, name))

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU: as it is stored, or in float32 where something was added to it."""
        return self._base(name) if name not in self._places else self._merged(name, torch.float32)[0]

    def rounded(self, name: str, dtype: torch.dtype) -> Tensor:
        """The same in a type, never whole in float32; counted for `updates_lost`."""
        if name not in self._places:
            return self._base(name).to(dtype)
        merged, self._counts[name] = self._merged(name, dtype)
        return merged

    def _base(self, name: str) -> Tensor:
        return self._stored.read(self._untied.get(name, name))

    def _own(self, names: Names, parameter: str) -> Tensor | None:
        """A parameter of the base that is stored by itself, by its own name or by that of its tie."""
        both = (parameter, self._ties.get(parameter, parameter))
        held = next((names.stored[name] for name in both if name in names.stored), [])
        return self._base(held[0][0]) if len(held) == 1 and held[0][1] is None else None

    @torch.no_grad()
    def _merged(self, name: str, dtype: torch.dtype) -> tuple[Tensor, tuple[int, int]]:
        """(the tensor in a type, (entries that are updated, those of them that rounding has given back))."""
        stored = self._base(name)
        merged = stored.to(dtype, copy=True)
        updated = lost = 0
        for part in self._places[name]:
            old, new = part.view(stored), part.view(merged)
            factors = list(self._factors(part, old))
            for rows in _blocks(old):
                before = _exact(old[rows])
                added = sum((own.change(before, rows) for own in factors), torch.zeros((), dtype=before.dtype))
                new[rows] = before + added
                changed = added != 0
                updated += int(changed.sum())
                lost += int((changed & (new[rows] == before.to(dtype))).sum())
        return merged, (updated, lost)

    def _factors(self, part: Part, weight: Tensor) -> Iterator[_Factors]:
        """Of each adapter that has the matrix."""
        name = part.matrix.name
        for fitted, share in self._adapters:
            if part.expert is not None and (lora := fitted.experts.experts.get(name)):
                yield _Factors(lora.a[part.expert], lora.b[part.expert], lora.scale, None, share)
            elif saved := fitted.plain.get(name):
                a, b, method = saved.a, saved.b, fitted.method
                if method.residual:
                    a, b = updates(a, b, *initial(method, part.matrix, _exact(weight), torch.Generator()))
                yield _Factors(a, b, method.scale, saved.magnitude, share)


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model whose unembedding has weights of its own."""
    found = {**config, "tie_word_embeddings": False}
    if isinstance(text := config.get("text_config"), Mapping):
        found["text_config"] = {**text, "tie_word_embeddings": False}
    return found


def _ties(model: PreTrainedModel, adapted: Sequence[Matrix]) -> dict[str, str]:
    """{parameter: the one that it is tied to}, where one of the two is adapted; ModelError when the family cannot do
    without the tie."""
    touched = {f"{matrix.name}.weight" for matrix in adapted}
    ties = {one: other for one, other in model.all_tied_weights_keys.items() if touched & {one, other}}
    still = untied(model).all_tied_weights_keys if ties else {}
    if stays := [one for one in ties if one in still]:
        raise ModelError(
            f"{stays[0]}: is tied to {ties[stays[0]]}, one of the two is adapted, and {type(model).__name__} ties them "
            "whatever its configuration says. Leave the unembedding out of the adapter."
        )
    return ties


def _untied(names: Names, ties: Mapping[str, str]) -> dict[str, str]:
    """{name that is to be written: stored name whose values it has} of tied weights that the files have once.

    Where they have both, both stay: transformers ties equal ones only.
    """
    found: dict[str, str] = {}
    for pair in ties.items():
        held = [names.stored[one][0][0] for one in pair if one in names.stored]
        for missing in (one for one in pair if one not in names.stored):
            if not held or names.parameter(missing) != (missing, None):
                raise ModelError(
                    f"{missing}: is tied to an adapted weight and cannot be untied: the base's files have no name for "
                    "it. Leave the unembedding out of the adapter."
                )
            found[missing] = held[0]
    return found


def _exact(weight: Tensor) -> Tensor:
    """In float32 at least."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _blocks(weight: Tensor) -> Iterator[slice]:
    count, width = weight.shape
    step = max(1, BLOCK // max(1, width))
    return (slice(start, start + step) for start in range(0, count, step))

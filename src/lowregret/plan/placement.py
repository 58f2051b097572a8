"""Where the weights and the trials of one training go on many devices. Pure and torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lowregret.quantities import byte_count
from lowregret.spec import FullFT, LoRA
from lowregret.spec.lean import kind_of
from lowregret.spec.mesh import Divisible, Mesh

Kind = Literal["alone", "packed", "replicated", "rank-local", "sharded"]
"""alone       one device;
packed      each device holds the whole base and trains its own trials;
replicated  each device holds the whole base, and the rows of a step are dealt;
rank-local  each device holds a part of the base and trains its own trials;
sharded     each device holds a part of the base (in FullFT of gradients and moments, too), and rows are dealt."""
PACK = 3
"""Trials that a search for a LoRA's rate starts with (study/search.py)."""


@dataclass(frozen=True)
class Placement:
    """One way to use the devices."""

    kind: Kind
    mesh: Mesh
    why: str
    """A sentence."""
    fits: bool | None
    """None where memory is not known."""

    @property
    def deals_rows(self) -> bool:
        """Whether a step's rows go to all devices; else each trains whole trials."""
        return self.kind in ("alone", "replicated", "sharded")

    def rows(self, batch: int) -> int:
        """The most rows of a step that a device computes."""
        return -(-batch // self.mesh.data) if self.deals_rows else batch


def place(
    method: FullFT | LoRA,
    devices: int,
    need: Callable[[Mesh], int],
    memory_bytes: int | None,
    base: Divisible,
    *,
    trials: int = PACK,
    asked: Mesh | None = None,
) -> Placement:
    """The simplest placement that fits. Of a LoRA's base, in this order: the whole on each device; all of it in parts;
    and its matrices cut over as few devices as do, each whole or in parts over the others; of a quantised one the
    whole. FullFT lies in parts, on all devices if that does, else with matrices cut over as few as do. Trials have a
    device of their own where there are as many devices as trials and no matrix is cut. If nothing fits, the one that
    needs least.

    Args:
        method: what is trained.
        devices: how many there are.
        need: bytes on each device of a mesh, with one row at a time.
        memory_bytes: of a device; None where it is not known, and all fits.
        base: what cuts must divide.
        trials: of a LoRA, that train at a time.
        asked: the mesh that the user chose; then it is that one.
    """
    meshes = [asked] if asked is not None else list(_meshes(method, devices, base))
    bytes_of = {mesh: need(mesh) for mesh in meshes}
    room = sum(bytes_of.values()) if memory_bytes is None else memory_bytes
    chosen = next((mesh for mesh in meshes if bytes_of[mesh] <= room), min(meshes, key=lambda mesh: bytes_of[mesh]))
    kind = _kind(chosen, isinstance(method, LoRA) and trials >= chosen.data == devices > 1)
    why = [_SAYS[kind].format(devices=devices, trials=trials, parts=devices // chosen.replicate)]
    if chosen.tensor > 1:
        why[0] += f", {chosen.tensor} of them the same"
    fits = bytes_of[chosen] <= room
    tried = meshes[: meshes.index(chosen)]
    if asked is not None:
        why.append("as --parallel asks")
    elif tried and fits:
        why.append(f"{_before(tried[-1])} one row would take {byte_count(bytes_of[tried[-1]])} of {byte_count(room)}")
    if not fits:
        why.append(f"nothing fits: one row takes {byte_count(bytes_of[chosen])} of {byte_count(room)}")
    return Placement(kind, chosen, f"{'; '.join(why)}.", None if fits and memory_bytes is None else fits)


_SAYS: dict[Kind, str] = {
    "alone": "One device holds all",
    "packed": "Each of {devices} devices holds the whole base and trains its own of {trials} trials",
    "replicated": "Each of {devices} devices holds the whole base and computes its rows, for {trials} trials are fewer "
    "than devices",
    "rank-local": "Each of {devices} devices holds a part of the base and trains its own of {trials} trials",
    "sharded": "Each of {devices} devices holds one of {parts} parts of the base and computes its rows",
}


def _meshes(method: FullFT | LoRA, devices: int, base: Divisible) -> Iterator[Mesh]:
    """The simplest first."""
    if isinstance(method, LoRA) and method.quantisation != "none":  # it lies whole on each (engine/placing.py)
        yield Mesh(replicate=devices)
        return
    elementwise = kind_of(method).ELEMENTWISE  # else matrices are stepped whole
    for tensor in base.tensor_sizes(devices if elementwise else 1):
        others, left = divmod(devices, tensor)
        if left:
            continue
        if isinstance(method, LoRA):
            yield Mesh(replicate=others, tensor=tensor)
        if isinstance(method, FullFT) or others > 1:
            yield Mesh(shard=others, tensor=tensor)


def _kind(mesh: Mesh, own_trials: bool) -> Kind:
    if mesh.devices == 1:
        return "alone"
    if mesh.in_parts:
        return "rank-local" if own_trials else "sharded"
    return "packed" if own_trials else "replicated"


def _before(mesh: Mesh) -> str:
    """What was tried before, in words."""
    if not mesh.in_parts:
        return "with all of it on each"
    return "with whole layers" if mesh.tensor == 1 else f"as {mesh}"

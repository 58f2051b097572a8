"""What the devices of one training send each other in a step, and how long that takes. Torch-free.

A collective over n devices moves (n − 1)/n of the whole tensor through each device's link if it gathers, scatters or
sends to all, and twice that if it reduces to all: what a ring sends, NCCL's bus bandwidth. With P bytes of a base's
weights, of which L lie in the layers, in float32 where they train (FullFT), else as they are stored:

    FullFT in parts, a pass         gathered 2·L + (P − L), gradients scattered P
    a LoRA's base in parts, a pass  gathered 2·L + (P − L)
    LoRA, a step                    4 bytes of each number that trains, reduced to all that compute other rows or
                                    trials, and 4 gathered where its optimizer's state lies in slices
    FullFT, a step                  gradients reduced to all that hold the same parts: replicas, and of what they do not
                                    cut tensor and expert ranks
    tensor, a pass of t tokens      regions · t · hidden forward and again backward, reduced to all; an attention and an
                                    MLP are a region each (engine/parallel/tensor.py). Where activations are computed
                                    twice, all but the last region of each layer once more
    expert, a pass of t tokens      4 · t · chosen experts · hidden a layer, sent to all (engine/parallel/expert.py)

Tensors of hidden size are in the type of products. tests/laws/test_traffic.py counts what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import trainable
from lowregret.plan.resources.parts import alike, gathered, held
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.lean import kind_of
from lowregret.spec.mesh import Mesh
from lowregret.spec.optimizer import NUMBER_BYTES

LINK_UTILISATION = 0.7
"""Of a link's rate in one direction that NCCL's collectives reach. Of 450 GB/s on eight H100 360 are measured and
expected (github.com/NVIDIA/nccl-tests issue 326), of 300 between two A100 208 (issue 178)."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that go through each device's link, by the dimension of the mesh that they go along."""

    shard: float
    """Weights gathered and gradients scattered: sent while other layers are computed."""
    replicate: float
    """FullFT's gradients between whole copies, once a step."""
    data: float
    """Adapters' gradients, once a step."""
    tensor: float
    """Activations: what is computed next waits for them; so the next."""
    expert: float

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.shard + self.replicate + self.data + self.tensor + self.expert


def pass_traffic(
    shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, wide: int, tokens: float, *, again: bool = False
) -> Traffic:
    """Of a pass forward and backward over `tokens` tokens of a device; `again`: activations are computed twice."""
    parts = gathered(shapes, method, mesh, wide)
    sent = 2 * parts.layers + parts.outside
    if isinstance(method, FullFT):
        sent += parts.layers + parts.outside
    regions = _regions(shapes)
    times = 2 * regions + (regions - shapes.layers if again else 0)
    return _along(shapes, mesh, sent, wide * tokens, times, 4)


def held_out_traffic(shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, wide: int, tokens: float) -> Traffic:
    """Of a pass forward alone."""
    parts = gathered(shapes, method, mesh, wide)
    return _along(shapes, mesh, parts.layers + parts.outside, wide * tokens, _regions(shapes), 2)


def step_traffic(shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, optimizer: type[OptimizerSpec] = AdamW) -> Traffic:
    """Of a step after its passes. Every device keeps every adapter, also where trials have devices of their own."""
    if isinstance(method, FullFT):
        held_bytes = NUMBER_BYTES * sum(held(shapes, mesh))
        uncut, dense = (NUMBER_BYTES * numbers for numbers in alike(shapes, mesh))
        return Traffic(
            shard=0.0,
            replicate=2 * _passed(mesh.replicate) * held_bytes,
            data=0.0,
            tensor=2 * _passed(mesh.tensor) * uncut,
            expert=2 * _passed(mesh.expert) * dense,
        )
    numbers = trainable(shapes, method)
    told = _passed(kind_of(method, optimizer).slices(numbers, mesh.alike))
    return Traffic(0.0, 0.0, (2 * _passed(mesh.data) + told) * NUMBER_BYTES * numbers, 0.0, 0.0)


def _along(shapes: Shapes, mesh: Mesh, weights: float, column: float, reduced: int, sent: int) -> Traffic:
    """A pass's: of `weights` bytes gathered or scattered, of hidden states of `column` bytes a number that are reduced
    and of those that go to experts so many times a layer."""
    states = column * shapes.hidden_size
    mixtures = len({layer for weight in shapes.weights if weight.kind == "experts" for layer in weight.layers})
    return Traffic(
        shard=_passed(mesh.shard) * weights,
        replicate=0.0,
        data=0.0,
        tensor=2 * _passed(mesh.tensor) * reduced * states,
        expert=_passed(mesh.expert) * sent * mixtures * shapes.active_experts * states,
    )


def _regions(shapes: Shapes) -> int:
    """Modules that a tensor group computes in parts."""
    return sum(
        len({layer for weight in shapes.weights if weight.kind == kind for layer in weight.layers})
        for kind in ("attention", "mlp")
    )


def overlapped_seconds(traffic: Traffic, mesh: Mesh, hardware: Hardware) -> float:
    """How long what is sent beside other work takes."""
    return traffic.shard / _speed(hardware, mesh.shard, mesh.expert * mesh.tensor)


def waiting_seconds(traffic: Traffic, mesh: Mesh, hardware: Hardware) -> float:
    """How long nothing is computed, because all wait for what is sent."""
    return (
        traffic.tensor / _speed(hardware, mesh.tensor, 1)
        + traffic.expert / _speed(hardware, mesh.expert, mesh.tensor)
        + traffic.data / _speed(hardware, mesh.data, mesh.tensor)
        + traffic.replicate / _speed(hardware, mesh.replicate, mesh.devices // mesh.replicate)
    )


def _passed(devices: int) -> float:
    """The share of a tensor that goes through a link when it is gathered over so many devices."""
    return (devices - 1) / devices


def _speed(hardware: Hardware, devices: int, apart: int) -> float:
    """Bytes a second of a device in a collective over so many, of which neighbours are `apart` ranks from each other.

    Within a node it is the link's. Past it, all network adapters of the node's members work at once: NCCL has a ring
    through each.
    """
    beside = max(hardware.node // apart, 1)
    speed = hardware.link_bytes_per_second
    if devices > beside:
        speed = min(speed, hardware.network_bytes_per_second * min(beside, devices))
    return LINK_UTILISATION * speed

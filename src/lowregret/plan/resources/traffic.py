"""What the devices of one training send each other in a step, and how long that takes. Torch-free.

A collective over n devices moves (n − 1)/n of the whole tensor through each device's link if it gathers or scatters,
and twice that if it reduces to all: what a ring sends, NCCL's bus bandwidth. With P bytes of a base's weights, of which
L lie in the layers, in float32 where they train (FullFT), else as they are stored:

    FullFT in parts, a pass       gathered 2·L + (P − L), gradients scattered P
    a LoRA's base in parts, a pass gathered 2·L + (P − L)
    LoRA, rows dealt, a step      4 bytes of each number that trains, reduced to all
    tensor, a token and layer     4 tensors of hidden size in the type of products, reduced to all: two forward, two
                                  backward; six where activations are computed again

tests/laws/test_traffic.py counts what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import trainable
from lowregret.plan.resources.parts import gathered, held
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA
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
    """Gradients between whole copies, once a step."""
    data: float
    """Adapters' gradients between all that rows are dealt to, once a step."""
    tensor: float
    """Activations: what is computed next waits for them."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.shard + self.replicate + self.data + self.tensor


def pass_traffic(
    shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, wide: int, tokens: float, *, again: bool = False
) -> Traffic:
    """Of a pass forward and backward over `tokens` tokens of a device; `again`: activations are computed twice."""
    parts = gathered(shapes, method, mesh, wide)
    sent = 2 * parts.layers + parts.outside
    if isinstance(method, FullFT):
        sent += parts.layers + parts.outside
    states = (6 if again else 4) * shapes.layers * tokens * shapes.hidden_size * wide
    return Traffic(_passed(mesh.shard) * sent, 0.0, 0.0, 2 * _passed(mesh.tensor) * states)


def held_out_traffic(shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, wide: int, tokens: float) -> Traffic:
    """Of a pass forward alone."""
    parts = gathered(shapes, method, mesh, wide)
    states = 2 * shapes.layers * tokens * shapes.hidden_size * wide
    return Traffic(_passed(mesh.shard) * (parts.layers + parts.outside), 0.0, 0.0, 2 * _passed(mesh.tensor) * states)


def step_traffic(shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, *, deals_rows: bool) -> Traffic:
    """Of a step after its passes; of trials that each have a device of their own nothing is sent."""
    if isinstance(method, FullFT):
        return Traffic(0.0, 2 * _passed(mesh.replicate) * NUMBER_BYTES * sum(held(shapes, mesh)), 0.0, 0.0)
    adapters = NUMBER_BYTES * trainable(shapes, method) if deals_rows else 0
    return Traffic(0.0, 0.0, 2 * _passed(mesh.data) * adapters, 0.0)


def overlapped_seconds(traffic: Traffic, mesh: Mesh, hardware: Hardware) -> float:
    """How long what is sent beside other work takes."""
    return traffic.shard / _speed(hardware, mesh.shard, mesh.tensor * mesh.expert)


def waiting_seconds(traffic: Traffic, mesh: Mesh, hardware: Hardware) -> float:
    """How long nothing is computed, because all wait for what is sent."""
    inner = mesh.tensor * mesh.expert
    return (
        traffic.tensor / _speed(hardware, mesh.tensor, 1)
        + traffic.data / _speed(hardware, mesh.data, inner)
        + traffic.replicate / _speed(hardware, mesh.replicate, inner * mesh.shard)
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

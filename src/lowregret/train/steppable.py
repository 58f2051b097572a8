"""Whether the methods of a run can be stepped where it is to run: told before anything is trained."""

from __future__ import annotations

import torch

from lowregret.engine.optim.blocks import require_library
from lowregret.engine.parallel.launch import device_count
from lowregret.errors import SpecError
from lowregret.spec import TrainingSpec
from lowregret.spec.lean import kind_of, require_able
from lowregret.spec.mesh import Mesh

_ABLE = ("cpu", "cuda")
"""Devices on which what steps moments of 8 bits is tested."""


def require_steppable(spec: TrainingSpec, device: torch.device, dtype: str) -> None:
    """SpecError, with what would do, for a method whose optimizer cannot step it on this device, with products in
    `dtype`, or on as many devices as were asked for; and for activations offloaded from where they would go."""
    devices, mesh = device_count(spec.devices), None if spec.parallel is None else Mesh.parse(spec.parallel)
    cut = mesh is not None and mesh.tensor * mesh.expert > 1
    for method in spec.asked:
        kind = kind_of(method, type(spec.optimizer))
        require_able(method, kind, dtype, devices=devices, cut=cut)
        if kind.NEEDS is not None:
            if device.type not in _ABLE:
                raise SpecError(f"{method.name} runs on {' and '.join(_ABLE)}, not on {device.type}: give a --device.")
            require_library()
    if spec.offload_activations and device.type == "cpu":
        raise SpecError(
            "--offload-activations: on a CPU they are in the host's memory already. Leave it out, or use "
            "--checkpoint-activations."
        )
    if spec.offload_activations and devices > 1:
        raise SpecError(
            f"--offload-activations is for one device, not for {devices}: leave it out, or use "
            "--checkpoint-activations."
        )

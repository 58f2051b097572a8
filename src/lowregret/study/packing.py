"""How many trials train together: as many as share a pass and whose weights have room."""

from __future__ import annotations

from lowregret.engine.footprint import device_memory
from lowregret.lora.bank import AdapterLayout
from lowregret.models.targets import find_targets
from lowregret.spec import LoRA, Method, TrialSpec
from lowregret.train.loop import Pack
from lowregret.train.members import Workload

POLICY_SHARE = 0.25
"""Of the device's memory: what the weights, gradients and moments of a pack's LoRAs may take."""


def has_room(pack: Pack, trial: TrialSpec) -> bool:
    """Whether another LoRA trial may join: its weights have room, and so have its rows, in one pass with the others'.

    More than what one pass holds would gain nothing: the step would only be cut into more passes.
    """
    if not pack.members:
        return True
    workload, members = pack.workload, len(pack.members) + 1
    methods = [member.trial.method for member in pack.members.values()] + [trial.method]
    need = sum(
        _parameters(workload, method) * workload.spec.stepped_by(method).bytes_per_parameter()
        for method in methods
        if isinstance(method, LoRA)
    )
    if need > POLICY_SHARE * device_memory(workload.engine.device):
        return False
    return workload.has_room(members, list(pack.members))


def require_fit(workload: Workload, method: Method) -> None:
    """TargetError or SpecError where this base cannot have such a LoRA."""
    if isinstance(method, LoRA):
        _parameters(workload, method)


def _parameters(workload: Workload, method: LoRA) -> int:
    return AdapterLayout.of(
        method, find_targets(workload.engine.model, workload.engine.matrices, method.targets)
    ).numbers

"""A policy's weights and optimizer state as one safetensors file."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lowregret.engine.parallel.fsdp import fill
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.policy import Policy
from lowregret.errors import RecordsError
from lowregret.models.sharded import whole
from lowregret.runs.atomic import replacing

_DIGEST = "digest"
_THREADS = 4


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; RecordsError when the disk refuses."""
    with replacing(path) as partial, refusals(path):
        safetensors.torch.save_file({key: _own(value) for key, value in tensors.items()}, partial, dict(metadata))


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """safetensors wraps the operating system's errors in words: turn them back into an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def save_sealed(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """The same with a digest of all of it, which `read_sealed` holds it against."""
    here = {key: value.cpu() for key, value in tensors.items()}
    save_tensors(here, path, {**metadata, _DIGEST: _digest(here, metadata)})


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata, and of every tensor's name, type, shape and bytes."""

    def one(item: tuple[str, Tensor]) -> str:
        key, value = item
        plain: Any = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{key} {value.dtype} {tuple(value.shape)} {hashlib.sha256(plain).hexdigest()}"

    with ThreadPoolExecutor(_THREADS) as pool:  # hashing lets other threads run
        lines = list(pool.map(one, sorted(tensors.items())))
    lines += [f"{key} {value}" for key, value in sorted(metadata.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def state_tensors(policy: Policy, *, keep: bool = True) -> dict[str, Tensor]:
    """All that a policy needs to go on: `weights/<name>`, optimizer state as `adam/<kind>/<name>`, and `steps`.

    Another optimizer's state begins with another word.

    And `initial/<name>` where the first product is taken off: another machine would find it with other rounding.
    Weights that lie in parts are put together, on the CPU: every rank must ask, and with `keep` gets them.
    """
    tensors = {f"weights/{name}": weight.detach() for name, weight in policy.weights.items()}
    tensors |= {f"initial/{name}": weight.detach() for name, weight in policy.initial.items()}
    tensors |= {f"{policy.optimizer.prefix}/{key}": value for key, value in policy.optimizer.state().items()}
    tensors["steps"] = torch.tensor(policy.steps)
    found = {}
    for key, value in tensors.items():
        all_of_it = policy.parts.joined(_weight(key), whole(value))
        if keep:
            found[key] = all_of_it if all_of_it is value else all_of_it.cpu()
    return found


def _weight(key: str) -> str:
    """The name of the weight that a tensor of the state belongs to."""
    return key.rpartition("/")[2]


def _own(value: Tensor) -> Tensor:
    """A tensor that a file can hold: views of a bank, and a step count of many weights, share their memory."""
    shared = value.untyped_storage().nbytes() > value.nbytes or value.ndim == 0
    return value.clone(memory_format=torch.contiguous_format) if shared else value


def save_state(policy: Policy, path: Path, metadata: Mapping[str, str], ranks: Ranks = ALONE) -> None:
    """Write a policy's state to a file of its own, the same by any number of ranks: the first writes."""
    tensors = state_tensors(policy, keep=ranks.rank == 0)
    if ranks.rank == 0:
        save_sealed(tensors, path, metadata)
    ranks.wait()


def load_state(policy: Policy, path: Path) -> dict[str, str]:
    """Copy a saved state into the policy's own tensors; returns the metadata."""
    tensors, metadata = read_sealed(path)
    restore_state(policy, tensors, path)
    return metadata


def read_sealed(path: Path, *, unsealed: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_sealed` wrote; RecordsError when a single bit of it is another. `unsealed`: a file of an earlier
    version, which has no digest, will do."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from error
    said = metadata.pop(_DIGEST, None)
    if said is None and unsealed:
        return tensors, metadata
    if said is None:
        raise damaged(path, "it has no digest: an earlier version or another program wrote it")
    if said != _digest(tensors, metadata):
        raise damaged(path, "its content is not what was written: a bit has changed, or somebody has edited it")
    return tensors, metadata


def read_part(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with `prefix`, by the rest of their names; not held against a digest."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key.removeprefix(prefix): file.get_tensor(key) for key in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, problem: object) -> RecordsError:
    """The error of a checkpoint that cannot be used."""
    return RecordsError(
        f"{path}: the checkpoint is damaged ({problem}). Delete it and run the same command again: the trial restarts."
    )


def restore_state(policy: Policy, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy the state that `state_tensors` gave into the policy's own tensors; `path` is where it was read from."""
    prefixes = ("weights/", "initial/", f"{policy.optimizer.prefix}/")
    tensors = {key: policy.parts.own(_weight(key), value) for key, value in tensors.items()}
    weights, initial, kept = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in prefixes
    )
    # All of it before the first is copied: nothing is restored by half, and the fused optimizer trusts its shapes.
    problem = _misfit(policy, weights, initial, kept) if "steps" in tensors else "it does not count its steps"
    others = sorted(key for key in tensors if key != "steps" and not key.startswith(prefixes))
    if not problem and others:
        problem = f"it holds {others[0]}, which is no state of this policy's optimizer"
    if problem:
        raise damaged(path, problem)
    for name, value in weights.items():
        fill(policy.weights[name], value)
    for name, value in initial.items():
        fill(policy.initial[name], value)
    policy.optimizer.load_state(kept)
    policy.steps = int(tensors["steps"])


def _misfit(
    policy: Policy, weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> str | None:
    """Why these weights and this state of the optimizer cannot be this policy's; None when they can."""
    moved = {key.partition("/")[2] for key in kept}
    if (
        weights.keys() != policy.weights.keys()
        or initial.keys() != policy.initial.keys()
        or not moved <= weights.keys()
    ):
        return "it holds other weights than this policy has"
    expected = {
        f"{kind}/{name}": torch.Size(shape)
        for name in moved
        for kind, shape in policy.optimizer.spec.state_shapes(tuple(weights[name].shape)).items()
    }
    if kept.keys() != expected.keys():
        return "its moments are not complete"
    expected |= {name: weight.shape for name, weight in policy.weights.items()}
    for name, value in (*weights.items(), *initial.items(), *kept.items()):
        if value.shape != expected[name] or value.dtype is not torch.float32:
            return f"{name} is {value.dtype} of shape {tuple(value.shape)}"
    return None

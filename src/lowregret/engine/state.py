"""A policy's weights and optimizer state as one safetensors file."""

from __future__ import annotations

import errno
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, final

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
from lowregret.models.tensor_file import Entry, header, numbers_of
from lowregret.runs.atomic import replacing

_DIGEST = "digest"
_THREADS = 4


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; RecordsError when the disk refuses."""
    with replacing(path) as partial, refusals(path):
        safetensors.torch.save_file({key: _own(value) for key, value in tensors.items()}, partial, dict(metadata))


def _own(value: Tensor) -> Tensor:
    """A tensor that a file can hold: views of a bank, and a step count of many weights, share their memory."""
    shared = value.untyped_storage().nbytes() > value.nbytes or value.ndim == 0
    return value.clone(memory_format=torch.contiguous_format) if shared else value


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """safetensors wraps the operating system's errors in words: turn them back into an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def save_sealed(
    entries: Sequence[Entry],
    read: Callable[[Entry], Tensor],
    path: Path,
    metadata: Mapping[str, str],
    *,
    writes: bool = True,
) -> None:
    """Write a safetensors file atomically, tensor after tensor as `read` gives them, with a digest of all of it, which
    `read_sealed` holds it against. RecordsError when the disk refuses.

    Where weights lie in parts every rank must read, of which one `writes`: it never holds more than a few tensors. A
    disk that refuses is told when all have read everything.
    """
    sealed = {**metadata, _DIGEST: "0" * hashlib.sha256().digest_size * 2}
    beginning, ordered = header(entries, sealed)
    left = iter(ordered)
    if not writes:
        for entry in left:
            read(entry)
        return
    try:
        with replacing(path) as partial, partial.open("r+b") as file, _Digest(metadata) as digest:
            file.write(beginning)
            for entry in left:
                tensor = read(entry)
                tensor = tensor.cpu()
                digest.add(entry.name, tensor)
                file.write(numbers_of(tensor))
            sealed[_DIGEST] = digest.found()
            file.seek(0)
            file.write(header(entries, sealed)[0])
    except BaseException:
        for entry in left:
            read(entry)
        raise


@final
class _Digest:
    """SHA-256 of the metadata, and of every tensor's name, type, shape and bytes; a few tensors at a time."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._lines = [f"{key} {value}" for key, value in sorted(metadata.items())]
        self._pool = ThreadPoolExecutor(_THREADS)  # hashing lets other threads run
        self._hashing: deque[Future[str]] = deque()
        self._found: list[str] = []

    def __enter__(self) -> _Digest:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def add(self, name: str, tensor: Tensor) -> None:
        """A tensor on the CPU."""
        if len(self._hashing) == _THREADS:
            self._found.append(self._hashing.popleft().result())
        self._hashing.append(self._pool.submit(self._line, name, tensor))

    def found(self) -> str:
        """Of everything that was added, in any order."""
        self._found += [hashing.result() for hashing in self._hashing]
        return hashlib.sha256("\n".join(sorted(self._found) + self._lines).encode()).hexdigest()

    @staticmethod
    def _line(name: str, tensor: Tensor) -> str:
        return f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(numbers_of(tensor)).hexdigest()}"


def state_tensors(policy: Policy) -> dict[str, Tensor]:
    """All that a policy needs to go on: `weights/<name>`, optimizer state as `adam/<kind>/<name>`, and `steps`.

    Another optimizer's state begins with another word.

    And `initial/<name>` where the first product is taken off: another machine would find it with other rounding.
    Of what lies in parts they are this rank's.
    """
    tensors = {f"weights/{name}": weight.detach() for name, weight in policy.weights.items()}
    tensors |= {f"initial/{name}": weight.detach() for name, weight in policy.initial.items()}
    tensors |= {f"{policy.optimizer.prefix}/{key}": value for key, value in policy.optimizer.state().items()}
    return tensors | {"steps": torch.tensor(policy.steps)}


def save_states(policies: Mapping[str, Policy], path: Path, metadata: Mapping[str, str], ranks: Ranks = ALONE) -> None:
    """Write the states of policies, each under its prefix, to one file, the same by any number of ranks: the first
    writes. RanksError on the others when it could not."""
    own = {
        prefix + key: (policy, key, value)
        for prefix, policy in policies.items()
        for key, value in state_tensors(policy).items()
    }

    def entry(name: str) -> Entry:
        policy, key, value = own[name]
        like = policy.weights[_weight(key)] if _sliced(policy, key, value) else value
        return Entry(name, policy.parts.shape(_weight(key), like), value.dtype)

    with ranks.first_alone(path):
        save_sealed(
            [entry(name) for name in own],
            lambda asked: joined(*own[asked.name]),
            path,
            metadata,
            writes=ranks.rank == 0,
        )


def joined(policy: Policy, key: str, own: Tensor) -> Tensor:
    """The whole of one of a policy's `state_tensors`, of this rank's part; every rank must ask."""
    name = _weight(key)
    if policy.slices is not None and _sliced(policy, key, own):
        own = policy.slices.joined(name, own)
    return policy.parts.joined(name, whole(own))


def _sliced(policy: Policy, key: str, own: Tensor) -> bool:
    """Whether a tensor of a policy's state lies in slices; a single number does not."""
    return policy.slices is not None and key.startswith(f"{policy.optimizer.prefix}/") and own.ndim > 0


def _weight(key: str) -> str:
    """The name of the weight that a tensor of the state belongs to."""
    return key.rpartition("/")[2]


def load_state(policy: Policy, path: Path) -> dict[str, str]:
    """Copy a saved state into the policy's own tensors; returns the metadata."""
    metadata = read_sealed(path)
    restore_part(policy, path)
    return metadata


def read_sealed(path: Path, *, unsealed: bool = False) -> dict[str, str]:
    """The metadata of what `save_sealed` wrote; RecordsError when a single bit of the file is another. `unsealed`: a
    file of an earlier version, which has no digest, will do."""
    with _opened(path) as file:
        metadata: dict[str, str] = dict(file.metadata() or {})
        said = metadata.pop(_DIGEST, None)
        if said is None and unsealed:
            return metadata
        if said is None:
            raise damaged(path, "it has no digest: an earlier version or another program wrote it")
        with _Digest(metadata) as digest:
            for key in file.keys():  # noqa: SIM118
                digest.add(key, file.get_tensor(key))
            found = digest.found()
    if said != found:
        raise damaged(path, "its content is not what was written: a bit has changed, or somebody has edited it")
    return metadata


def restore_part(policy: Policy, path: Path, prefix: str = "") -> None:
    """Copy into a policy what a file has under `prefix`, tensor by tensor, of each this rank's part; the file is not
    held against its digest. RecordsError when it does not fit."""
    with _opened(path) as file:
        names = {key.removeprefix(prefix): key for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        restore_state(policy, _Lazy(names, lambda name: file.get_tensor(names[name])), path)


def restore_weights(policy: Policy, path: Path) -> None:
    """Copy the weights of a saved state into a policy, whose optimizer stays as it is; RecordsError when the file is
    damaged, or of another shape."""
    read_sealed(path)
    with _opened(path) as file:
        names = [key.removeprefix("weights/") for key in file.keys() if key.startswith("weights/")]  # noqa: SIM118
        saved = _Lazy(names, lambda name: policy.parts.own(name, file.get_tensor(f"weights/{name}")))
        fits = saved.keys() == policy.weights.keys() and all(
            saved[name].shape == weight.shape for name, weight in policy.weights.items()
        )
        if not fits:
            raise damaged(path, "it holds other weights than this policy has")
        for name, weight in policy.weights.items():
            fill(weight, saved[name])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from error


@final
class _Lazy(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, and not kept."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names, self._read = tuple(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def damaged(path: Path, problem: object) -> RecordsError:
    """The error of a checkpoint that cannot be used."""
    return RecordsError(
        f"{path}: the checkpoint is damaged ({problem}). Delete it and run the same command again: the trial restarts."
    )


def restore_state(policy: Policy, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy a whole state, by the names of `state_tensors`, into the policy's own tensors, of each this rank's part;
    `path` is where it was read from."""
    prefixes = ("weights/", "initial/", f"{policy.optimizer.prefix}/")

    def under(prefix: str) -> _Lazy:
        names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
        return _Lazy(names, lambda name: policy.parts.own(_weight(name), tensors[prefix + name]))

    weights, initial, kept = map(under, prefixes)
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
    policy.optimizer.load_state(_in_slices(policy, kept))
    policy.steps = int(tensors["steps"])


def _in_slices(policy: Policy, kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What an optimizer keeps, as it lies on this rank."""
    slices = policy.slices
    if slices is None:
        return kept

    def read(key: str) -> Tensor:
        value = kept[key]
        return slices.part(_weight(key), value) if value.ndim else value

    return _Lazy(kept, read)


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
        f"{kind}/{name}": declared
        for name in moved
        for kind, declared in policy.optimizer.declared(name, tuple(weights[name].shape)).items()
    }
    if kept.keys() != expected.keys():
        return "its moments are not complete"
    expected |= {name: (tuple(weight.shape), weight.dtype) for name, weight in policy.weights.items()}
    for name, value in chain(weights.items(), initial.items(), kept.items()):
        if (tuple(value.shape), value.dtype) != expected[name]:
            return f"{name} is {value.dtype} of shape {tuple(value.shape)}"
    return None

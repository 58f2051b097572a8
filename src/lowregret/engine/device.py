"""Where an engine computes, and in which type."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from lowregret.errors import SpecError
from lowregret.models.four_bit import FourBitWeight
from lowregret.models.sharded import here


def choose_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; SpecError for a device that torch does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        several = f" For {device} devices: --devices {device}." if device.isdecimal() else ""
        raise SpecError(
            f"device {device!r} is not available: {str(error).splitlines()[0]}. Use auto, cpu or cuda:N.{several}"
        ) from None
    return chosen


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU and bfloat16 elsewhere."""
    if precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def cast_base(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weight matrices to `dtype`; vectors and embeddings (and a matrix shared with one) to float32.

    A float64 base, which only a caller can have made, stays as it is.
    """
    for parameter, matrix in _floating(model):
        parameter.data = parameter.data.to(dtype if matrix else torch.float32)


@torch.no_grad()
def round_base(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """The numbers that `cast_base` leaves, in the types and the parts that they are in."""
    for parameter, matrix in _floating(model):
        if matrix:
            own = here(parameter)
            own.copy_(own.to(dtype))


def _floating(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Parameter, bool]]:
    """Parameters that are cast, with whether they are matrices but no embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for parameter in model.parameters():
        wide = parameter.dtype is torch.float64 or isinstance(parameter, FourBitWeight)
        if parameter.is_floating_point() and not wide:
            yield parameter, parameter.ndim >= 2 and id(parameter) not in embeddings


def arithmetic(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Products in `dtype`; all is float32 when that is.

    Autocast remembers its copies of weights until the pass is over. Of weights in parts it would so keep all of them
    whole on every rank, long after FSDP has let go of what it gathered: there it makes each copy when it is used.
    """
    remembers = not isinstance(model, FSDPModule)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32, cache_enabled=remembers)


def out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on GPUs; its CPU allocator only has words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

"""Programs in which rank 0 leads, and what the others do then; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

import gc
import sys
from typing import Any

import torch
import torch.distributed as dist

from bases import examples, small_base
from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.engine.checks import forget_gradients
from lowregret.engine.losses import cross_entropy
from lowregret.engine.parallel.launch import crew, ranks_here
from lowregret.engine.parallel.lead import Lead, together
from lowregret.engine.parallel.mesh import Ranks
from lowregret.errors import LowregretError, RanksError
from lowregret.spec import FullFT, LoRA

_LACKING = {"times": 1}


def make(folder: str) -> Engine:
    """On each rank; the file says that it has made one."""
    lead = _here["lead"]
    with open(f"{folder}/made{dist.get_rank()}", "a") as file:
        file.write("engine\n")
    return Engine(small_base("qwen3"), device="cpu", precision="float32", ranks=Ranks.of_group("cpu", lead))


_here: dict[str, Any] = {}


@together
def rank_of(engine: Engine) -> int:
    return engine.ranks.rank


@together
def kept(engine: Engine) -> list[int]:
    """Engines that each rank holds."""
    own = torch.tensor([sum(isinstance(each, Engine) for each in _here["lead"]._known.values())])
    every = [torch.empty_like(own) for _ in range(engine.ranks.count)]
    dist.all_gather(every, own)
    return [int(each) for each in every]


@together
def fails_on(engine: Engine, rank: int) -> None:
    if engine.ranks.rank == rank:
        raise LowregretError("this rank alone")


@together
def refused(engine: Engine) -> None:
    raise LowregretError("all alike")


def lacking(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A loss for which rank 1 has no memory, once."""
    if dist.get_rank() == 1 and _LACKING["times"]:
        _LACKING["times"] -= 1
        raise MemoryError("no room for it")
    return cross_entropy(logprobs, weights)


@together
def starve(engine: Engine) -> None:
    """Rank 1 has no memory for a step."""

    def nothing_left() -> None:
        raise MemoryError("no room for it")

    if engine.ranks.rank == 1:
        engine.policies["full"].gather_gradients = nothing_left  # type: ignore[method-assign]


def broken(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A loss that rank 2 alone cannot compute."""
    if dist.get_rank() == 2:
        raise ValueError("no such loss")
    return cross_entropy(logprobs, weights)


def program(folder: str, inside: bool) -> dict[str, Any]:
    """What rank 0 gets; the others follow and know nothing. In the end one rank fails, `inside` of a pass or not."""
    lead = _here["lead"] = Lead(dist.get_rank(), dist.get_world_size())
    if lead.rank:
        try:
            lead.follow()
        except RanksError as error:
            return {"ended": str(error)}
        return {"ended": "well"}
    found: dict[str, Any] = {}
    engine = lead.build(make, folder)
    other = lead.build(make, folder)
    found["rank"] = rank_of(other)
    del other
    gc.collect()
    rank_of(engine)  # with the next call the others let go, too
    found["kept"] = kept(engine)
    engine.add_policy("a", LoRA(rank=2), seed=1)
    try:
        refused(engine)
    except LowregretError as error:
        found["refused"] = str(error)
    batch = collate(examples(4, 1))
    try:
        engine.forward_backward({"a": batch}, lacking)
    except MemoryError as error:
        found["memory"] = str(error)
    forget_gradients(engine, "a")
    found["loss"] = float(engine.forward_backward({"a": batch}, lacking)["a"].loss)
    found["norm"] = engine.optim_step({"a": AdamParams(1e-3)})["a"]
    found["after"] = float(engine.forward({"a": batch})["a"].loss)
    try:
        if inside:
            engine.forward_backward({"a": batch}, broken)
        fails_on(engine, 1)
    except RanksError as error:
        found["apart"] = str(error)
        found["broken"] = lead.broken
    return found


def plain() -> Engine:
    """On each rank that `crew` has started."""
    return Engine(small_base("qwen3"), device="cpu", precision="float32", ranks=ranks_here())


if __name__ == "__main__":  # rank 1 has no memory in the middle of a `pass` or `step` in which ranks exchange
    from led import lacking, plain, starve  # by the names that the other process knows

    lead = crew(2, "cpu").lead
    assert lead is not None
    trained = lead.build(plain)
    trained.add_policy("full", FullFT())
    try:
        if sys.argv[1] == "pass":
            trained.forward_backward({"full": collate(examples(4, 1))}, lacking)
        else:
            starve(trained)
            trained.forward_backward({"full": collate(examples(4, 1))})
            trained.optim_step({"full": AdamParams(1e-3)})
    except RanksError as error:
        print(error)

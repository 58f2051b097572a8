"""Rank 0 runs the program, and the other ranks repeat its calls of the engine.

So whatever is decided is decided once: which trials train, how large a pass is, when a checkpoint is due, when to stop.
And rank 0 alone reads data, writes records and talks to the user. What crosses between the processes before a call is
its name and its arguments: whole batches, some kilobytes.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar, cast

import torch
import torch.distributed as dist

from lowregret.engine.device import out_of_memory
from lowregret.errors import LowregretError, RanksError

P = ParamSpec("P")
R = TypeVar("R")
_WELL, _REFUSED, _NO_MEMORY, _FAILED, _OTHERS = range(5)
"""How a rank fared; the last by what another has met."""
_CPU = torch.device("cpu")
_LEAD = -1
"""In the place of a number: the lead itself."""


class HasLead(Protocol):
    """The ranks of an engine."""

    @property
    def lead(self) -> Lead | None: ...


class HasRanks(Protocol):
    """What is on every rank: an engine."""

    @property
    def ranks(self) -> HasLead: ...


S = TypeVar("S", bound=HasRanks)


def together(function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Of a function whose first argument is an engine: rank 0 calls it, and so do all others.

    A call inside such a call is a plain one, and so is every call where nobody leads: then each process must make it.
    Arguments are pickled, and engines among them are each rank's own. The result is rank 0's.
    """

    @wraps(function)
    def call(subject: S, *args: P.args, **kwargs: P.kwargs) -> R:
        lead = subject.ranks.lead
        if lead is None or lead.inside:
            return function(subject, *args, **kwargs)
        return cast(R, lead.call(call, (subject, *args), kwargs))

    return cast(Callable[Concatenate[S, P], R], call)


class Lead:
    """What one process is told by rank 0, or tells the others when it is rank 0 itself."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._known: MutableMapping[int, Any] = weakref.WeakValueDictionary() if rank == 0 else {}
        """Engines by number, which is the same on all ranks. Rank 0 has those that its program still has."""
        self._known[_LEAD] = self
        self._made = 0
        self._gone: list[int] = []
        self.inside = False
        """In a call that all make."""
        self.broken = False
        """The ranks are apart: no further call can be made."""
        self.lost: Callable[[], str | None] = lambda: None
        """What is known of a process that does not answer."""

    def build(self, make: Callable[..., R], *args: Any) -> R:
        """What `make` gives on each rank, and a number for it; for as long as rank 0's program holds it."""
        return cast(R, self.call(make, args, {}, keep=True))

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, keep: bool = False
    ) -> Any:
        """Make a call, and have all others make it, who import it by its name.

        RanksError when another rank has ended, or did not fare as this one.
        """
        gone = self._gone[:]
        del self._gone[: len(gone)]  # the list stays: what lets go of an engine adds to it
        with self._within():
            self._send((function, args, kwargs, keep, gone))
            return self._make(function, args, kwargs, keep=keep)

    def follow(self) -> None:
        """Make the calls of rank 0 until it ends."""
        while (told := self._receive()) is not None:
            function, args, kwargs, keep, gone = told
            for number in gone:
                self._known.pop(number, None)
            if gone:
                gc.collect()  # engine and model know each other; the next base must not be loaded beside this one
            try:
                with self._within():
                    self._make(function, args, kwargs, keep=keep)
            except Exception:
                if self.broken:
                    raise
            del function, args, kwargs, told

    def end(self) -> None:
        """Rank 0: let the others go."""
        self._send(None)

    @contextmanager
    def _within(self) -> Iterator[None]:
        """Around a call that all make, and how they compare; Ctrl-C in the middle of it leaves the ranks apart."""
        self.inside = True
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.broken = True
            raise
        finally:
            self.inside = False

    def _make(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, keep: bool) -> Any:
        found, problem = None, None
        try:
            found = function(*args, **kwargs)
        except Exception as error:
            problem = error
        if keep and problem is None:
            self._keep(found)
        if not self.broken:
            self._compare(problem)
        if problem is not None:
            raise problem
        return found

    def leave(self, problem: Exception) -> NoReturn:
        """End the training by what this rank has met where the others wait for it: no call can tell them.

        RanksError on rank 0. Another rank's process ends, by which rank 0 notices, and shows what was said last.
        """
        self.broken = True
        said = f"rank {self.rank}: {type(problem).__name__}: {problem}"
        if out_of_memory(problem):
            said += " Run the same command again with a lower --micro-batch-size: it goes on from the last checkpoint."
        if self.rank:
            print(said, file=sys.stderr, flush=True)
            os._exit(RanksError.exit_code)
        raise RanksError(said if out_of_memory(problem) else self.lost() or said)

    def _keep(self, found: Any) -> None:
        number = self._made
        self._made += 1
        self._known[number] = found
        if self.rank == 0:
            weakref.finalize(found, self._gone.append, number).atexit = False

    def _compare(self, problem: BaseException | None) -> None:
        """How all fared: alike, or RanksError with the reason why they did not."""
        own = torch.tensor([_state(problem)])
        states = [torch.empty_like(own) for _ in range(self.count)]
        told: list[Any] = [None] * self.count
        try:
            dist.all_gather(states, own)
            found = [int(state) for state in states]
            if len(set(found)) == 1:
                return
            dist.all_gather_object(told, "" if problem is None else f"{type(problem).__name__}: {problem}")
        except RuntimeError as error:
            raise self._apart(error) from None
        self.broken = True
        rank = next(rank for rank, state in enumerate(found) if state not in (_WELL, _OTHERS))
        raise RanksError(f"rank {rank} could not do what others could: {told[rank]}")

    def _apart(self, error: RuntimeError) -> RanksError:
        self.broken = True
        known = self.lost() or f"another rank does not answer ({str(error).splitlines()[0]})"
        return RanksError(f"{known} Run the same command again: it goes on from the last checkpoint.")

    def _send(self, what: Any) -> None:
        buffer = io.BytesIO()
        _Pickler(buffer, self._known).dump(what)
        try:
            dist.broadcast_object_list([buffer.getvalue()], src=0, device=_CPU)
        except RuntimeError as error:
            raise self._apart(error) from None

    def _receive(self) -> Any:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, src=0, device=_CPU)
        return _Unpickler(io.BytesIO(told[0]), self._known).load()


def _state(problem: BaseException | None) -> int:
    if problem is None:
        return _WELL
    if out_of_memory(problem):
        return _NO_MEMORY
    if isinstance(problem, RanksError):
        return _OTHERS
    return _REFUSED if isinstance(problem, LowregretError) else _FAILED


class _Pickler(pickle.Pickler):
    """Engines go by their numbers."""

    def __init__(self, file: io.BytesIO, known: MutableMapping[int, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._numbers = {id(each): number for number, each in known.items()}

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: MutableMapping[int, Any]) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, pid: Any) -> Any:
        return self._known[pid]

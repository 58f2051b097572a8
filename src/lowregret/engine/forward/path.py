"""How a base can be run: rows end to end, logits in chunks, both, or neither; and why not the faster way.

The base's modeling code decides, and is asked: short rows, two of which share a prompt, must get the log-probabilities
that the base itself gives to each alone, beside a row that goes on to the base's last position. The plainest way, one
row a pass and the base's own logits, needs no proof.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.data.batches import SHARED_LEAST, Batch, collate
from lowregret.data.example import Example
from lowregret.engine.forward.positions import Call, RowPositions
from lowregret.engine.losses import token_logprobs
from lowregret.models.context import positions_of

_PROMPTS = (0, 1, 2, 2, 3)
"""The number of the prompt of each row that a base is asked with."""
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest difference of a log-probability, nats, that is still rounding."""
_BETWEEN = ("torch", "jaxtyping", "beartype", "contextlib")
"""Packages that raise on behalf of who called them."""
_KEYWORDS = re.compile(
    r"unexpected keyword argument '(rows|position_ids|use_cache|past_key_values|attention_mask|cells)'"
)
"""What a base says that knows nothing of rows end to end, of padding, or of a cache."""


@dataclass(frozen=True)
class ForwardPath:
    """One way to run a base."""

    padding_free: bool
    """Whether rows lie end to end; else they are padded to the longest of a pass."""
    chunked: bool
    """Whether the unembedding's product and its softmax are taken in chunks; else the base makes all logits."""
    refused: str | None = None
    """Why each faster way was not taken, in a sentence; None for the fastest."""
    alone: bool = False
    """Whether each pass holds one row: where a row's numbers depend on the rows beside it."""

    @property
    def name(self) -> str:
        """As records and messages have it."""
        rows = "padding-free" if self.padding_free else "one row a pass" if self.alone else "padded"
        return f"{rows}, {'chunked' if self.chunked else 'full'} logits"

    @property
    def description(self) -> str:
        """What was chosen and why nothing faster was, for a record."""
        return self.name if self.refused is None else f"{self.name} ({self.refused})"

    def line(self) -> str:
        """The same, for a user."""
        return f"forward path: {self.description}"


PATHS = (
    *(ForwardPath(padding_free, chunked) for padding_free in (True, False) for chunked in (True, False)),
    ForwardPath(padding_free=False, chunked=False, alone=True),
)
"""The fastest first."""


def select_forward_path(
    attempt: Callable[[ForwardPath], Float[Tensor, " positions"]],
    expected: Float[Tensor, " positions"],
    dtype: torch.dtype,
    *,
    varlen: bool,
) -> ForwardPath:
    """The first path whose attempt gives the expected log-probabilities, in `dtype`'s precision.

    `varlen`: whether the base's attention can be told where rows lie (`supports_varlen`). A path is refused when the
    numbers differ, when our code says that it does not compute what the base asks for (NotImplementedError), or when
    the base's own code raises whatever it likes: `refused` says which. Any other exception of our code is a fault of
    ours and is raised, as is a lack of memory.
    """
    refused: dict[str, list[ForwardPath]] = {}
    for path in PATHS:
        if path.padding_free and not varlen:
            problem: str | None = "its masks cut rows into chunks, which attention is not told of"
        elif path == PATHS[-1]:
            problem = None
        else:
            problem = _problem(attempt, path, expected, dtype)
        if problem is None:
            reasons = [f"{_named(paths)} refused: {why}" for why, paths in refused.items()]
            return replace(path, refused="; ".join(reasons) or None)
        refused.setdefault(problem, []).append(path)
    raise AssertionError("the last path is never refused")


def _named(paths: list[ForwardPath]) -> str:
    """Paths that were refused for one reason."""
    if paths == list(PATHS[:2]):
        return "padding-free"
    return " and ".join(path.name for path in paths)


def _problem(
    attempt: Callable[[ForwardPath], Float[Tensor, " positions"]],
    path: ForwardPath,
    expected: Float[Tensor, " positions"],
    dtype: torch.dtype,
) -> str | None:
    """Why this path is not to be taken; None when it is."""
    try:
        found = attempt(path)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # modeling code may refuse in any way it likes; ours may not
        return refusal(error)
    if torch.allclose(found, expected.to(found.dtype), rtol=0, atol=PROBE_TOLERANCE[dtype]):
        return None
    worst = float((found - expected.to(found.dtype)).abs().max())
    return f"log-probabilities differ from the base's own by {worst:.3g} nats"


def refusal(error: Exception) -> str:
    """Why a way of running a base is refused that has raised this; a fault of ours is raised again."""
    if isinstance(error, NotImplementedError):
        return _said(error)
    if _ours(error.__traceback__) and not (isinstance(error, TypeError) and _KEYWORDS.search(str(error))):
        raise error
    return f"the base's code raised {type(error).__name__}: {_said(error)} ({_place(error)})"


def _ours(trace: TracebackType | None) -> bool:
    """Whether an exception comes from this package: the innermost frame that does not act for another decides."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    raised = [package for package in packages if package not in _BETWEEN]
    return bool(raised) and raised[-1] == __name__.partition(".")[0]


def _said(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _place(error: BaseException) -> str:
    """The innermost function of an exception."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}, {frame.filename.rpartition('/')[2]}:{frame.lineno}"


def probe(
    model: PreTrainedModel, pad_id: int, device: torch.device, angles: RowPositions
) -> tuple[Batch, Float[Tensor, " positions"]]:
    """The rows that a base is asked with, and the log-probabilities of their supervised tokens that are right.

    The last row is said to go on to the base's last position. Where that changes the angles of its first tokens,
    `angles` makes them for each row on its own from now on.
    """
    rows = _rows(pad_id)
    far = positions_of(model.config)
    told = "position_ids" in inspect.signature(model.forward).parameters
    if far is not None and (not told or far <= len(rows[-1].token_ids)):
        far = None
    asked = [(row, None) for row in rows] + ([] if far is None else [(rows[-1], far)])
    calls: list[list[Call]] = [[] for _ in asked]
    expected = []
    for (row, end), made in zip(asked, calls, strict=True):
        with angles.watched(made):
            expected.append(own_logprobs(model, row, device, end))
    batch = collate([row for row, _ in asked], pad_id)
    if far is not None:
        angles.separate(calls[-2], calls[-1], tokens=len(rows[-1].token_ids) - 1)
        batch.lengths[-1] = far
    return replace(batch, prompts=torch.tensor(_PROMPTS[: batch.rows])), torch.cat(expected)


def _rows(pad_id: int) -> list[Example]:
    """Short rows; none has the padding token."""
    some = [token for token in range(8) if token != pad_id]
    lengths = ((1, 3), (1, 5), (SHARED_LEAST + 1, 2), (SHARED_LEAST + 1, 3))  # of prompt and completion
    return [Example(tuple(islice(cycle(some), p + c)), (False,) * p + (True,) * c) for p, c in lengths]


def own_logprobs(
    model: PreTrainedModel, row: Example, device: torch.device, far: int | None = None
) -> Float[Tensor, " positions"]:
    """log p of each supervised token of a row, as the base computes it without any of ours.

    With `far`, the row's last token stands at the position before that one: so a row of `far` tokens begins.
    """
    ids = torch.tensor([row.token_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if far is not None:
        inputs["position_ids"] = torch.tensor([[*range(ids.shape[1] - 1), far - 1]], device=device)
    logits = model(**inputs).logits[0, :-1]
    return token_logprobs(logits, ids[0, 1:])[torch.tensor(row.supervised[1:], device=device)]

"""Rows and policies that come and go while others are drawn: what a server samples by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar, final

from jaxtyping import Float64
from torch import Tensor

from lowregret.engine.engine import Engine
from lowregret.engine.sampling.draw import SamplingParams, StopTexts
from lowregret.engine.sampling.prefixes import Prefixes
from lowregret.engine.sampling.rows import Constraint, Row
from lowregret.errors import SpecError

T = TypeVar("T")


@final
class LiveSampler:
    """A batcher on an engine; one thread's, which alone may use the engine meanwhile."""

    def __init__(self, engine: Engine, prefix_bytes: int = 0) -> None:
        """`prefix_bytes`: for what rows have in common with rows before them; a policy's weights must not change then.

        SpecError for an engine of several ranks.
        """
        if not engine.ranks.alone:
            raise SpecError("rows that come and go are sampled on one device. Leave --devices out.")
        self.engine = engine
        engine._slots.ahead = True
        self.prefixes = Prefixes(prefix_bytes) if prefix_bytes else None
        self.most_rows = 1 if engine._alone else None
        """Rows at once, where the base allows no more."""
        self._batcher = engine._batcher(self.prefixes)
        self._open = ExitStack()
        self._inside = False

    @property
    def busy(self) -> bool:
        """Whether there is a row that has not ended."""
        return self._batcher.busy

    def add(
        self,
        policy: str,
        prompt: Sequence[int],
        params: SamplingParams,
        numbers: Float64[Tensor, " max_tokens"] | None = None,
        constraint: Constraint | None = None,
    ) -> Row:
        """Take a row in at the next step, drawn by these of `rows_of_uniforms`, or by the first of them.

        Equal seeds give equal rows, and the first is that of `Engine.sample`. SpecError for a prompt without tokens.
        """
        row = Row.of(policy, prompt, params, StopTexts(params.stop_texts, self.engine._text), numbers, constraint)
        self._batcher.add(row)
        return row

    def step(self) -> list[Row]:
        """Draw a token for each row; the rows, ended ones among them."""
        if not self._inside:
            self._open.enter_context(self.engine._sampling())
            self._inside = True
            self._batcher.renew()
        return self._batcher.step(live=True)

    def change(self, change: Callable[[], T]) -> T:
        """Put policies on the engine or take them off, between steps. One that has rows must stay."""
        self.close()
        return change()

    def abandon(self) -> None:
        """Let go of all rows, after a step has failed."""
        self.close()
        self._batcher = self.engine._batcher(self.prefixes)

    def forget(self, policy: str) -> None:
        """Keep nothing of a policy that has gone."""
        if self.prefixes is not None:
            self.prefixes.forget(policy)

    def close(self) -> None:
        """Leave the state in which weights are known not to change; the next step enters it again."""
        self._open.close()
        self._inside = False

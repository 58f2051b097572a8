"""A step taken in the backward pass: each weight by itself, as soon as its gradient is complete (Lv et al., LOMO,
arXiv 2306.09782), by torch's post-accumulate-grad hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from lowregret.engine.optim.optimizer import Names, PolicyOptimizer, StepParams, total_norm
from lowregret.errors import SpecError

Watch = Callable[[nn.Parameter, Callable[[], None]], None]
"""Given a weight whose gradient is complete, and what steps it: does that, and may look before and after."""


@final
class InBackward:
    """Steps the parameters of one policy while a pass goes back, each by an optimizer of its own of one kind.

    The hyper-parameters are announced before the pass, and `step` comes after it. What is kept and saved is what the
    kind keeps.
    """

    def __init__(
        self,
        kind: type[PolicyOptimizer[Any]],
        parameters: Sequence[tuple[nn.Parameter, Names]],
        watch: Watch,
        outside: Collection[str] = (),
    ) -> None:
        self.spec, self.prefix = kind.spec, kind.prefix
        self._watch = watch
        self._params: StepParams | None = None
        self._norms: dict[nn.Parameter, Tensor] = {}
        """Of those that were stepped since the last `step`."""
        self._each = {own: kind([(own, names)], gradients_stay=False, outside=outside) for own, names in parameters}
        self.declared = next(iter(self._each.values())).declared
        self._hooks = [own.register_post_accumulate_grad_hook(self._move) for own in self._each]

    def announce(self, params: StepParams) -> None:
        """What the pass to come steps by; SpecError for a clip norm, which wants all gradients first."""
        if params.clip_norm is not None:
            raise SpecError(
                "gradients are not clipped where each is stepped by in the backward pass: leave clip_norm out."
            )
        self._params = params

    def step(self, params: StepParams, norm: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """What the pass has done is the step; returns the norm of all gradients. SpecError when it was not announced
        with these hyper-parameters, or there was no pass."""
        if not self._norms or params != self._params:
            raise SpecError(
                "a policy that steps in the backward pass takes its step there: announce its hyper-parameters "
                "(`engine.checks.announce`) before the pass."
            )
        found = total_norm(list(self._norms.values()))
        self._norms, self._params = {}, None
        return found

    def has_moved(self, own: nn.Parameter) -> bool:
        """Whether a weight was stepped since the last `step`."""
        return own in self._norms

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by weight, as `PolicyOptimizer.state`."""
        return {key: value for each in self._each.values() for key, value in each.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for each in self._each.values():
            each.load_state(state)

    def detach(self) -> None:
        """Weights are stepped no more."""
        for hook in self._hooks:
            hook.remove()

    def _move(self, own: nn.Parameter) -> None:
        if self._params is None:
            raise SpecError(
                "a policy that steps in the backward pass was not told how: announce its hyper-parameters "
                "(`engine.checks.announce`) before the pass."
            )
        if own in self._norms:
            raise SpecError(
                "a policy that steps in the backward pass takes one pass a step, and this was the second. Give the "
                "step one pass, or train without in-backward."
            )
        self._watch(own, partial(self._step, own, self._params))

    def _step(self, own: nn.Parameter, params: StepParams) -> None:
        self._norms[own] = self._each[own].step(params)

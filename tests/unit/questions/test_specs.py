"""What single questions promise of their groups."""

from __future__ import annotations

import pytest

from lowregret.questions.invariance.spec import InvarianceQuestion
from lowregret.questions.question import log_spaced
from lowregret.questions.registry import make_question
from lowregret.spec import LoRA


def test_transforms_keep_both_invariants_and_changes_keep_one() -> None:
    question = InvarianceQuestion()

    def invariants(lora: LoRA) -> tuple[float, float]:
        return lora.alpha * lora.init_scale * lora.b_rate, lora.init_scale / lora.a_rate

    plain, *others = question.methods()
    for index, lora in enumerate(others):
        same = [abs(a / b - 1) < 1e-9 for a, b in zip(invariants(lora), invariants(plain), strict=True)]
        assert same.count(True) == (2 if index < len(question.transforms) else 1)


def test_evaluations_are_even_in_the_logarithm() -> None:
    assert log_spaced(2, 512, 9) == (2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert log_spaced(5, 3, 4) == (3,)
    assert log_spaced(2, 8, 1) == (8,)


@pytest.mark.parametrize("quick", [False, True])
def test_what_teaches_and_what_elicits_is_evaluated_where_the_slope_is_taken(quick: bool) -> None:
    """A slope over the second half of the epoch has an error only with three evaluations there."""
    groups = {group.condition: group for group in make_question({"kind": "capacity"}, quick=quick).groups()}
    for name in ("teach", "elicit"):
        evals, steps = groups[name].evals, groups[name].steps
        assert isinstance(evals, tuple)
        assert steps is not None
        assert evals[-1] == steps
        assert sum(step >= steps / 2 for step in evals) >= 3

"""The held-out examples by which a run was judged, for the proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowregret.activity import doing
from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData
from lowregret.errors import LowregretError
from lowregret.runs.extension import known_choices
from lowregret.runs.files import SPEC
from lowregret.runs.lock import stored_spec
from lowregret.ship.winner import Winner
from lowregret.spec import CompareSpec, TrainSpec, build
from lowregret.train.inputs import open_inputs

MOST = 64
"""Examples, the first of those that judged the run: each is read twice, one at a time."""


@doing("reading the held-out rows")
def held_out(winner: Winner, say: Callable[[str], None]) -> Sequence[Example]:
    """The first of a run's held-out examples; none, which is said, where they cannot be had any more, and none of a
    run by reward."""
    run = winner.run
    asked = {} if run is None else stored_spec(run / SPEC)["spec"]
    if run is None or not asked.keys() & {"method", "methods"}:
        return ()
    try:
        spec = build(CompareSpec if "methods" in asked else TrainSpec, asked, source=str(run / SPEC))
        if spec.objective.kind == "rl":
            return ()
        data = open_inputs(spec, lambda line: None, known_choices(run)).data
    except LowregretError as error:
        say(f"warning: the proof has no held-out loss: {error}")
        return ()
    assert isinstance(data, PreparedData)
    return data.test[:MOST]

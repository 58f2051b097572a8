"""What an adapter that was trained over a quantised base loses, or gains, on the base as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.errors import SpecError
from lowregret.export.peft import load_adapter
from lowregret.models.four_bit import bitsandbytes
from lowregret.models.load import load_base, resolve
from lowregret.runs.proof import Proof
from lowregret.ship.winner import Winner, require_base


def over_quantised(winner: Winner, proof: Proof, examples: Sequence[Example], say: Callable[[str], None]) -> Proof:
    """The proof with the held-out loss as it was in training, where the base was quantised then; the others are over
    the base as it is, which is what is shipped or what a shipped adapter is to be put on. Float32, on the CPU."""
    quantisation = winner.quantisation
    if quantisation == "none" or proof.held_out is None:
        return proof
    try:
        bitsandbytes()
    except SpecError as error:
        say(f"warning: the proof has no loss over the base in {quantisation}: {error}")
        return proof
    base = replace(load_base(resolve(require_base(winner))), quantisation=quantisation)
    engine = Engine(base, device="cpu", precision="float32")
    load_adapter(engine, "adapter", winner.folder)
    nats, counts = engine.evaluate(["adapter"], list(examples)[: proof.held_out.examples])["adapter"]
    own = proof.held_out.model_copy(update={"quantised": sum(nats) / max(sum(counts), 1)})
    return proof.model_copy(update={"held_out": own})

"""Supervised fine-tuning in four verbs: what `lowregret train` does, without records, checkpoints or checks.

    python examples/sft_loop.py

A test holds it to the real trainer's numbers, to the bit.
"""

from lowregret import Engine, load_base
from lowregret.data.batches import batch_indices, collate
from lowregret.data.prepare import prepare
from lowregret.engine import AdamParams
from lowregret.spec import DataSpec, LoRA


def sft(model: str, data: str, rank: int, learning_rate: float, steps: int, batch_size: int, seed: int) -> list[float]:
    """Train a LoRA; returns the training loss of each step, in nats per supervised token, then the held-out loss."""
    base = load_base(model)
    examples = prepare(DataSpec(train=data), base.tokenizer)
    engine = Engine(base)
    engine.add_policy("student", LoRA(rank=rank), seed)

    losses = []
    for step in range(steps):
        rows = [examples.train[i] for i in batch_indices(len(examples.train), batch_size, seed, step)]
        rows.sort(key=lambda example: len(example.token_ids))
        batch = collate(rows, base.pad_id)  # its weights sum to one over the supervised tokens
        result = engine.forward_backward({"student": batch})["student"]
        engine.optim_step({"student": AdamParams(learning_rate)})
        losses.append(float(result.loss))

    nats, tokens = engine.evaluate(["student"], examples.test)["student"]
    return [*losses, sum(nats) / sum(tokens)]


if __name__ == "__main__":
    *curve, held_out = sft("tiny", "builtin:arithmetic", rank=16, learning_rate=2e-3, steps=40, batch_size=8, seed=0)
    print(f"training loss {curve[0]:.4f} → {curve[-1]:.4f}, held-out loss {held_out:.4f} nats per supervised token")

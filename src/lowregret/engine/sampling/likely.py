"""What a policy says of the tokens of a prompt, position by position: the most likely next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from lowregret.engine.engine import Engine

LOGITS = 2**28
"""Numbers of logits that are there at once; for more, the base is passed again."""


@torch.no_grad()
def likely_next(
    engine: Engine, policy: str, prompt: Sequence[int], top: int
) -> tuple[Int64[Tensor, "positions top"], Float32[Tensor, "positions top"]]:
    """The `top` most likely tokens behind each token of a prompt but the last, and their log-probabilities, nats, the
    most likely first. A name that is no policy is answered by the bare base; on one device.
    """
    count = len(prompt) - 1
    ids = torch.tensor([list(prompt[:-1])], device=engine.device)
    step = max(1, LOGITS // max(int(engine.model.config.get_text_config().vocab_size), 1))
    found: list[tuple[Tensor, Tensor]] = []

    def run() -> Tensor:
        logits: Tensor = engine.model(input_ids=ids, use_cache=False).logits
        return logits

    with engine._sampling():
        for start in range(0, count, step):
            chosen = torch.arange(start, min(start + step, count), device=engine.device)
            logits = engine._logits({policy: count}, {policy: len(chosen)}, chosen, run)
            best = logits.float().log_softmax(1).topk(min(top, logits.shape[1]), dim=1)
            found.append((best.indices.cpu(), best.values.cpu()))
    if not found:
        return torch.empty(0, top, dtype=torch.int64), torch.empty(0, top)
    return torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])

"""A base of which this process keeps its part: of each matrix (`tensor.py`), and of the experts (`expert.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.engine.forward.path import PROBE_TOLERANCE
from lowregret.engine.losses import token_logprobs
from lowregret.engine.parallel.adapters import BaseCuts
from lowregret.engine.parallel.autograd import join
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.expert import ExpertExchange, cut_experts
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.tensor import OTHERWISE, cut_matrices
from lowregret.errors import SpecError

_CUT = "lowregret_cut"
"""What a model is marked with."""


@torch.no_grad()
def cut_base(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> tuple[BaseCuts, ExpertExchange | None]:
    """Leave of a base this rank's part, in place; types are to be final. Nothing without tensor and expert ranks.

    Returns how it is cut, and what carries tokens to experts of other ranks. A short row, with products in `dtype`,
    must get the log-probabilities that it got before: SpecError when it does not, and for what cannot be cut.
    """
    if ranks.tensor.count == ranks.expert.count == 1:
        return BaseCuts(ranks), None
    kind = type(model).__name__
    if hasattr(model, _CUT):
        raise SpecError(f"{kind} was cut for another engine already: load the base again.")
    before = _answers(model, dtype)
    sides, vocabulary = cut_matrices(model, ranks.tensor)
    experts, exchange = cut_experts(model, ranks.expert)
    setattr(model, _CUT, True)
    try:
        after = _answers(model, dtype, vocabulary)
    except (RuntimeError, ValueError) as error:
        raise SpecError(
            f"{kind}: its code does not run in parts ({str(error).splitlines()[0]}). {OTHERWISE}"
        ) from error
    worst = float((after - before).abs().max())
    if not worst <= PROBE_TOLERANCE[dtype]:
        raise SpecError(
            f"{kind}: computed in parts, log-probabilities differ from its own by {worst:.3g} nats, so it is not "
            f"cut as transformers says of its family. {OTHERWISE}"
        )
    return BaseCuts(ranks, sides, vocabulary, experts), exchange


def refuse_full(ranks: Ranks) -> None:
    """SpecError where a FullFT policy would train what is cut."""
    asked = {"tensor": ranks.tensor.count, "expert": ranks.expert.count}
    for name, count in asked.items():
        if count > 1:
            raise SpecError(
                f"full fine-tuning is not computed with {name}={count}, LoRA is: leave {name} out, and its weights, "
                "gradients and moments lie in parts on all ranks (fsdp)."
            )


def _answers(model: PreTrainedModel, dtype: torch.dtype, vocabulary: Cut | None = None) -> Tensor:
    """log p of each token of a short row, by the model's own code; `vocabulary`: how its logits are cut."""
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    ids = torch.tensor([[number * rows // 9 for number in range(1, 9)]], device=embedding.weight.device)
    hook = None
    if vocabulary is not None:
        cut = vocabulary
        hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, part: join(part, cut))
    try:
        with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            return token_logprobs(model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])
    finally:
        if hook is not None:
            hook.remove()

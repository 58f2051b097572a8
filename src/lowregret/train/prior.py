"""Where a search for a learning rate starts, for a base as transformers describes it."""

from __future__ import annotations

from typing import Any

from lowregret.errors import ModelError
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.weights import Shapes, Weight


def shapes_from(config: Any, name: str) -> Shapes:
    """The shapes of a base from its transformers configuration.

    transformers loads more architectures than the plan can lay out. The rest gets the usual estimate of 12 · hidden²
    parameters a layer beside the embedding, which is enough for a prior, and a note that says so.
    """
    try:
        return shapes_of(config.to_dict(), name)
    except ModelError as error:
        text = config.get_text_config(decoder=True)
        hidden, layers, vocabulary = int(text.hidden_size), int(text.num_hidden_layers), int(text.vocab_size)
        return Shapes(
            name=name,
            family=text.model_type,
            hidden_size=hidden,
            layers=layers,
            vocabulary=vocabulary,
            context=None,
            intermediate_size=None,
            experts=0,
            active_experts=0,
            weights=(
                Weight("embedding", "embedding", (vocabulary, hidden), 1, 1),
                Weight("layers", "other", (12 * hidden, hidden), layers, layers),
            ),
            attention=(),
            notes=(f"Estimated as 12 · hidden² parameters a layer: {error}",),
        )

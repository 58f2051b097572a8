"""Activation checkpointing: a layer keeps its inputs, and computes the rest again when the backward pass needs it.

transformers has the same, but switched by a layer's `training`, which also switches on the dropout of some bases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lowregret.errors import ModelError
from lowregret.models.targets import Matrix


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Checkpoint every decoder layer in passes with gradients, for good; ModelError for a base without known layers.

    Gradients stay the same to the bit. The second forward pass needs what the first was given: keep the surroundings
    of a pass (routing, attention) until its backward pass is over.
    """
    layers = decoder_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__}: its layers cannot be told apart, so activations cannot be checkpointed. "
            "Leave checkpoint_activations out, and give a memory_gb instead."
        )
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # on the instance: copies of the model copy it along


def decoder_layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The repeated blocks of a base, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def first_layer(model: PreTrainedModel, matrices: Iterable[Matrix]) -> int:
    """The first decoder layer that holds one of these matrices, counted from 0; their number when none does.

    A backward pass of adapters on them ends there.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    names = [matrix.name for matrix in matrices]
    holding = (place for place, layer in enumerate(layers) if any(name.startswith(f"{layer}.") for name in names))
    return next(holding, len(layers))


@contextmanager
def last_layer_plain(model: PreTrainedModel) -> Iterator[None]:
    """The last layer keeps everything, as when the backward pass begins: for measuring. Nothing to do if all do."""
    last = decoder_layers(model)[-1:]
    replaced = [vars(layer).pop("forward", None) for layer in last]
    try:
        yield
    finally:
        for layer, forward in zip(last, replaced, strict=True):
            if forward is not None:
                layer.forward = forward


def _forward(layer: GradientCheckpointingLayer, *inputs: Any, **options: Any) -> Any:
    plain = partial(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return plain(*inputs, **options)
    # Nothing in a layer draws from the global generators: the base's dropout is off, a LoRA's has seeds of its own.
    return checkpoint(plain, *inputs, use_reentrant=False, preserve_rng_state=False, **options)

"""A trained model as transformers and PEFT have it, who took no part in writing it: in float32, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lowregret.data.example import Example
from lowregret.errors import ModelError
from lowregret.foreign import boundary
from lowregret.models.load import load_base, quiet, resolve
from lowregret.quantities import byte_count

_PEFT_MISSING = "PEFT, by which an adapter is proved, is not installed. pip install 'lowregret[ship]'"
_TRANSFORMERS = f"transformers {transformers.__version__}"
_ROOM = 1.3
"""Of the weights' bytes: with what a forward pass of a few hundred tokens needs beside them."""


@dataclass(frozen=True)
class Read:
    """A model that was loaded."""

    model: Any
    """Called with `input_ids` [1, tokens], it gives `.logits`."""
    tokenizer: PreTrainedTokenizerBase | None
    program: str
    """Who loaded it, and how."""

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> Float[Tensor, "tokens vocabulary"]:
        """Of each next token."""
        found: Tensor = self.model(input_ids=torch.tensor([list(tokens)])).logits[0].float()
        return found

    def loss(self, examples: Sequence[Example]) -> tuple[float, int]:
        """(nats per supervised token, of how many)."""
        total, count = 0.0, 0
        for example in examples:
            chosen = self.logits(example.token_ids)[:-1].double().log_softmax(-1)
            following = torch.tensor(example.token_ids[1:])
            kept = torch.tensor(example.supervised[1:])
            total -= float(chosen.gather(1, following[:, None])[:, 0][kept].sum())
            count += int(kept.sum())
        return total / max(count, 1), count


@contextmanager
def base_with_adapters(model: str, adapters: Sequence[tuple[Path, float]]) -> Iterator[Read]:
    """A base by transformers with adapters on it by PEFT, none merged; without adapters the base alone.

    ModelError when PEFT is not installed or refuses an adapter.
    """
    base = load_base(resolve(model))
    if not adapters:
        yield Read(base.model, base.tokenizer, f"{_TRANSFORMERS}, float32")
        return
    require_peft()
    from peft import PeftModel

    names = [f"adapter_{number}" for number in range(len(adapters))]
    with boundary(ModelError, adapters[0][0], "cannot be loaded by PEFT", "Fetch the adapter again."), _silent():
        first, *others = adapters
        found: Any = PeftModel.from_pretrained(base.model, str(first[0]), adapter_name=names[0])
        for name, (folder, _) in zip(names[1:], others, strict=True):
            found.load_adapter(str(folder), adapter_name=name)
        found.base_model.set_adapter(names)
        for name, (_, share) in zip(names, adapters, strict=True):
            _scale(found, name, share)
        found.eval()
    yield Read(found, base.tokenizer, f"PEFT {version('peft')} on {_TRANSFORMERS}, float32, not merged")


def require_peft() -> None:
    """ModelError, saying how to get it, when PEFT is not installed."""
    if find_spec("peft") is None:
        raise ModelError(_PEFT_MISSING)


def _scale(model: Any, name: str, share: float) -> None:
    """Multiply what one adapter adds, by PEFT's own scaling."""
    if share == 1:
        return
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and name in scaling:
            scaling[name] *= share


@contextmanager
def whole_model(folder: Path) -> Iterator[Read]:
    """The model of a folder by plain transformers, with no code of this package."""
    with boundary(ModelError, folder, "cannot be loaded by transformers", "Ship the model again."), _silent():
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model, found = loaded
    left = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if left:
        raise ModelError(f"{folder}: transformers finds no place for {left[0]} ({len(left)} weights). Report it.")
    yield Read(model.eval(), None, f"{_TRANSFORMERS}, float32")


@contextmanager
def _silent() -> Iterator[None]:
    """Without the advice of both libraries, on which a user of lowregret cannot act."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        yield


def too_large(parameters: int) -> str | None:
    """Why a model of so many parameters is not loaded here, in float32; None when there is room for it."""
    needed = _ROOM * 4 * parameters
    free = psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"not loaded here: it takes {byte_count(needed)} in float32, and {byte_count(free)} of memory are free"

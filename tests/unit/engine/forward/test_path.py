"""Which path a base is run by, and why not a faster one: a base may refuse, a fault of ours may not hide in it."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any

import pytest

from lowregret.engine import Engine, ForwardPath
from lowregret.engine.forward import attention, unembedding
from lowregret.engine.forward.path import PATHS

FASTEST = ForwardPath(padding_free=True, chunked=True)


def test_a_path_has_a_name_and_a_line() -> None:
    assert [path.name for path in PATHS] == [
        "padding-free, chunked logits",
        "padding-free, full logits",
        "padded, chunked logits",
        "padded, full logits",
        "one row a pass, full logits",
    ]
    assert FASTEST.line() == "forward path: padding-free, chunked logits"
    assert ForwardPath(False, True, "so it is").line() == "forward path: padded, chunked logits (so it is)"


def test_the_engine_says_its_path_and_goes_by_it(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    path = engine.forward_path
    assert (engine.padding_free, engine._unembedding.chunked) == (path.padding_free, path.chunked)
    if architecture == "gemma2":
        assert path.refused == "padding-free refused: attention with softcap"
    else:
        assert path == FASTEST


def test_a_base_that_raises_says_what_and_where(bases: ModuleType) -> None:
    """Its own code, in whatever way it likes."""
    base = bases.small_base("llama")
    own = base.model.model.forward

    def forward(*inputs: Any, **others: Any) -> Any:
        if "rows" in others:
            raise KeyError("no rows here")
        return own(*inputs, **others)

    base.model.model.forward = forward
    path = Engine(base).forward_path
    assert path.name == "padded, chunked logits"
    said = "padding-free refused: the base's code raised KeyError: 'no rows here' (forward, test_path.py:"
    assert str(path.refused).startswith(said)


def test_a_base_that_takes_no_rows_refuses(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    own = base.model.forward

    def forward(input_ids: Any = None, use_cache: Any = None) -> Any:
        return own(input_ids=input_ids, use_cache=use_cache)

    base.model.forward = forward
    path = Engine(base).forward_path
    assert path.name == "padded, chunked logits"
    assert "got an unexpected keyword argument" in str(path.refused)


def test_other_numbers_are_a_refusal_that_says_how_far_they_are(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    base.model.lm_head.register_forward_hook(lambda head, inputs, logits: 0.5 * logits)
    path = Engine(base).forward_path
    assert path.name == "padding-free, full logits"
    said = "padding-free, chunked logits refused: log-probabilities differ from the base's own by "
    assert str(path.refused).startswith(said)


def test_a_base_whose_masks_cut_rows_is_not_even_asked(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    base.model.config.layer_types = ["chunked_attention", "full_attention"]
    assert "cut rows into chunks" in str(Engine(base).forward_path.refused)


def broken(error: type[Exception], module: str) -> Any:
    """A function of this module that raises."""

    def function(*_: Any, **__: Any) -> Any:
        raise error("a bug")

    names = {"__name__": module}
    return FunctionType(function.__code__, names, module, None, function.__closure__)


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError])
@pytest.mark.parametrize("where", ["attention", "unembedding", "torch, which attention calls"])
def test_a_fault_of_ours_surfaces(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, error: type[Exception], where: str
) -> None:
    """It would cost speed, in silence, on every base."""
    base = bases.small_base("llama")
    if where == "attention":
        monkeypatch.setattr(attention.RowGroup, "mask", broken(error, attention.__name__))
    elif where == "unembedding":
        monkeypatch.setattr(unembedding, "linear_logprobs", broken(error, "lowregret.engine.forward.head"))
    else:
        monkeypatch.setattr(attention._Pad, "apply", broken(error, "torch.autograd.function"))
    with pytest.raises(error, match="a bug"):
        Engine(base)


def test_a_lack_of_memory_is_no_refusal(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.small_base("llama")
    own = base.model.model.forward

    def forward(*inputs: Any, **others: Any) -> Any:
        if "rows" in others:
            raise MemoryError("none left")
        return own(*inputs, **others)

    base.model.model.forward = forward
    with pytest.raises(MemoryError, match="none left"):
        Engine(base)

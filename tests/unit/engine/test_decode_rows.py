"""How many rows decode together in memory."""

from __future__ import annotations

from types import ModuleType

import pytest

from lowregret.engine import Engine, SamplingParams, footprint
from lowregret.engine.sampling import cache


def test_the_cache_of_a_row_is_what_it_is_taken_for(
    bases: ModuleType, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values that a decoder really holds, per row and token, against what the bound reckons with."""
    engine = Engine(bases.small_base(architecture))
    assert engine.sampling_path.cached  # found out by sampling, which is not to be watched
    length, budget = 10, 10**9
    monkeypatch.setattr(footprint, "default_budget", lambda _: budget)
    assert engine.sampling_path.cached  # found by now: that took caches of its own
    made = []
    real = cache._with_room

    def watched(states: object) -> object:
        made.append(states)
        return real(states)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_with_room", watched)
    engine.sample({"base": [[2] * length] * 3}, SamplingParams(max_tokens=1))
    most = footprint.max_decode_rows(engine, length)
    logits = 16 * engine.model.config.get_text_config().vocab_size
    held = sum(states[0].numel() * 4 for states in made)  # type: ignore[index]
    if made:  # else the base keeps its own cache
        assert most == budget // (held + logits)
    assert footprint.max_decode_rows(engine, 2 * length) < most


def test_one_row_is_always_allowed(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "default_budget", lambda _: 0)
    assert footprint.max_decode_rows(Engine(bases.small_base("qwen3")), 100) == 1

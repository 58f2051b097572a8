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
    caches: list[cache.SlotCache] = []
    real = cache.SlotCache.seat

    def watched(self: cache.SlotCache, rows: object) -> None:
        caches.append(self)
        if len(self.rows) == 3 and not rows:  # before its memory is let go of
            stores = [layer.store(pool) for layer in self.slot_layers for pool in self.pools.values()]
            held.append(sum(states.nbytes for pair in stores for states in pair))
        real(self, rows)  # type: ignore[arg-type]

    held: list[int] = []
    monkeypatch.setattr(cache.SlotCache, "seat", watched)
    engine.sample({"base": [[2] * length] * 3}, SamplingParams(max_tokens=1))
    most = footprint.max_decode_rows(engine, length)
    logits = 16 * engine.model.config.get_text_config().vocab_size
    if caches:  # else the base keeps its own cache
        assert most == budget // (held[0] // 3 + logits)
    assert footprint.max_decode_rows(engine, 40 * length) < most


def test_one_row_is_always_allowed(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "default_budget", lambda _: 0)
    assert footprint.max_decode_rows(Engine(bases.small_base("qwen3")), 100) == 1

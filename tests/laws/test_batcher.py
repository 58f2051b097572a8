"""Rows that come and go, each by parameters of its own, are drawn as if each were alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling import cache, decode, pools
from lowregret.engine.sampling import draw as drawing
from lowregret.engine.sampling.live import LiveSampler
from lowregret.engine.sampling.prefixes import PIECE, Prefixes
from lowregret.engine.sampling.rows import Row
from lowregret.errors import SpecError
from lowregret.spec import LoRA

POLICIES = ("a", "b", "base")
BASES = ("llama", "qwen3", "gemma2", "mamba")
"""The written step, with its norms, the base's own cache, no cache."""


def asked(seed: int) -> tuple[str, list[int], SamplingParams]:
    """A request of any kind."""
    draw = random.Random(seed)
    params = SamplingParams(
        max_tokens=draw.randrange(1, 14),
        temperature=draw.choice([0.0, 0.7, 1.0, 1.5]),
        top_p=draw.choice([1.0, 1.0, 0.8]),
        top_k=draw.choice([0, 0, 5]),
        min_p=draw.choice([0.0, 0.0, 0.1]),
        repetition_penalty=draw.choice([1.0, 1.0, 1.3]),
        presence_penalty=draw.choice([0.0, 0.0, 0.5]),
        frequency_penalty=draw.choice([0.0, 0.0, -0.3]),
        logit_bias=draw.choice([(), (), ((3, 4.0), (7, -100.0))]),
        top_logprobs=draw.choice([None, 0, 3]),
        stop_ids=draw.choice([(), (2, 3, 4)]),
        stop_texts=draw.choice([(), (), ("w7", "w20 w")]),
        seed=draw.randrange(100),
    )
    return draw.choice(POLICIES), [draw.randrange(2, 64) for _ in range(draw.randrange(1, 20))], params


def engine_with_two(bases: ModuleType, architecture: str) -> Engine:
    engine = Engine(bases.small_base(architecture))
    targets = ("unembedding",) if architecture in bases.STATES else ("attention", "mlp")
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, targets=targets, seed=number)
    return engine


def alone(engine: Engine, policy: str, prompt: list[int], params: SamplingParams) -> Row:
    sampler = LiveSampler(engine)
    row = sampler.add(policy, prompt, params)
    while sampler.busy:
        sampler.step()
    sampler.close()
    return row


def agree(found: Row, expected: Row) -> None:
    assert (found.tokens, found.ended) == (expected.tokens, expected.ended)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    for one, other in zip(found.likely, expected.likely, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [p for _, p in one.top] == pytest.approx([p for _, p in other.top], abs=1e-4)


@pytest.mark.parametrize("block", [pools.BLOCK, 4])
@pytest.mark.parametrize("base", BASES)
def test_neither_company_nor_arrival_changes_a_row(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, base: str, block: int
) -> None:
    """Requests of every kind come at random steps, some are given up, policies come and go; with slots so small that
    rows outgrow them again and again."""
    monkeypatch.setattr(pools, "BLOCK", block)
    monkeypatch.setattr(decode, "ROOM", block // 2)
    engine = engine_with_two(bases, base)
    requests = [asked(seed) for seed in range(20)]
    expected = [alone(engine, *request) for request in requests]
    draw, rows = random.Random(base), []
    waiting = list(range(len(requests)))
    sampler = LiveSampler(engine, prefix_bytes=10**6)
    given_up = set()
    steps = 0
    while waiting or sampler.busy:
        for _ in range(draw.choice([0, 0, 1, 2]) if rows else 3):
            if waiting:
                rows.append((waiting[0], sampler.add(*requests[waiting.pop(0)])))
        if draw.random() < 0.1 and rows:
            number, row = draw.choice(rows)
            row.cancelled = True
            given_up.add(number)
        if steps % 5 == 2:  # a newcomer before those that are there, and another layout; it goes again later
            name, rank = f"late{steps}", 2 + steps % 7
            sampler.change(
                lambda name=name, rank=rank: bases.adapted(engine, name, rank=rank, targets=("unembedding",))
            )
        if steps % 5 == 4:
            sampler.change(lambda name=f"late{steps - 2}": engine.remove_policy(name))
        told = sampler.step()
        assert len({id(row) for row in told}) == len(told)
        steps += 1
    sampler.close()
    assert [number for number, _ in rows] == list(range(len(requests)))
    for number, row in rows:
        if number in given_up and row.ended == "cancelled":
            assert row.tokens == expected[number].tokens[: len(row.tokens)]
        else:
            agree(row, expected[number])
    assert engine.policies.keys() >= {"a", "b"}


def test_the_first_row_of_a_seed_is_that_of_the_engine(bases: ModuleType) -> None:
    engine = engine_with_two(bases, "llama")
    params = SamplingParams(max_tokens=9, seed=3)
    rows = [alone(engine, "a", [5, 6, 7], params)]
    (sampled,) = engine.sample({"a": [[5, 6, 7]]}, params)["a"]
    assert tuple(rows[0].tokens) == sampled.token_ids
    sampler = LiveSampler(engine)
    numbers = drawing.rows_of_uniforms(params)
    both = [sampler.add("a", [5, 6, 7], params, next(numbers)) for _ in range(2)]
    while sampler.busy:
        sampler.step()
    sampler.close()
    assert both[0].tokens == rows[0].tokens != both[1].tokens


def test_memory_is_let_go_of(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are taken again by others, and when all rows have left there is no pool."""
    caches: list[cache.SlotCache] = []
    real = cache.SlotCache.__init__

    def watched(self: cache.SlotCache, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        caches.append(self)

    engine = engine_with_two(bases, "qwen3")
    assert engine.sampling_path.cached
    monkeypatch.setattr(cache.SlotCache, "__init__", watched)
    sampler = LiveSampler(engine)
    params = SamplingParams(max_tokens=6)
    most = 0
    for turn in range(12):
        for _ in range(3):
            sampler.add("base", [turn + 2] * (turn + 1), params)
        while sampler.busy:
            sampler.step()
            most = max(most, sum(pool.slots for pool in caches[-1].pools.values()))
    sampler.close()
    assert most <= 4
    for made in caches:
        assert not made.pools
        assert not made.rows
        assert not any(layer._stores for layer in made.slot_layers)


def test_a_slot_that_held_no_numbers_serves_the_next(bases: ModuleType) -> None:
    """A policy of NaN has filled a slot beyond what the next row writes."""
    engine = engine_with_two(bases, "llama")
    with torch.no_grad():
        for weight in engine.policies["b"].weights.values():
            weight.fill_(torch.nan)
    params = SamplingParams(max_tokens=8, seed=1)
    expected = alone(engine, "a", [5, 9], params)
    sampler = LiveSampler(engine)
    sampler.add("a", [3, 4, 5], replace(params, max_tokens=14))
    sampler.add("b", [2] * 12, replace(params, max_tokens=3))
    for _ in range(4):
        sampler.step()
    row, longer = sampler.add("a", [5, 9], params), sampler.add("a", [5, 9, 8, 7, 6, 5, 4, 3, 2], params)
    while sampler.busy:
        sampler.step()
    sampler.close()
    agree(row, expected)
    agree(longer, alone(engine, "a", [5, 9, 8, 7, 6, 5, 4, 3, 2], params))


@pytest.mark.parametrize("base", ["llama", "phi3", "qwen3_moe"])
def test_what_begins_alike_is_read_once(bases: ModuleType, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """A conversation that goes on, and another that begins as it does; not under another policy's name."""
    config = bases.small_config(base)
    if base == "phi3":
        config.sliding_window = 7
    monkeypatch.setattr(bases, "small_config", lambda _: config)
    engine = engine_with_two(bases, base)
    begin = [random.Random(1).randrange(2, 64) for _ in range(2 * PIECE + 3)]
    params = SamplingParams(max_tokens=8, seed=2)
    first = alone(engine, "a", begin, params)
    asked = [("a", [*begin, *first.tokens, 9, 4]), ("a", [*begin[:-2], 5]), ("b", begin), ("a", begin)]
    expected = [alone(engine, policy, prompt, params) for policy, prompt in asked]
    sampler = LiveSampler(engine, prefix_bytes=10**6)
    read: list[int] = []
    real = cache.Reading.__init__

    def watched(self: cache.Reading, rows: list[tuple[cache.Slot, int, int]], device: torch.device) -> None:
        read.extend(slot.length - known for slot, _, known in rows)
        real(self, rows, device)

    monkeypatch.setattr(cache.Reading, "__init__", watched)
    for policy, prompt in [("a", begin), *asked]:
        row = sampler.add(policy, prompt, params)
        while sampler.busy:
            sampler.step()
        agree(row, first if prompt is begin and policy == "a" else expected[asked.index((policy, prompt))])
    sampler.close()
    whole, piece = len(begin), 2 * PIECE
    known = (whole + 7) // PIECE * PIECE  # the newest token's keys are not there yet
    assert read == [whole, whole + 10 - known, len(asked[1][1]) - piece, whole, whole - piece]


def test_prefixes_keep_to_their_budget() -> None:
    states = [(torch.ones(1, 64, 4), torch.ones(1, 64, 4))]
    row = 2 * 64 * 4 * 4
    prefixes = Prefixes(2 * row)
    texts = [[number] * 64 for number in range(4)]
    for text in texts[:2]:
        prefixes.keep("a", text, states)
    assert prefixes.find("a", [*texts[0], 1])[0] == 64
    prefixes.keep("a", texts[2], states)  # the one that was not asked for goes
    assert [prefixes.find("a", [*text, 1])[0] for text in texts] == [64, 0, 64, 0]
    assert prefixes.bytes == 2 * row
    assert prefixes.find("b", [*texts[0], 1]) == (0, [])
    assert prefixes.find("a", texts[0])[0] == 48  # a token is left to be read
    prefixes.forget("a")
    assert prefixes.bytes == 0
    assert prefixes.find("a", [*texts[0], 1])[0] == 0
    assert not any((prefixes._kept, prefixes._owner, prefixes._texts, prefixes._policies))


def test_what_is_larger_than_the_budget_is_not_copied() -> None:
    states = [(torch.empty(1, 10**12, 4, device="meta").expand(2, -1, -1),) * 2]
    prefixes = Prefixes(1000)
    with patch.object(torch.Tensor, "clone", side_effect=AssertionError):
        prefixes.keep("a", range(10**6), states)
    assert prefixes.bytes == 0


def test_a_prefix_whose_beginning_was_anothers_is_kept_anew() -> None:
    """The other has gone, and its beginning with it."""
    states = [(torch.ones(1, 64, 4), torch.ones(1, 64, 4))]
    prefixes = Prefixes(2 * 2 * 64 * 4 * 4)
    begin = [7] * 32
    first, second, third = ([*begin, *[number] * 32] for number in range(3))
    prefixes.keep("a", first, states)
    prefixes.keep("a", second, states)  # the beginning is its own now
    assert prefixes.find("a", [*first, 1])[0] == 64
    prefixes.keep("b", third, states)  # the second goes
    assert prefixes.find("a", [*first, 1])[0] == 0
    assert not prefixes.known("a", first)
    prefixes.keep("a", first, states)
    assert prefixes.find("a", [*first, 1])[0] == 64
    assert prefixes.bytes == 2 * 2 * 64 * 4 * 4
    for policy in "ab":
        prefixes.forget(policy)
    assert prefixes.bytes == 0
    assert not any((prefixes._kept, prefixes._owner, prefixes._texts, prefixes._policies))


@given(st.integers(0, 2**63 - 1), st.integers(1, 40), st.integers(1, 9))
def test_numbers_drawn_row_by_row_are_those_drawn_at_once(seed: int, max_tokens: int, count: int) -> None:
    """And keep nobody else's."""
    params = SamplingParams(max_tokens=max_tokens, seed=seed)
    rows = list(islice(drawing.rows_of_uniforms(params), count))
    assert torch.equal(torch.stack(rows), drawing.uniforms({"": count}, params, {})[""])
    assert {row.untyped_storage().nbytes() for row in rows} == {max_tokens * 8}


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from([0.05, 0.3]), st.sampled_from([0.5, 1.0]))
def test_what_may_be_drawn(seed: int, top_k: int, min_p: float, top_p: float) -> None:
    """Only tokens that each rule leaves, and with probabilities among these."""
    logits = 2 * torch.randn(20, generator=torch.Generator().manual_seed(seed))
    uniforms = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    chosen, logprobs = drawing.draw(logits.expand(400, -1), 0.8, uniforms, top_p, top_k, min_p)
    odds = (logits.double() / 0.8).softmax(0)
    odds = torch.where(odds >= min_p * odds.max(), odds, 0)
    order = odds.argsort(descending=True)
    odds[order[top_k:]] = 0
    odds = odds / odds.sum()
    order = odds.argsort(descending=True)
    before = odds[order].cumsum(0) - odds[order]
    odds[order[before >= top_p]] = 0
    odds = odds / odds.sum()
    assert float((torch.bincount(chosen, minlength=20) - 400 * odds).abs().max()) <= 1 + 1e-3
    torch.testing.assert_close(logprobs.double(), odds[chosen].log(), atol=1e-5, rtol=1e-5)


def test_penalties_and_biases_are_what_they_say(bases: ModuleType) -> None:
    """Each greedy token against the definitions, on the base's own logits."""
    base = bases.small_base("llama")
    reference = bases.copied(base)
    prompt = [5, 9, 4, 5]
    params = SamplingParams(
        max_tokens=14,
        temperature=0.0,
        repetition_penalty=1.3,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias=((11, 0.7), (12, -0.5)),
        top_logprobs=4,
    )
    engine = Engine(base)
    row = alone(engine, "base", prompt, params)
    assert row.tokens != alone(engine, "base", prompt, SamplingParams(max_tokens=14, temperature=0.0)).tokens
    for step, token in enumerate(row.tokens):
        drawn = row.tokens[:step]
        with torch.no_grad():
            logits = reference(torch.tensor([[*prompt, *drawn]])).logits[0, -1]
        plain = logits.log_softmax(0)
        for known in {*prompt, *drawn}:
            logits[known] = logits[known] / 1.3 if logits[known] > 0 else logits[known] * 1.3
        for known in set(drawn):
            logits[known] -= 0.2 + 0.3 * drawn.count(known)
        logits[11] += 0.7
        logits[12] -= 0.5
        assert token == int(logits.argmax())
        assert row.logprobs[step] == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-4)
        assert row.likely[step].logprob == pytest.approx(float(plain[token]), abs=1e-4)
        assert dict(row.likely[step].top) == pytest.approx(
            {int(number): float(plain[number]) for number in plain.topk(4).indices}, abs=1e-4
        )


@pytest.mark.parametrize("targets", [("mlp",), ("attention", "unembedding")])
def test_a_policy_that_comes_while_others_are_drawn_is_drawn(bases: ModuleType, targets: tuple[str, ...]) -> None:
    """It adapts matrices that nobody adapted before; and when it has gone, the others are as they were."""
    engine = Engine(bases.small_base("llama"))
    params = SamplingParams(max_tokens=12, temperature=0.0)
    expected = alone(engine, "base", [5, 6, 7], params)
    sampler = LiveSampler(engine)
    row = sampler.add("base", [5, 6, 7], params)
    sampler.step()
    sampler.change(lambda: bases.adapted(engine, "a", rank=4, targets=targets))
    new = sampler.add("a", [5, 6, 7], params)
    while new.ended is None:
        sampler.step()
    sampler.change(lambda: engine.remove_policy("a"))
    again = sampler.add("base", [5, 6, 7], params)
    while sampler.busy:
        sampler.step()
    sampler.close()
    agree(row, expected)
    agree(again, expected)
    bases.adapted(engine, "a", rank=4, targets=targets)
    agree(new, alone(engine, "a", [5, 6, 7], params))
    assert new.tokens != expected.tokens


def test_no_row_without_a_token(bases: ModuleType) -> None:
    with pytest.raises(SpecError, match="no token"):
        LiveSampler(engine_with_two(bases, "llama")).add("a", [], SamplingParams())


def test_a_policy_that_goes_before_its_row_leaves_the_others_theirs(bases: ModuleType) -> None:
    """Its row, which was given up, is still in the batch when the next one joins."""
    engine = engine_with_two(bases, "llama")
    params = SamplingParams(max_tokens=12, temperature=0.0)
    asked = [("b", [5, 6, 7]), ("base", [5, 6, 7]), ("b", [9, 8])]
    expected = [alone(engine, *each, params) for each in asked]
    assert len({tuple(row.tokens) for row in expected}) == len(asked)
    sampler = LiveSampler(engine)
    rows = [sampler.add(*each, params) for each in asked[:2]]
    gone = sampler.add("a", [5, 6, 7], params)
    sampler.step()
    gone.cancelled = True
    sampler.change(lambda: engine.remove_policy("a"))
    rows.append(sampler.add(*asked[2], params))
    while sampler.busy:
        sampler.step()
    sampler.close()
    assert gone.ended == "cancelled"
    for found, row in zip(rows, expected, strict=True):
        agree(found, row)


def test_adapters_of_several_banks_come_and_go_while_others_are_drawn(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Banks have room for three here. Those that are full stay where they are, and who has left gives its place up."""
    engine = Engine(bases.small_base("llama"))
    one = engine.add_policy("x", LoRA(rank=4, alpha=4))
    monkeypatch.setattr(
        engine._slots, "kernels", replace(engine._slots.kernels, bank_bytes=3 * one.bank.weights.nbytes)
    )
    engine.remove_policy("x")
    params = SamplingParams(max_tokens=14, temperature=0.0)
    names = [f"a{number}" for number in range(7)]
    for seed, name in enumerate(names):
        bases.adapted(engine, name, rank=4, seed=seed)
    banks = [engine.policies[name].bank for name in names]
    assert [len(bank.members) for bank in dict.fromkeys(banks)] == [3, 3, 1]
    asked = [(name, [5, 6, 7 + place]) for place, name in enumerate([*names, "a2", "base"])]
    expected = [alone(engine, *each, params) for each in asked]
    assert len({tuple(row.tokens) for row in expected}) > 5
    sampler = LiveSampler(engine)
    rows = [sampler.add(*each, params) for each in asked if each[0] != "a4"]
    places = [bank.weights.data_ptr() for bank in banks[:6]]
    late: list[int] = []
    for step in range(12):
        sampler.step()
        if step == 2:
            sampler.change(lambda: bases.adapted(engine, "b", rank=4, seed=9))
            assert [bank.weights.data_ptr() for bank in banks[:6]] == places, (
                "a bank was copied for one that went elsewhere"
            )
        if step == 4:
            sampler.change(lambda: engine.remove_policy("a4"))
        if step == 6:
            sampler.change(lambda: bases.adapted(engine, "c", rank=4, seed=10))
            assert engine.policies["c"].bank is banks[3], "no adapter took the place of one that has left"
        if step in (7, 8, 9):
            sampler.change(partial(bases.adapted, engine, f"d{step}", rank=4, seed=step))
            late.append(engine.policies[f"d{step}"].bank.weights.data_ptr())
    while sampler.busy:
        sampler.step()
    sampler.close()
    assert late[1] == late[2] != late[0], "a live sampler's new bank was copied for one more"
    for found, row in zip(rows, [row for row in expected if row.policy != "a4"], strict=True):
        agree(found, row)


class Spelled:
    """A `Constraint`: three tokens and the end, as one that is whole or one that gave up."""

    def __init__(self, gives_up: bool) -> None:
        self.gave_up = False
        self._gives_up = gives_up

    def allowed(self, tokens: Sequence[int]) -> Tensor:
        """7, 8, 9, and 2 for the end."""
        self.gave_up = self._gives_up and len(tokens) == 3
        found = torch.zeros(64, dtype=torch.bool)
        found[(7, 8, 9, 2)[len(tokens)]] = True
        return found


@pytest.mark.parametrize(("gives_up", "tokens", "end"), [(False, [7, 8, 9, 2], "stop"), (True, [7, 8, 9], "length")])
def test_what_a_constraint_gave_up_does_not_end_as_if_it_were_whole(
    bases: ModuleType, gives_up: bool, tokens: list[int], end: str
) -> None:
    sampler = LiveSampler(engine_with_two(bases, "llama"))
    params = SamplingParams(max_tokens=10, temperature=0.0, stop_ids=(2,))
    row = sampler.add("base", [5, 6], params, constraint=Spelled(gives_up))
    beside = sampler.add("a", [5, 6], replace(params, stop_ids=()))
    while sampler.busy:
        sampler.step()
    sampler.close()
    assert (row.tokens, row.ended) == (tokens, end)
    assert len(row.logprobs) == len(tokens)
    assert len(beside.tokens) == 10

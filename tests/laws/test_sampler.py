"""What is sampled is what is trained: the same distribution, token by token, in any company."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine, SamplingParams, footprint
from lowregret.engine.sampling import batcher, cache, decode, plain, pools
from lowregret.engine.sampling import draw as drawing
from lowregret.engine.sampling import rows as sampler
from lowregret.errors import SpecError
from lowregret.models.load import Base, Source
from lowregret.spec import LoRA

PROMPTS = [[random.Random(n).randrange(2, 64) for _ in range(n)] for n in (1, 9, 4, 6)]


def learner_logprobs(engine: Engine, policy: str, prompt: list[int], completion: tuple[int, ...]) -> list[float]:
    mask = (False,) * len(prompt) + (True,) * len(completion)
    batch = collate([Example((*prompt, *completion), mask)])
    logprobs: list[float] = engine.forward({policy: batch})[policy].logprobs.tolist()
    return logprobs


def test_the_samplers_logprobs_are_the_learners(bases: ModuleType, architecture: str) -> None:
    """At temperature 1, from prompts of unequal lengths, padded on the left; two LoRAs and the base in one batch."""
    engine = Engine(bases.small_base(architecture))
    bases.adapted(engine, "a", rank=2, seed=1)
    bases.adapted(engine, "b", rank=5, targets=("mlp", "unembedding"), seed=2)
    prompts = {"a": PROMPTS[:3], "b": PROMPTS[2:], "base": PROMPTS[:1]}
    found = engine.sample(prompts, SamplingParams(max_tokens=10, seed=3))
    assert {name: len(completions) for name, completions in found.items()} == {"a": 3, "b": 2, "base": 1}
    for name, completions in found.items():
        for prompt, completion in zip(prompts[name], completions, strict=True):
            assert len(completion.token_ids) == len(completion.logprobs) == 10
            learner = learner_logprobs(engine, name, prompt, completion.token_ids)
            assert list(completion.logprobs) == pytest.approx(learner, abs=1e-4)


def test_a_draw_knows_nothing_of_the_weights_of_the_one_before(bases: ModuleType) -> None:
    """PiSSA's factors are made for each draw, of the weights as they are."""
    engine = Engine(bases.small_base("qwen3"))
    policy = engine.add_policy("a", LoRA(rank=3, init="pissa"))
    found = []
    for seed in (1, 2):
        bases.stir(policy, seed)
        found += engine.sample({"a": PROMPTS[:1]}, SamplingParams(max_tokens=10))["a"]
        learner = learner_logprobs(engine, "a", PROMPTS[0], found[-1].token_ids)
        assert list(found[-1].logprobs) == pytest.approx(learner, abs=1e-4)
    assert found[0].logprobs != pytest.approx(found[1].logprobs, abs=1e-2)


def test_greedy_equals_transformers_generate(bases: ModuleType, architecture: str) -> None:
    base = bases.small_base(architecture)
    reference = bases.copied(base)
    found = Engine(base).sample({"base": PROMPTS}, SamplingParams(max_tokens=12, temperature=0.0))["base"]
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        expected = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert list(completion.token_ids) == expected[0, len(prompt) :].tolist()


def test_the_company_of_a_prompt_does_not_change_greedy_output(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    params = SamplingParams(max_tokens=10, temperature=0.0)
    together = engine.sample({"a": PROMPTS, "b": PROMPTS}, params)
    assert [c.token_ids for c in together["a"]] != [c.token_ids for c in together["b"]]
    for name in ("a", "b"):
        for prompt, completion in zip(PROMPTS, together[name], strict=True):
            (alone,) = engine.sample({name: [prompt]}, params)[name]
            assert completion.token_ids == alone.token_ids
            assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_the_bundled_base_samples_what_it_learns(tiny: Engine, arithmetic: list) -> None:
    prompts = [list(example.token_ids[: example.supervised.index(True)]) for example in arithmetic[:4]]
    stop = tiny.base.tokenizer.eos_token_id
    found = tiny.sample({"base": prompts}, SamplingParams(max_tokens=24, stop_ids=(stop,), seed=1))["base"]
    for prompt, completion in zip(prompts, found, strict=True):
        learner = learner_logprobs(tiny, "base", prompt, completion.token_ids)
        assert list(completion.logprobs) == pytest.approx(learner, abs=1e-4)


def test_a_stop_token_ends_a_completion_and_is_part_of_it(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    free = engine.sample({"base": PROMPTS}, SamplingParams(max_tokens=8, temperature=0.0))["base"]
    stop = free[1].token_ids[3]
    stopped = engine.sample({"base": PROMPTS}, SamplingParams(max_tokens=8, temperature=0.0, stop_ids=(stop,)))["base"]
    for whole, cut in zip(free, stopped, strict=True):
        ends = whole.token_ids.index(stop) + 1 if stop in whole.token_ids else 8
        assert cut.token_ids == whole.token_ids[:ends]
        assert cut.finished == (stop in whole.token_ids)
        assert len(cut.logprobs) == len(cut.token_ids)


def test_samples_follow_the_distribution_and_the_temperature(bases: ModuleType) -> None:
    """First tokens of many draws against softmax(logits / temperature): total variation far below that of the wrong
    temperature."""
    base = bases.small_base("llama")
    reference, prompt, draws = bases.copied(base), PROMPTS[1], 4000
    with torch.no_grad():
        logits = reference(torch.tensor([prompt])).logits[0, -1]
    engine = Engine(base)
    for temperature, other in ((1.0, 0.5), (0.5, 1.0)):
        params = SamplingParams(max_tokens=1, temperature=temperature, seed=7)
        found = engine.sample({"base": [prompt] * draws}, params)["base"]
        counts = torch.bincount(torch.tensor([c.token_ids[0] for c in found]), minlength=64) / draws
        right, wrong = (logits / temperature).softmax(0), (logits / other).softmax(0)
        assert 0.5 * float((counts - right).abs().sum()) < 0.06
        assert 0.5 * float((counts - wrong).abs().sum()) > 0.12
        for completion in found[:20]:
            (token,), (logprob,) = completion.token_ids, completion.logprobs
            assert logprob == pytest.approx(float(right[token].log()), abs=1e-4)


def test_seeds_are_reproducible_in_any_company(bases: ModuleType, architecture: str) -> None:
    """A policy draws the same alone and beside others, and a prompt the same whatever prompts follow it."""
    engine = Engine(bases.small_base(architecture))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    params = SamplingParams(max_tokens=10, seed=5)
    together = engine.sample({"b": PROMPTS, "base": PROMPTS[:2], "a": PROMPTS}, params)
    for name in ("a", "b"):
        assert [c.token_ids for c in engine.sample({name: PROMPTS[:3]}, params)[name]] == [
            c.token_ids for c in together[name][:3]
        ]
    other = engine.sample({"a": PROMPTS}, SamplingParams(max_tokens=10, seed=6))
    assert [c.token_ids for c in other["a"]] != [c.token_ids for c in together["a"]]


def test_a_prompt_given_several_times_is_drawn_several_times(bases: ModuleType) -> None:
    """It is read once; the draws are different, and each is what the policy says."""
    engine = Engine(bases.small_base("llama"))
    bases.adapted(engine, "a")
    prompts = [PROMPTS[1], PROMPTS[2], PROMPTS[1], PROMPTS[1]]
    found = engine.sample({"base": [PROMPTS[1]], "a": prompts}, SamplingParams(max_tokens=8, seed=2))["a"]
    assert len({found[row].token_ids for row in (0, 2, 3)}) == 3
    for prompt, completion in zip(prompts, found, strict=True):
        learner = learner_logprobs(engine, "a", prompt, completion.token_ids)
        assert list(completion.logprobs) == pytest.approx(learner, abs=1e-4)


def test_dropping_finished_rows_changes_nothing(
    bases: ModuleType, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two policies and the base end at different tokens; what is left is what was drawn without stops."""
    engine = Engine(bases.small_base(architecture))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    prompts = {name: [PROMPTS[row % 4] for row in range(6)] for name in ("a", "b", "base")}
    stops = tuple(range(2, 12))
    free = engine.sample(prompts, SamplingParams(max_tokens=16, seed=4))
    sizes = []
    draw = drawing.draw

    def watched(logits: torch.Tensor, *others: object) -> object:
        sizes.append(len(logits))
        return draw(logits, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler, "draw", watched)
    stopped = engine.sample(prompts, SamplingParams(max_tokens=16, seed=4, stop_ids=stops))
    for name in prompts:
        for whole, cut in zip(free[name], stopped[name], strict=True):
            ends = [step for step, token in enumerate(whole.token_ids) if token in stops]
            length = ends[0] + 1 if ends else 16
            assert cut.token_ids == whole.token_ids[:length]
            assert cut.logprobs == pytest.approx(whole.logprobs[:length], abs=1e-4)
            assert cut.finished == bool(ends)
    if engine.padding_free:
        assert sizes[0] == 18
        assert sizes[-1] <= 9


def test_policies_that_were_equally_many_stay_so() -> None:
    """Two of a's three rows and one of b's are open, none of c's: a and b go on with two rows each."""
    kept, counts = batcher.even_rows(
        [True, False, True, False, True, False, False, False, False], {"a": 3, "b": 3, "c": 3}
    )
    assert kept == [0, 2, 3, 4]
    assert counts == {"a": 2, "b": 2}


def test_the_cache_is_used_where_the_base_allows_it(bases: ModuleType, architecture: str) -> None:
    """Soft-capped attention keeps the base's own."""
    engine = Engine(bases.small_base(architecture))
    expected = decode.PaddedDecoder if architecture == "gemma2" else decode.CachedDecoder
    assert engine.sampling_path.kind is expected
    assert engine.sampling_path.lines() == []


@pytest.mark.parametrize(
    "architecture", ["mamba", "mamba2", "falcon_mamba", "minimax", "recurrent_gemma", "rwkv", "openai_gpt"]
)
def test_a_base_without_the_standard_cache_is_sampled_all_the_same(bases: ModuleType, architecture: str) -> None:
    """Each row as the base itself would go on alone, without a cache; with the learner's log-probabilities; and slowly,
    which is said. Rows come and go, two policies and the base share the batch."""
    base = bases.small_base(architecture)
    reference = bases.copied(base)
    engine = Engine(base)
    (line,) = engine.sampling_path.lines()
    assert "without a cache" in line
    greedy = SamplingParams(max_tokens=6, temperature=0.0)
    found = engine.sample({"base": [*PROMPTS, PROMPTS[2]]}, greedy, max_rows=3)["base"]
    for prompt, completion in zip([*PROMPTS, PROMPTS[2]], found, strict=True):
        ids = torch.tensor([prompt])
        for _ in range(6):
            with torch.no_grad():
                ids = torch.cat([ids, reference(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert list(completion.token_ids) == ids[0, len(prompt) :].tolist()
    for name, rank in (("a", 2), ("b", 3)):
        bases.adapted(engine, name, rank=rank, targets=("unembedding",), seed=rank)
    prompts = {"a": PROMPTS[:3], "b": PROMPTS[2:], "base": PROMPTS[:1]}
    drawn = engine.sample(prompts, SamplingParams(max_tokens=8, stop_ids=(5, 9), seed=3), max_rows=3)
    for name, completions in drawn.items():
        for prompt, completion in zip(prompts[name], completions, strict=True):
            learner = learner_logprobs(engine, name, prompt, completion.token_ids)
            assert list(completion.logprobs) == pytest.approx(learner, abs=5e-4)
    assert footprint.max_decode_rows(engine, 100) >= 1


def test_a_cache_that_gives_other_numbers_is_not_used(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose attention forgets what it has read once it is asked token by token."""
    base = bases.small_base("gemma2")
    engine = Engine(base)
    whole = base.model.forward

    def forgetful(**inputs: Any) -> Any:
        inputs.pop("past_key_values", None)
        return whole(**inputs | {"attention_mask": None})

    monkeypatch.setattr(base.model, "forward", forgetful)
    assert engine.sampling_path.kind is plain.PlainDecoder
    assert "differ from the base's own by" in str(engine.sampling_path.refused)


def test_a_fault_of_ours_is_no_reason_to_be_slow(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bases.small_base("qwen3"))

    monkeypatch.setattr(decode, "SlotCache", None)
    with pytest.raises(TypeError, match="NoneType"):
        engine.sample({"base": PROMPTS}, SamplingParams(max_tokens=2))


@pytest.mark.parametrize(("module", "bound"), [(pools, "BLOCK"), (decode, "ROOM"), (decode, "CPU_PREFILL_TOKENS")])
def test_small_steps_of_memory_change_nothing(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, module: ModuleType, bound: str
) -> None:
    """A cache that grows, and prompts that are read in several passes."""
    engine = Engine(bases.small_base("qwen3"))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    params = SamplingParams(max_tokens=12, stop_ids=(2, 3, 4))
    prompts = {"a": PROMPTS, "b": PROMPTS[1:]}
    expected = engine.sample(prompts, params)
    monkeypatch.setattr(module, bound, 3)
    found = engine.sample(prompts, params)
    for name in prompts:
        for one, other in zip(found[name], expected[name], strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_sliding_window_that_rows_outgrow(bases: ModuleType) -> None:
    """Prompts shorter and longer than the window, and completions that leave it behind, as transformers has them."""
    config = bases.small_config("phi3")
    config.sliding_window = 5
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    base = Base(model, bases.small_tokenizer(), Source("phi3", "phi3"))
    reference = bases.copied(base)
    engine = Engine(base)
    assert engine.padding_free
    found = engine.sample({"base": PROMPTS}, SamplingParams(max_tokens=12, temperature=0.0))["base"]
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            expected = reference.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
        assert list(completion.token_ids) == expected[0, len(prompt) :].tolist()
        learner = learner_logprobs(engine, "base", prompt, completion.token_ids)
        assert list(completion.logprobs) == pytest.approx(learner, abs=1e-4)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 4])
def test_attention_over_the_cache_is_attention(softcap: float | None, window: int | None) -> None:
    """Against the definition, head by head, in float64; rows in slots of two sizes, in another order, one slot free."""
    torch.manual_seed(0)
    heads, kv_heads, width = 6, 2, 4
    store = cache.SlotCache(transformers.LlamaConfig(num_hidden_layers=1), torch.device("cpu"))
    (layer,) = store.slot_layers
    slots = store.take([7, 2, 130, 5, 3], 0)
    states = [[torch.randn(kv_heads, slot.length, width, dtype=torch.float64) for _ in range(2)] for slot in slots]
    for slot, (key, value) in zip(slots, states, strict=True):
        store.reading = cache.Reading([(slot, 0, 0)], store.device)
        layer.update(key[None], value[None])
    store.reading = None
    store.seat(slots)
    batch = [4, 2, 0, 3]
    store.seat([slots[row] for row in batch])
    store.advance()
    new_key, new_value = (torch.randn(4, kv_heads, width, dtype=torch.float64) for _ in range(2))
    layer.write(new_key, new_value)
    query = torch.randn(4, heads, 1, width, dtype=torch.float64)
    found, _ = cache.decode_attention(
        torch.nn.Identity(), query, query, query, None, cells=store, scaling=0.7, sliding_window=window, softcap=softcap
    )
    for row, former in enumerate(batch):
        for head in range(heads):
            shared = head // (heads // kv_heads)
            key = torch.cat([states[former][0][shared], new_key[row, shared, None]])
            value = torch.cat([states[former][1][shared], new_value[row, shared, None]])
            first = 0 if window is None else max(len(key) - window, 0)
            scores = 0.7 * key[first:] @ query[row, head, 0]
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            torch.testing.assert_close(found[row, 0, head], scores.softmax(0) @ value[first:])


@given(st.integers(0, 10_000), st.integers(2, 700), st.sampled_from([0.5, 1.0, 2.0]))
def test_tokens_are_drawn_as_often_as_their_probability_says(seed: int, vocabulary: int, temperature: float) -> None:
    """For evenly spaced uniforms every count is within one of its expectation, and impossible tokens have none."""
    draws = 500
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(vocabulary, generator=generator)
    logits[torch.rand(vocabulary, generator=generator) < 0.3] = -torch.inf
    logits[vocabulary // 2] = 1.0
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    chosen, logprobs = drawing.draw(logits.expand(draws, -1), temperature, uniforms)
    probabilities = (logits.double() / temperature).softmax(0)
    counts = torch.bincount(chosen, minlength=vocabulary)
    assert float((counts - draws * probabilities).abs().max()) <= 1 + 1e-3
    assert torch.equal(counts[logits == -torch.inf], torch.zeros(int((logits == -torch.inf).sum()), dtype=torch.int64))
    torch.testing.assert_close(logprobs.double(), probabilities[chosen].log(), atol=1e-5, rtol=1e-5)


def test_extreme_uniforms_draw_possible_tokens() -> None:
    """The largest number below one, and zero, when the first and the last tokens are impossible: sums that differ in
    their last digits must not lead past the possible ones."""
    rows = 200
    logits = torch.full((rows, 600), -torch.inf)
    logits[:, 300:400] = torch.randn(rows, 100, generator=torch.Generator().manual_seed(0))
    for extreme, possible in ((0.0, 300), (1 - 2**-53, 399)):
        chosen, logprobs = drawing.draw(logits, 1.0, torch.full((rows,), extreme, dtype=torch.float64))
        assert chosen.tolist() == [possible] * rows
        assert bool(torch.isfinite(logprobs).all())


def test_a_nan_in_one_policy_leaves_its_neighbours(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=2, seed=number)
    params = SamplingParams(max_tokens=8, seed=1)
    expected = engine.sample({"a": PROMPTS, "b": PROMPTS}, params)["a"]
    with torch.no_grad():
        for weight in engine.policies["b"].weights.values():
            weight.fill_(torch.nan)
    found = engine.sample({"a": PROMPTS, "b": PROMPTS}, params)
    assert [c.token_ids for c in found["a"]] == [c.token_ids for c in expected]
    assert [c.logprobs for c in found["a"]] == [c.logprobs for c in expected]
    assert all(torch.tensor(c.logprobs).isnan().all() for c in found["b"])


def test_bfloat16_draws_what_it_trains(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"), precision="bfloat16")
    bases.adapted(engine, "a")
    found = engine.sample({"a": PROMPTS}, SamplingParams(max_tokens=8, seed=1))["a"]
    for prompt, completion in zip(PROMPTS, found, strict=True):
        learner = learner_logprobs(engine, "a", prompt, completion.token_ids)
        assert list(completion.logprobs) == pytest.approx(learner, abs=0.25)


def test_nothing_to_sample(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    assert engine.sample({"base": []}, SamplingParams()) == {"base": []}
    with pytest.raises(SpecError, match="no token"):
        engine.sample({"base": [[]]}, SamplingParams())

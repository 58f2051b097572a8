"""What is sampled is what is trained: the same distribution, token by token, in any company."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.data.chat import Example
from lowregret.engine import Engine, SamplingParams

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

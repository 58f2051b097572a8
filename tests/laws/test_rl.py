"""What holds for sampling and training by reward, whoever samples and trains beside it."""

from __future__ import annotations

import random
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine, SamplingParams
from lowregret.engine.losses import importance_sampling
from lowregret.engine.sampling import batcher
from lowregret.engine.sampling import draw as drawing
from lowregret.engine.sampling import rows as sampler
from lowregret.spec import FullFT

PROMPTS = [[random.Random(n).randrange(2, 64) for _ in range(n)] for n in (1, 9, 4, 6)]


def example(prompt: list[int], completion: tuple[int, ...]) -> Example:
    return Example((*prompt, *completion), (False,) * len(prompt) + (True,) * len(completion))


def test_at_any_temperature_the_samplers_logprobs_are_the_learners(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    bases.adapted(engine, "a", rank=2, seed=1)
    for temperature in (0.6, 1.7):
        params = SamplingParams(max_tokens=8, temperature=temperature, seed=3)
        for name in ("a", "base"):
            found = engine.sample({name: PROMPTS}, params)[name]
            batch = collate([example(p, c.token_ids) for p, c in zip(PROMPTS, found, strict=True)])
            sampled = torch.tensor([logprob for completion in found for logprob in completion.logprobs])
            learner = engine.forward({name: batch}, temperature=temperature)[name].logprobs
            torch.testing.assert_close(learner, sampled, rtol=0, atol=1e-4)
            other = engine.forward({name: batch})[name].logprobs
            assert float((other - sampled).abs().max()) > 0.05


@pytest.mark.parametrize("architecture", ["llama", "gemma2"], indirect=True)
def test_gradients_at_a_temperature_are_those_of_the_tempered_softmax(bases: ModuleType, architecture: str) -> None:
    base = bases.small_base(architecture)
    model = bases.copied(base)
    model.requires_grad_(True)
    engine = Engine(base)
    policy = engine.add_policy("full", FullFT())
    rows = bases.examples(3)
    batch = collate(rows)
    engine.forward_backward({"full": batch}, lambda logprobs, weights: -(weights * logprobs).sum(), temperature=0.7)
    ids, mask, labels = bases.padded(rows)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1) / 0.7
    total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    (total / (labels != -100).sum()).backward()
    expected = dict(model.named_parameters())
    for name, weight in policy.weights.items():
        torch.testing.assert_close(weight.grad, expected[name].grad, rtol=1e-3, atol=1e-5)


def test_top_p_draws_from_the_fewest_tokens_that_suffice() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]]).log()
    kept = drawing.nucleus(logits, 0.65).isfinite()
    assert kept.tolist() == [[False, True, True, False], [True, True, True, False], [True, False, False, False]]
    uniforms = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen, logprobs = drawing.draw(logits[:1].expand(3000, -1), 1.0, uniforms, 0.65)
    shares = torch.bincount(chosen, minlength=4) / 3000
    assert shares.tolist() == pytest.approx([0, 4 / 7, 3 / 7, 0], abs=0.03)
    assert sorted(set(logprobs.exp().tolist())) == pytest.approx([3 / 7, 4 / 7], abs=1e-6)


def test_a_token_is_drawn_independently_of_the_one_before(bases: ModuleType) -> None:
    """Second tokens after the likeliest first one, of many draws, against the softmax after both."""
    base = bases.small_base("llama")
    reference, prompt, draws = bases.copied(base), PROMPTS[1], 6000
    found = Engine(base).sample({"base": [prompt] * draws}, SamplingParams(max_tokens=2, seed=7))["base"]
    firsts = torch.bincount(torch.tensor([completion.token_ids[0] for completion in found]), minlength=64)
    first = int(firsts.argmax())
    seconds = torch.tensor([c.token_ids[1] for c in found if c.token_ids[0] == first])
    with torch.no_grad():
        expected = reference(torch.tensor([[*prompt, first]])).logits[0, -1].softmax(0)
    shares = torch.bincount(seconds, minlength=64) / len(seconds)
    noise = float((expected * (1 - expected) / len(seconds)).sqrt().sum()) * 0.8  # E|share − expected|, summed
    assert float((shares - expected).abs().sum()) < 1.5 * noise


def test_each_policy_draws_by_its_own_seed(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    for name in ("a", "b"):
        bases.adapted(engine, name, rank=2, seed=1)
    params = SamplingParams(max_tokens=10, seed=0)
    found = engine.sample({"a": PROMPTS, "b": PROMPTS}, params, {"a": 4, "b": 5})
    assert [c.token_ids for c in found["a"]] != [c.token_ids for c in found["b"]]
    alone = engine.sample({"b": PROMPTS}, SamplingParams(max_tokens=10, seed=5))
    assert [c.token_ids for c in found["b"]] == [c.token_ids for c in alone["b"]]


def test_a_stop_text_ends_a_completion_with_the_token_that_completes_it(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("qwen3"))
    bases.adapted(engine, "a", seed=1)
    prompts = {"a": PROMPTS, "base": PROMPTS}
    free = engine.sample(prompts, SamplingParams(max_tokens=12, seed=1))
    words = [engine._text(list(completion.token_ids)) for completion in free["a"]]
    stop = " ".join(words[1].split()[4:6])
    params = SamplingParams(max_tokens=12, seed=1, stop_texts=(stop, "never there"))
    found = engine.sample(prompts, params)
    assert found["a"][1].finished
    for name in prompts:
        for whole, cut in zip(free[name], found[name], strict=True):
            length = next(
                (n for n in range(1, 13) if stop in engine._text(list(whole.token_ids[:n]))), len(whole.token_ids)
            )
            assert cut.token_ids == whole.token_ids[:length]
            assert cut.logprobs == pytest.approx(whole.logprobs[:length], abs=1e-4)
            assert cut.finished == (stop in engine._text(list(whole.token_ids)))


def test_a_stop_text_that_is_looked_for_late_cuts_where_it_was_complete(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU several tokens are drawn between two looks; a stop token may come before or after a text."""
    engine = Engine(bases.small_base("qwen3"))
    bases.adapted(engine, "a", seed=1)
    prompts = {"a": PROMPTS * 4, "base": PROMPTS * 4}
    params = SamplingParams(max_tokens=11, seed=1, stop_ids=(2, 3, 4), stop_texts=("w7", "w20", "w3 w5", "w40 w"))
    expected = engine.sample(prompts, params)
    assert {completion.finished for completion in expected["a"]} == {True, False}

    def seldom(group: batcher._Group) -> bool:
        return len(group._unseen) >= 4 or params.max_tokens in group._drawn

    monkeypatch.setattr(batcher._Group, "_may_look", seldom)
    found = engine.sample(prompts, params, max_rows=12)
    for name in prompts:
        for one, other in zip(found[name], expected[name], strict=True):
            assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("max_rows", [1, 4, 7, 17, 100])
def test_who_waits_changes_no_completion(
    bases: ModuleType, architecture: str, monkeypatch: pytest.MonkeyPatch, max_rows: int
) -> None:
    """Rows end at different tokens, and waiting prompts of other lengths take their places."""
    engine = Engine(bases.small_base(architecture))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    prompts = {"a": PROMPTS * 3, "b": PROMPTS[::-1] * 2, "base": PROMPTS[1:] * 3}
    params = SamplingParams(max_tokens=14, seed=4, stop_ids=tuple(range(2, 9)))
    expected = engine.sample(prompts, params)
    sizes: list[int] = []
    draw = drawing.draw

    def watched(logits: torch.Tensor, *others: object) -> object:
        sizes.append(len(logits))
        return draw(logits, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler, "draw", watched)
    found = engine.sample(prompts, params, max_rows=max_rows)
    assert max(sizes) <= max(max_rows, 3)
    assert found.keys() == prompts.keys()
    for name in prompts:
        for one, other in zip(found[name], expected[name], strict=True):
            assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    if engine.padding_free and architecture != "gemma2" and max_rows == 7:
        waves = sum(max(len(c.token_ids) for c in wave) for wave in [expected["a"][s : s + 2] for s in range(0, 12, 2)])
        assert len(sizes) < waves, "places were empty until the last of a wave had finished"


def test_dropped_samples_and_cutting_a_batch_change_no_gradient(bases: ModuleType) -> None:
    """A sample whose advantage is zero may be left out if the weights stay; and columns follow their rows."""
    engine = Engine(bases.small_base("llama"))
    policy = bases.adapted(engine, "a")
    rows = bases.examples(6)
    batch = collate(rows)
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(batch.supervised.shape, generator=generator)
    advantages[1] = advantages[4] = 0
    sampled = -torch.rand(batch.supervised.shape, generator=generator) - 3
    batch = replace(batch, columns={"advantages": advantages, "sampler_logprobs": sampled})
    gradients = []
    for parts in ([range(6)], [(0, 2, 3, 5)], [(5, 0), (3,), (2,)]):
        for part in parts:
            engine.forward_backward({"a": batch.select(list(part))}, importance_sampling)
        gradients.append({name: weight.grad.clone() for name, weight in policy.weights.items()})
        for weight in policy.weights.values():
            weight.grad.zero_()
    for other in gradients[1:]:
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-6)

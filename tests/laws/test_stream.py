"""A completion told token by token is the completion; its text grows, and says the same in the end."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.engine import Completion, Engine, SamplingParams
from lowregret.engine.sampling import stream
from lowregret.engine.sampling.draw import StopTexts
from lowregret.engine.sampling.stream import TextStream, completion_text

PROMPT = [random.Random(5).randrange(2, 64) for _ in range(6)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=12, temperature=0.0),
        SamplingParams(max_tokens=12, seed=3),
        SamplingParams(max_tokens=12, temperature=1.7, top_p=0.8, seed=4),
        SamplingParams(max_tokens=12, seed=3, stop_ids=tuple(range(2, 40, 5))),
    ],
    ids=["greedy", "drawn", "nucleus", "stopped"],
)
def test_streamed_is_sampled(bases: ModuleType, architecture: str, params: SamplingParams) -> None:
    engine = Engine(bases.small_base(architecture))
    bases.adapted(engine, "a", rank=2, seed=1)
    for policy in ("a", "base"):
        told: list[int] = []
        streamed = engine.stream(policy, PROMPT, params, lambda token, told=told: not told.append(token))
        (sampled,) = engine.sample({policy: [PROMPT]}, params)[policy]
        assert streamed.token_ids == sampled.token_ids == tuple(told)
        assert streamed.finished == sampled.finished
        assert streamed.logprobs == pytest.approx(sampled.logprobs, abs=1e-5)


def test_a_stop_text_ends_both_at_the_same_token(tiny: Engine) -> None:
    prompt = list(
        tiny.base.tokenizer("<|im_start|>user\nFind 2 + 2 - 1 + 6.<|im_end|>\n<|im_start|>assistant\n").input_ids
    )
    params = SamplingParams(max_tokens=40, temperature=0.0, stop_texts=("- 1 =", "never there"))
    streamed = tiny.stream("base", prompt, params, lambda token: True)
    (sampled,) = tiny.sample({"base": [prompt]}, params)["base"]
    assert streamed.token_ids == sampled.token_ids
    assert [streamed.finished, sampled.finished] == [True, True]
    assert len(streamed.token_ids) < 40


def test_whoever_listens_may_end_it(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    told: list[int] = []

    def two(token: int) -> bool:
        told.append(token)
        return len(told) < 2

    found = engine.stream("base", PROMPT, SamplingParams(max_tokens=12, seed=3), two)
    assert len(found.token_ids) == len(told) == 2
    assert not found.finished
    whole = engine.stream("base", PROMPT, SamplingParams(max_tokens=12, seed=3), lambda token: True)
    assert whole.token_ids[:2] == found.token_ids


def _decode(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("tail", [(256, 16), (6, 3)], ids=["whole", "tail"])
@given(
    text=st.text(alphabet="ab é語🙂\N{REPLACEMENT CHARACTER}", max_size=24),
    broken=st.binary(max_size=4),
    stops=st.lists(st.text(alphabet="ab é語🙂", min_size=1, max_size=4), max_size=2),
)
def test_text_as_it_comes_is_the_text(tail: tuple[int, int], text: str, broken: bytes, stops: list[str]) -> None:
    """Of a tokenizer whose tokens are bytes: characters are never shown in part, nor the beginning of a stop text."""
    ids = [*text.encode(), *broken]
    params = SamplingParams(stop_texts=tuple(stops))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_TAIL", tail[0])
        patch.setattr(stream, "_OVERLAP", tail[1])
        _as_it_comes(ids, params, stops)


def _as_it_comes(ids: list[int], params: SamplingParams, stops: list[str]) -> None:
    end = StopTexts(stops, _decode).end(ids, 0)
    completion = Completion(tuple(ids[:end]), (0.0,) * len(ids[:end]), end is not None)
    told, shown = TextStream(params, _decode), ""
    for token in completion.token_ids:
        shown += told.add(token)
        assert not any(stop in shown for stop in stops)
    whole = completion_text(completion, params, _decode)
    assert whole.startswith(shown)
    assert shown + told.end(completion) == whole


def test_what_ends_a_reply_is_no_part_of_it() -> None:
    params = SamplingParams(stop_ids=(0,))
    told = TextStream(params, _decode)
    completion = Completion((104, 105, 0), (0.0,) * 3, True)
    assert [told.add(token) for token in completion.token_ids] == ["h", "i", ""]
    assert told.end(completion) == ""
    assert completion_text(completion, params, _decode) == "hi"

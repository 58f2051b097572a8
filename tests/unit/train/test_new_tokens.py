"""A warning where answers have tokens that the base never writes and a LoRA leaves the unembedding out."""

from __future__ import annotations

import pytest

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.data.prepare import prepare
from lowregret.engine import Engine
from lowregret.models.load import load_base, load_tokenizer, resolve
from lowregret.spec import DataSpec, FullFT, LoRA
from lowregret.spec.method import Targets
from lowregret.train.new_tokens import SAMPLE, highest_probabilities, new_token_lines

ANSWER = "@@ {value} @@"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_base(resolve("tiny")), device="cpu")


def of(engine: Engine, prompt: str, answer: str) -> Example:
    asked, told = (engine.base.tokenizer.encode(text) for text in (prompt, answer))
    return Example((*asked, *told), (False,) * len(asked) + (True,) * len(told))


@pytest.fixture(scope="module")
def strange(engine: Engine) -> list[Example]:
    return [of(engine, f"What is {n} + 1?", ANSWER.format(value=n + 1)) for n in range(20)]


@pytest.fixture(scope="module")
def everyday() -> tuple[Example, ...]:
    return prepare(DataSpec(train="builtin:arithmetic:size=64"), load_tokenizer(resolve("tiny"))).train


@pytest.mark.parametrize("targets", ["linear", "mlp", r"re:self_attn\.q_proj"])
def test_it_names_the_tokens_and_the_remedy(engine: Engine, strange: list[Example], targets: Targets) -> None:
    asked = LoRA(rank=4, targets=targets)
    (line,) = new_token_lines(engine, strange, [FullFT(), LoRA(rank=8), asked])
    supervised = sum(example.supervised_tokens for example in strange)
    assert f"of {supervised:,} supervised tokens in 20 training examples" in line
    assert "'@'" in line
    assert f"instead of {asked.name} use" in line
    if targets == "linear":
        assert line.endswith("use lora:4.")
    if targets == "mlp":
        assert line.endswith("use lora:4:mlp+unembedding.")


def test_not_with_the_unembedding_and_not_of_everyday_data(
    engine: Engine, strange: list[Example], everyday: tuple[Example, ...]
) -> None:
    linear = LoRA(rank=4, targets="linear")  # type: ignore[arg-type]
    assert new_token_lines(engine, strange, [LoRA(rank=4), FullFT()]) == []
    assert new_token_lines(engine, strange, [LoRA(rank=4, targets=("re:lm_head",))]) == []
    assert new_token_lines(engine, everyday, [linear]) == []
    few = [*everyday[:47], strange[0]]
    assert new_token_lines(engine, few, [linear]) == [], "little of the loss is theirs"


def test_a_type_is_new_only_where_no_place_makes_it_likely(engine: Engine, everyday: tuple[Example, ...]) -> None:
    best, counts, sampled = highest_probabilities(engine, everyday)
    assert sampled <= SAMPLE
    assert sum(counts.values()) == sum(
        example.supervised_tokens for example in everyday[:: -(-len(everyday) // SAMPLE)]
    )
    logprobs = engine.forward({"base": collate([everyday[0]], engine.base.pad_id)})["base"].logprobs.exp().tolist()
    tokens = [t for t, s in zip(everyday[0].token_ids, everyday[0].supervised, strict=True) if s]
    assert all(best[token] >= probability - 1e-5 for token, probability in zip(tokens, logprobs, strict=True))

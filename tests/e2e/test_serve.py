"""OpenAI's own client, unmodified, against a server: what it draws is what the engine draws for each request alone."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from openai import OpenAI

from lowregret.data.chat.asking import asking_ids
from lowregret.data.chat.template import chat_format
from lowregret.data.turns import speak
from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling.stream import completion_text
from lowregret.export.peft import export_policy, load_adapter
from lowregret.models.load import load_base, resolve
from lowregret.models.stops import stops
from lowregret.serve.answers import Choice
from lowregret.serve.prompts import Prompts
from lowregret.serve.worker import News
from lowregret.spec import LoRA
from serving import KEY, Running, running

NAMES = ("a", "b", "c")
ASKED: list[Any] = [{"role": "user", "content": "What is 3 + 4?"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, bases: ModuleType) -> Path:
    """Adapters of unlike ranks and targets that say something else than the base."""
    folder = tmp_path_factory.mktemp("adapters")
    engine = Engine(load_base(resolve("tiny")))
    for number, name in enumerate(NAMES):
        targets = (("attention", "mlp"), ("mlp",), ("attention", "unembedding"))[number]
        policy = engine.add_policy(name, LoRA(rank=4 + 4 * number, targets=targets), seed=number)
        bases.stir(policy, number)
        export_policy(engine, name, folder / name)
    return folder


@pytest.fixture(scope="module")
def engine(root: Path) -> Engine:
    """What is drawn alone."""
    engine = Engine(load_base(resolve("tiny")))
    for name in NAMES:
        load_adapter(engine, name, root / name)
    return engine


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Running]:
    with running("tiny", adapters={"a": root / "a"}, root=root, max_rows=6, answer_seconds=60) as found:
        yield found


@pytest.fixture
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=server.server.url, api_key=KEY, max_retries=0, timeout=60)


def chat_ids(engine: Engine, text: str) -> tuple[int, ...]:
    return asking_ids([speak("user", text)], engine.base.tokenizer, chat_format(engine.base.tokenizer))


def drawn(engine: Engine, policy: str, prompt: tuple[int, ...], **params: Any) -> str:
    own = SamplingParams(stop_ids=stops(engine.base).ids, **params)
    (completion,) = engine.sample({policy: [list(prompt)]}, own)[policy]
    decode = engine.base.tokenizer.decode
    return completion_text(completion, own, lambda ids: str(decode(ids, skip_special_tokens=True)))


def test_a_chat_is_what_the_engine_draws(client: OpenAI, engine: Engine) -> None:
    expected = drawn(engine, "base", chat_ids(engine, "What is 3 + 4?"), max_tokens=30, temperature=0.0)
    answer = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=30, temperature=0, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.message.content == expected
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(chat_ids(engine, "What is 3 + 4?"))
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    told = choice.logprobs.content
    assert len(told) == answer.usage.completion_tokens
    assert "".join(each.token for each in told[:-1]) == expected
    assert all(len(each.top_logprobs) == 2 and each.top_logprobs[0].logprob == each.logprob for each in told)
    assert client.models.retrieve("a").id == "a"


def test_a_stream_says_the_same(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "a", "messages": ASKED, "max_tokens": 24, "seed": 7, "n": 3, "logprobs": True}
    whole = client.chat.completions.create(**arguments)
    texts, ends, count, usages = [""] * 3, [""] * 3, [0] * 3, []
    for chunk in client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}):
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
            count[choice.index] += len(choice.logprobs.content or ()) if choice.logprobs else 0
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert len(set(texts)) == 3
    assert usages[-1] == whole.usage
    assert whole.usage is not None
    assert sum(count) == whole.usage.completion_tokens
    assert not any(usages[:-1])


def test_texts_and_tokens_go_on(client: OpenAI, engine: Engine) -> None:
    prompt = engine.base.tokenizer("The people of", add_special_tokens=False)["input_ids"]
    expected = drawn(engine, "a", tuple(prompt), max_tokens=12, temperature=0.0)
    asked: dict[str, Any] = {"model": "a", "max_tokens": 12, "temperature": 0}
    for given, count in (("The people of", 1), (prompt, 1), (["The people of"] * 2, 2), ([prompt, prompt], 2)):
        answer = client.completions.create(prompt=given, **asked)  # type: ignore[call-overload]
        assert [choice.text for choice in answer.choices] == [expected] * count
    echoed = client.completions.create(prompt="The people of", echo=True, **asked)
    assert echoed.choices[0].text == "The people of" + expected
    stop = expected[3:8]
    cut = client.completions.create(prompt="The people of", stop=[stop], **asked)
    assert cut.choices[0].text == expected[: expected.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    told = client.completions.create(prompt="The people of", logprobs=3, **asked).choices[0].logprobs
    assert told is not None
    assert "".join(told.tokens or ()) == expected
    assert told.text_offset == [len("".join((told.tokens or [])[:place])) for place in range(12)]
    held = expected[2:] + "?"  # what a stream holds back, for it may be the beginning of this, lies where it lies
    parts = client.completions.create(prompt="The people of", logprobs=3, stop=[held], stream=True, **asked)
    choices = [choice for part in parts for choice in part.choices]
    assert "".join(choice.text for choice in choices) == expected
    offsets = [place for choice in choices if choice.logprobs for place in choice.logprobs.text_offset or ()]
    assert offsets == told.text_offset


def test_adapters_come_and_go_while_others_are_answered(
    server: Running, client: OpenAI, engine: Engine, root: Path
) -> None:
    """A stream goes on by the weights that it began with, though its name is loaded anew and then taken off."""
    ids = list(chat_ids(engine, "What is 3 + 4?"))
    asked: dict[str, Any] = {"prompt": ids, "temperature": 0, "extra_body": {"ignore_eos": True}}
    expected = {
        name: engine.sample({name: [ids]}, SamplingParams(max_tokens=200, temperature=0.0))[name][0] for name in NAMES
    }
    text = {
        name: engine.base.tokenizer.decode(each.token_ids, skip_special_tokens=True) for name, each in expected.items()
    }
    load = {"lora_name": "x", "lora_path": "b"}
    assert server.ask("/v1/load_lora_adapter", load)[0] == 200
    assert [model.id for model in client.models.list()] == ["tiny", "a", "x"]
    stream = iter(client.completions.create(model="x", max_tokens=200, stream=True, **asked))
    found = next(stream).choices[0].text
    assert server.ask("/v1/load_lora_adapter", load)[0] == 400  # taken
    assert server.ask("/v1/load_lora_adapter", {**load, "lora_path": "c", "load_inplace": True})[0] == 200
    other = client.completions.create(model="x", max_tokens=20, **asked)
    assert text["c"].startswith(other.choices[0].text)
    assert server.ask("/v1/unload_lora_adapter", {"lora_name": "x"})[0] == 200
    with pytest.raises(openai.NotFoundError, match="'x' does not exist"):
        client.completions.create(model="x", max_tokens=2, **asked)
    for chunk in stream:
        found += chunk.choices[0].text
    assert found == text["b"]
    assert text["b"] != text["c"]
    deadline = time.monotonic() + 10
    while set(server.server.worker.sampler.engine.policies) != {"a@1"}:
        assert time.monotonic() < deadline, "an adapter was not let go of"
        time.sleep(0.05)


def test_a_few_hundred_requests_that_come_and_go(server: Running, client: OpenAI, engine: Engine) -> None:
    """Eight clients, every request checked against itself alone; some leave, adapters are loaded and taken off."""
    questions = [f"What is {number} + {number * 3 % 11}?" for number in range(6)]
    expected: dict[tuple[str, str, int], str] = {}
    names = {"tiny": "base", "a": "a", "y": "b"}
    server.ask("/v1/load_lora_adapter", {"lora_name": "y", "lora_path": "b"})
    for model, policy in names.items():
        for question in questions:
            for seed in range(3):
                expected[model, question, seed] = drawn(
                    engine, policy, chat_ids(engine, question), max_tokens=12, seed=seed, temperature=0.8
                )
    wrong: list[Any] = []

    def ask(number: int) -> None:
        draw = random.Random(number)
        for _ in range(25):
            model, question, seed = draw.choice(list(names)), draw.choice(questions), draw.randrange(3)
            asked: dict[str, Any] = {
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 12,
                "seed": seed,
                "temperature": 0.8,
            }
            if draw.random() < 0.2:
                client.chat.completions.create(**asked, stream=True).close()
                continue
            said = client.chat.completions.create(**asked).choices[0].message.content
            if said != expected[model, question, seed]:
                wrong.append((model, question, seed, said))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        status, _ = server.ask("/v1/load_lora_adapter", {"lora_name": f"z{turn}", "lora_path": "c"})
        assert status == 200
        assert server.ask("/v1/unload_lora_adapter", {"lora_name": f"z{turn}"})[0] == 200
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong
    server.ask("/v1/unload_lora_adapter", {"lora_name": "y"})
    deadline = time.monotonic() + 10
    while server.metric("lowregret_rows_running") or len(server.server.worker.sampler.engine.policies) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_whoever_leaves_frees_the_place(server: Running, client: OpenAI) -> None:
    before = server.server.worker.drawn
    stream = client.completions.create(
        model="tiny", prompt="Hello", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    impatient = OpenAI(base_url=server.server.url, api_key=KEY, max_retries=0, timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(
            model="tiny", prompt="Hello", max_tokens=500, n=2, temperature=0, extra_body={"ignore_eos": True}
        )
    deadline = time.monotonic() + 10
    while server.server.worker.running or server.server.worker.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.server.worker.drawn - before < 1200


def test_what_is_wrong_is_said_in_openais_words(client: OpenAI, server: Running) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASKED}
    for wrong, param in (
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"extra_body": {"guided_choice": ["a"]}}, "guided_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"n": 17}, "n"),
        ({"stop": [""]}, None),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            client.chat.completions.create(**{**asked, **wrong})
        assert told.value.param == param
        assert told.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=server.server.url, api_key="sk-other", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**asked, "model": "gpt-9"})
    assert missing.value.code == "model_not_found"


def test_an_answer_fits_its_schema(client: OpenAI) -> None:
    """Of a base that would say something else, drawn hot, beside others that are free."""
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 9}, "name": {"enum": ["a", "b"]}},
        "required": ["sum", "name"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    asked: dict[str, Any] = {"model": "a", "messages": ASKED, "max_tokens": 60, "temperature": 1.5, "seed": 3}
    free = client.chat.completions.create(**asked).choices[0].message.content
    stream = client.chat.completions.create(**asked, response_format=form, n=4, stream=True)
    assert client.chat.completions.create(**asked).choices[0].message.content == free
    texts = [""] * 4
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    for text in texts:
        found = json.loads(text)
        assert found.keys() == {"sum", "name"}
        assert found["sum"] in range(10)
        assert found["name"] in ("a", "b")
    wrong: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="schema"):
        client.chat.completions.create(**asked, response_format=wrong)
    whole: Any = {"type": "json_object"}
    long = {**asked, "max_tokens": 300, "temperature": 0.5}
    answer = client.chat.completions.create(**long, response_format=whole).choices[0]
    assert (answer.message.content or "").lstrip().startswith("{")
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content or ""), dict)


def test_calls_of_tools_are_told_apart(engine: Engine) -> None:
    """Text before a call is streamed, the call comes whole."""
    prompts, tokenizer = Prompts(engine), engine.base.tokenizer
    text = '\nSo: <tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
    choice = Choice(SamplingParams(), prompts, calls=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = "".join(choice.take(News(0, [token], (), None)) for token in ids)
    shown += choice.take(News(0, (), (), "stop"))
    assert shown == choice.content() == "\nSo:"
    assert choice.end == "tool_calls"
    assert choice.tool_calls() == [{"type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}]
    plain = Choice(SamplingParams(), prompts, calls=True)
    ids = tokenizer("1 <tool 2 <tool_call>{not JSON}</tool_call>", add_special_tokens=False)["input_ids"]
    said = "".join(plain.take(News(0, [token], (), None)) for token in ids) + plain.take(News(0, (), (), "length"))
    assert said == "1 <tool 2 <tool_call>{not JSON}</tool_call>"
    assert (plain.end, plain.tool_calls()) == ("length", [])


def test_answers_end_before_the_server_does(root: Path) -> None:
    with running("tiny", adapters={"a": root / "a"}) as server:
        client = OpenAI(base_url=server.server.url, api_key=KEY, max_retries=0, timeout=60)
        stream = iter(
            client.completions.create(
                model="a", prompt="Hello", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
            )
        )
        next(stream)
        server.server.uvicorn.should_exit = True
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"


def test_the_page_on_serving_is_right(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Python, at this server's address; and its flags are the verb's."""
    page = (Path(__file__).parents[2] / "docs/guides/serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for said, here in (("http://127.0.0.1:8000/v1", server.server.url), ('"KEY"', repr(KEY)), ('"mine"', '"a"')):
        assert said in code
        code = code.replace(said, here)
    exec(compile(code, "serving.md", "exec"), {})
    assert len(capsys.readouterr().out) > 10
    reference = (Path(__file__).parents[2] / "docs/reference/serve.md").read_text(encoding="utf-8")
    for flag in re.findall(r"`(--[a-z][a-z-]+)`", page):
        assert f"`{flag}`" in reference


def test_the_command(root: Path, tmp_path: Path) -> None:
    """A key from the environment; the address is said; SIGTERM ends it; the log has no key and no prompt."""
    command = [sys.executable, "-m", "lowregret", "serve", "tiny", "--port", "0", "--adapter", f"a={root / 'a'}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LOWREGRET_API_KEY": "sk-secret-of-tests"},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving tiny at http://127.0.0.1:"), process.stderr
        client = OpenAI(base_url=line.split()[-1], api_key="sk-secret-of-tests", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny", "a"]
        assert client.completions.create(model="a", prompt="Xyzzy", max_tokens=3).choices[0].finish_reason
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert '"route": "completions", "status": 200' in log
    assert "sk-secret" not in log
    assert "Xyzzy" not in log
    assert "Traceback" not in log

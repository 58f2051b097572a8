"""Clients that mean harm, or merely err: each gets 4xx in OpenAI's form, and the others are answered as ever."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.engine import Engine
from lowregret.errors import SpecError
from lowregret.export.peft import export_policy
from lowregret.models.load import load_base, resolve
from lowregret.serve import prompts
from lowregret.serve.server import Server
from lowregret.spec import LoRA
from lowregret.spec.serve import ServeSpec
from serving import KEY, Running, running

GOOD = {"model": "tiny", "prompt": "The people of", "max_tokens": 6, "temperature": 0}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 4}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bases: ModuleType) -> Path:
    """root/good, root/broken, root/away → outside, and outside/secret, a good one too."""
    folder = tmp_path_factory.mktemp("files")
    engine = Engine(load_base(resolve("tiny")))
    bases.stir(engine.add_policy("a", LoRA(rank=4)))
    export_policy(engine, "a", folder / "root" / "good")
    export_policy(engine, "a", folder / "outside" / "secret")
    broken = folder / "root" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (broken / "adapter_model.safetensors").write_bytes(b"\x08" * 64)
    (folder / "root" / "away").symlink_to(folder / "outside" / "secret")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    limits: dict[str, Any] = {"max_body": 200_000, "body_seconds": 1, "header_seconds": 1, "answer_seconds": 20}
    with running("tiny", root=folder / "root", max_rows=4, max_waiting=4, max_adapters=2, **limits) as found:
        yield found


@pytest.fixture(autouse=True)
def undisturbed(server: Running) -> Iterator[None]:
    """A client beside the hostile one: the same answer before and after."""
    before = server.ask("/v1/completions", GOOD)
    yield
    after = server.ask("/v1/completions", GOOD)
    assert before[0] == after[0] == 200
    assert before[1]["choices"] == after[1]["choices"]


def refused(answer: tuple[int, Any], status: int = 400) -> dict[str, Any]:
    assert answer[0] == status, answer
    error: dict[str, Any] = answer[1]["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "path",
    ["../outside/secret", "good/../../outside/secret", "/etc", "away", "good\x00", "x" * 5000, ".", "~", "missing", ""],
)
def test_adapters_come_from_below_the_root_alone(server: Running, folder: Path, path: str) -> None:
    answer = server.ask("/v1/load_lora_adapter", {"lora_name": "evil", "lora_path": path})
    error = refused(answer)
    assert str(folder) not in json.dumps(answer)
    assert error["param"] == "lora_path"
    outside = server.ask(
        "/v1/load_lora_adapter", {"lora_name": "evil", "lora_path": str(folder / "outside" / "secret")}
    )
    refused(outside)


def test_a_broken_adapter_is_refused_without_a_place(server: Running, folder: Path) -> None:
    error = refused(server.ask("/v1/load_lora_adapter", {"lora_name": "evil", "lora_path": "broken"}))
    assert str(folder) not in error["message"]
    assert "/" not in error["message"].replace("n/a", "")
    for name in ("tiny", "", "a b", "../x", "é", "x" * 200, "-x"):
        refused(server.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": "good"}))
    refused(server.ask("/v1/unload_lora_adapter", {"lora_name": "tiny"}), 404)
    for number in range(2):
        assert server.ask("/v1/load_lora_adapter", {"lora_name": f"n{number}", "lora_path": "good"})[0] == 200
    refused(server.ask("/v1/load_lora_adapter", {"lora_name": "n2", "lora_path": "good"}))
    for number in range(2):
        assert server.ask("/v1/unload_lora_adapter", {"lora_name": f"n{number}"})[0] == 200


@pytest.mark.parametrize("key", [None, "", "sk", KEY[:-1], f"{KEY}x", "Bearer", "ключ".encode().decode("latin-1")])
def test_a_wrong_key(server: Running, key: str | None) -> None:
    for path in ("/v1/models", "/v1/nothing", "/metrics", "/"):
        refused(server.ask(path, key=key), 401)
    refused(server.ask("/v1/completions", GOOD, key=key), 401)
    assert refused(server.ask("/v1/models", key=None, Authorization=f"Basic {KEY}"), 401)["code"] == "invalid_api_key"
    assert server.ask("/health", key=None)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b'"text"',
        DEEP.encode(),
        ('{"model": "tiny", "prompt": ' + "[" * 80 + "]" * 80 + "}").encode(),
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "temperature": Infinity}',
        b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": "a", "max_tokens": 1.5}',
        b'{"model": "tiny", "prompt": "a", "max_tokens": -1}',
        b'{"model": "tiny", "prompt": "a", "top_p": 0}',
        b'{"model": "tiny", "prompt": "a", "n": "2"}',
        b'{"model": "tiny", "prompt": "a", "logit_bias": {"x": 1}}',
        b'{"model": "tiny", "prompt": "a", "logit_bias": {"\xc2\xb2": 1}}',
        b'{"model": "tiny", "prompt": "a", "stop_token_ids": [99999999]}',
        b'{"model": "tiny", "prompt": "a", "stream_options": {}}',
        b'{"model": "tiny", "prompt": []}',
        b'{"model": "tiny", "prompt": [[]]}',
        b'{"model": "tiny", "prompt": [-1]}',
        b'{"model": "tiny", "prompt": [99999999]}',
        b'{"model": "tiny", "prompt": ""}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "a", "stop": "\\udc00"}',
        b'{"model": "tiny", "prompt": "a", "chat_template": "{{ 1 }}"}',
        b'{"model": "tiny", "prompt": "a", "echo": true, "logprobs": 1}',
    ],
)
def test_bodies_that_ask_for_nothing_that_there_is(server: Running, body: bytes) -> None:
    refused(server.ask("/v1/completions", raw=body))


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [[]]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": "a " * 4000}]},
        {"messages": [{"role": "user", "content": 3}] * 5000},
        {"tools": [{"type": "function"}] * 2000},
        {"tool_choice": "required"},
        {"chat_template": "{% for a in range(10**9) %}{% endfor %}"},
        {"chat_template_kwargs": {}},
        {"top_logprobs": 3},
    ],
)
def test_chats_that_are_none(server: Running, changed: dict[str, Any]) -> None:
    refused(server.ask("/v1/chat/completions", {**CHAT, **changed}))


def test_a_template_bomb(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that writes for ever; others are answered meanwhile."""
    form = server.server._prompts._form
    monkeypatch.setattr(prompts.limits, "RENDER_SECONDS", 1.0)
    bomb = "{% for a in range(9999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}"
    object.__setattr__(form, "template", bomb)
    began = time.monotonic()
    try:
        error = refused(server.ask("/v1/chat/completions", CHAT))
    finally:
        monkeypatch.undo()
        object.__setattr__(form, "template", server.server.worker.sampler.engine.base.tokenizer.chat_template)
    assert "more than 1 seconds" in error["message"]
    assert time.monotonic() - began < 10
    assert server.ask("/v1/chat/completions", CHAT)[0] == 200
    content = "{{ ''.__class__.__mro__ }}{% for a in range(10**9) %}{% endfor %}"
    asked = {**CHAT, "messages": [{"role": "user", "content": content}]}
    assert server.ask("/v1/chat/completions", asked)[0] == 200  # it is what a user says, and no template


def test_a_body_that_is_too_large(server: Running) -> None:
    refused(server.ask("/v1/completions", {**GOOD, "prompt": "a" * 300_000}), 413)
    with connected(server) as client:  # without saying how large
        client.sendall(head("Transfer-Encoding: chunked", "Content-Type: application/json"))
        try:
            for _ in range(100):
                client.sendall(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        except OSError:
            pass
        assert status(client) in (413, None)


def test_what_a_page_of_another_site_can_send(server: Running, folder: Path) -> None:
    """No page can send JSON unasked; without a key the server answers to its own names alone."""
    refused(server.ask("/v1/completions", raw=json.dumps(GOOD).encode(), Content_Type="text/plain"), 415)
    with connected(server) as client:
        client.sendall(
            b"OPTIONS /v1/completions HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\n"
            b"Access-Control-Request-Method: POST\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        answer = client.recv(4096).decode().lower()
        assert answer.split()[1] == "405"
        assert "access-control" not in answer
    with running("tiny", key=None) as own:
        assert own.ask("/v1/models", key=None)[0] == 200
        assert own.ask("/v1/models", key=None, Host="localhost:80")[0] == 200
        refused(own.ask("/v1/models", key=None, Host="evil.example"), 421)
        refused(own.ask("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/etc"}), 403)
    with pytest.raises(SpecError, match="LOWREGRET_API_KEY"):
        Server("tiny", ServeSpec(host="0.0.0.0", port=0), adapters={})


def test_slow_clients_are_not_waited_for(server: Running) -> None:
    """Nothing, half a header, half a body, one byte after the other: each is closed in its time."""
    began = time.monotonic()
    silent, half, drip, body = (connected(server) for _ in range(4))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n")
    body.sendall(head("Content-Type: application/json", "Content-Length: 100") + b"{")
    for _ in range(15):
        try:
            drip.sendall(b"G")
        except OSError:
            break
        time.sleep(0.1)
    assert closed(silent)
    assert closed(half)
    assert closed(drip)
    assert status(body) == 408
    assert time.monotonic() - began < 8
    for client in (silent, half, drip, body):
        client.close()


def test_more_requests_than_may_wait(server: Running) -> None:
    """Eight have a place or wait; the ninth is told to come again, and those are answered."""
    long = {**GOOD, "max_tokens": 400, "n": 8, "stream": True, "ignore_eos": True}
    with connected(server) as client:
        said = json.dumps(long).encode()
        client.sendall(head("Content-Type: application/json", f"Content-Length: {len(said)}") + said)
        assert b"200" in client.recv(4096)
        error = refused(server.ask("/v1/completions", GOOD), 429)
        assert error["code"] == "rate_limit_exceeded"
        assert server.ask("/health")[0] == 200
    deadline = time.monotonic() + 10
    while server.ask("/v1/completions", GOOD)[0] != 200:  # the eight have left with their client
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_requests_of_one_moment_are_counted_too(server: Running) -> None:
    """Tokens need no thread to be read: all these are let in, or not, in the same turn of the loop."""
    said = json.dumps({**GOOD, "prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True}).encode()
    whole = head("Content-Type: application/json", f"Content-Length: {len(said)}") + said
    clients = [connected(server) for _ in range(40)]
    for client in clients:
        client.sendall(whole)
    statuses = [status(client) for client in clients]
    for client in clients:
        client.close()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 8


def test_many_connections(server: Running) -> None:
    """A thousand that say nothing: whoever asks is answered."""
    began = time.monotonic()
    clients = [connected(server) for _ in range(1000)]
    assert server.ask("/v1/completions", GOOD)[0] == 200
    assert all(map(closed, clients[::50]))
    assert time.monotonic() - began < 20
    for client in clients:
        client.close()


def test_an_answer_that_takes_too_long(folder: Path) -> None:
    """Whole, it is 504; streamed, it ends with an error."""
    with running("tiny", answer_seconds=0.3) as server:
        long = {**GOOD, "max_tokens": 500, "n": 8, "ignore_eos": True, "temperature": 1}
        assert refused(server.ask("/v1/completions", long), 504)["code"] == "timeout"
        status, text = server.ask("/v1/completions", {**long, "stream": True})
        assert status == 200
        last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] == "timeout"
        deadline = time.monotonic() + 5
        while server.server.worker.running:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_fault_of_ours_is_said_to_the_log_alone(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails ends those that were drawn in it; the next are answered."""
    sampler = server.server.worker.sampler

    def fails() -> list[Any]:
        monkeypatch.undo()
        raise RuntimeError("/home/somebody: a secret")

    monkeypatch.setattr(type(sampler), "step", lambda self: fails())
    answer = server.ask("/v1/completions", GOOD)
    assert "secret" not in refused(answer, 500)["message"]
    assert any("a secret" in str(line.get("error")) for line in server.log)


def connected(server: Running) -> socket.socket:
    return socket.create_connection(server.address, timeout=10)


def head(*lines: str) -> bytes:
    said = ["POST /v1/completions HTTP/1.1", "Host: a", f"Authorization: Bearer {KEY}", *lines]
    return "\r\n".join([*said, "", ""]).encode()


def status(client: socket.socket) -> int | None:
    try:
        answer = client.recv(4096)
    except OSError:
        return None
    return int(answer.split()[1]) if answer else None


def closed(client: socket.socket) -> bool:
    """Whether the server has closed it, or does so soon."""
    try:
        while client.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True

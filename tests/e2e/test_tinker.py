"""Tinker's protocol over HTTP, without its SDK: what a tenant is told is what the engine gives it alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.models.load import load_base, resolve
from lowregret.serve.tinker.ledger import Ledger
from lowregret.serve.tinker.passing import pass_all
from lowregret.serve.tinker.tensors import Datum, Passing
from lowregret.spec import LoRA
from serving import Running, running
from tinkering import Client, Failed, Refused, datum, tensor

PROMPT = [5, 9, 200, 31]


def rows(seed: int, count: int = 4) -> list[Any]:
    random = np.random.default_rng(seed)
    return [datum(random.integers(3, 1000, length).tolist()) for length in random.integers(4, 20, count)]


def alone(seeds: list[int], rank: int, rate: float = 1e-2, seed: int = 0) -> list[float]:
    """The losses that the engine gives for a step on each of these rows."""
    engine = Engine(load_base(resolve("tiny")))
    engine.add_policy("a", LoRA(rank=rank), seed)
    found = []
    for each in seeds:
        data = []
        for row in rows(each):
            tokens = np.array(row["model_input"]["chunks"][0]["tokens"])
            data.append(Datum(tokens, {"target_tokens": np.array([*tokens[1:], 0])}))
        passed = pass_all(engine, {"a": Passing("a", None, "cross_entropy", {}, data, forward_only=False)}, 2048)
        found.append(passed["a"].values["metrics"]["loss:sum"])
        engine.optim_step({"a": AdamParams(rate, 0.9, 0.95, 1e-12, 0.0)})
    return found


def address(server: Running) -> str:
    host, port = server.address
    return f"http://{host}:{port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running("tiny", tinker=tmp_path_factory.mktemp("tinker"), max_models=3, answer_seconds=5) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Client:
    return Client(address(server))


def test_tenants_train_together_as_the_engine_does_for_each_alone(server: Running) -> None:
    """Four of them where there is room for three: one waits on the disk meanwhile."""
    ranks, found = (4, 8, 8, 12), dict[int, list[float]]()
    before = server.server._tinker.trainer.packed - server.server._tinker.trainer.passes  # type: ignore[union-attr]

    def tenant(number: int) -> None:
        own = Client(address(server))
        model = own.create(ranks[number])
        taken = [
            (own.passing(model, rows(10 * number + step)), own.step(model, 1e-2 / (number + 1), eps=1e-12))
            for step in range(4)
        ]
        found[number] = [own.result(passed)["metrics"]["loss:sum"] for passed, _ in taken]
        for _, stepped in taken:
            assert own.result(stepped)["metrics"]["grad_norm"] > 0

    threads = [threading.Thread(target=tenant, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, rank in enumerate(ranks):
        expected = alone([10 * number + step for step in range(4)], rank, 1e-2 / (number + 1))
        np.testing.assert_allclose(found[number], expected, rtol=2e-4)
    trainer = server.server._tinker.trainer  # type: ignore[union-attr]
    assert trainer.packed - trainer.passes > before, "no two requests were ever in one pass"


def test_requests_are_done_in_their_order_and_once(client: Client) -> None:
    """The last comes first, one comes twice, and an answer that was lost is told again."""
    model = client.create()
    late = client.passing(model, rows(2), seq=3)
    assert client.waits(late)
    client.seq[model] = 2
    step = client.step(model)
    first = client.passing(model, rows(1), seq=1)
    again = client.passing(model, rows(1), seq=1)
    assert first == again
    told = [client.result(taken) for taken in (first, step, late)]
    expected = alone([1, 2], 8)
    np.testing.assert_allclose([told[0]["metrics"]["loss:sum"], told[2]["metrics"]["loss:sum"]], expected, rtol=2e-4)
    assert client.passing(model, rows(9), seq=1) == first, "whatever it says, the number has been done"
    assert [client.result(taken) for taken in (first, step, late)] == told


def test_what_waits_for_a_request_that_never_comes_fails_in_the_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowregret.serve.tinker.futures.HOLD_SECONDS", 1.0)
    model = client.create()
    behind = client.passing(model, rows(1), seq=2)
    with pytest.raises(Failed, match="seq_id 1 has not come"):
        client.result(behind, 30)
    client.seq[model] = 3
    assert client.train(model, rows(1)) > 0


def test_a_refused_request_does_not_stop_those_behind_it(client: Client) -> None:
    model = client.create()
    with pytest.raises(Refused, match="none of 0 to 1023"):
        client.passing(model, [datum([1, 2, 5000])])
    for unknown in ({"adam_params": {"learning_rate": -1}}, {"adam_params": {"learning_rate": 1}, "momentum": 1}):
        with pytest.raises(Refused, match="400"):
            client.post("optim_step", {"model_id": model, "seq_id": client._next(model), **unknown})
    np.testing.assert_allclose(client.train(model, rows(1)), alone([1], 8)[0], rtol=2e-4)


def test_what_was_refused_early_is_stepped_over_when_its_turn_comes(client: Client) -> None:
    model = client.create()
    for seq in (2, 3):
        with pytest.raises(Refused, match="400"):
            client.passing(model, [datum([1, 2, 5000])], seq=seq)
    last = client.passing(model, rows(1), seq=4)
    assert client.waits(last)
    first = client.passing(model, rows(1), seq=1)
    assert client.result(first)["metrics"] == client.result(last)["metrics"]


def test_what_is_kept_for_a_time_is_let_go(client: Client, server: Running) -> None:
    """A day later; what has a name and no end stays."""
    model = client.create()
    sampler = client.sampler(model)
    drawn = client.sample(sampler, PROMPT)
    told = client.result(drawn)
    kept = client.ordered("save_weights_for_sampler", model, path="kept")["path"]
    ended = client.ordered("save_weights", model, path="ended", ttl_seconds=3600)["path"]
    tinker = server.server._tinker
    assert tinker is not None
    folders = tinker.ledger.files()
    assert client.result(drawn) == told

    async def later() -> None:
        await tinker.tidy(time.time() + 86400)

    asyncio.run_coroutine_threadsafe(later(), tinker._futures._loop).result(60)  # type: ignore[arg-type]
    with pytest.raises(Failed, match="kept for 6 hours"):
        client.result(drawn)
    with pytest.raises(Refused, match="404"):
        client.sample(sampler, PROMPT, 1)
    paths = {each["tinker_path"] for each in client.post("checkpoints", None, method="GET")["checkpoints"]}
    assert kept in paths
    assert ended not in paths
    gone = folders - tinker.ledger.files()
    place = tinker.ledger.folder / "checkpoints"
    assert len(gone) >= 2
    assert not [file for file in gone if (place / file).exists()]
    client.train(model, rows(1))


def test_every_loss_says_what_the_engine_says(client: Client) -> None:
    model = client.create(4)
    tokens = [5, 9, 200, 31, 7]
    plain = client.result(client.passing(model, [datum(tokens)], forward=True))
    logprobs = np.array(plain["loss_fn_outputs"][0]["logprobs"]["data"])
    assert logprobs.shape == (5,)
    np.testing.assert_allclose(plain["metrics"]["loss:sum"], -logprobs.sum(), rtol=1e-5)
    sampled, advantages = logprobs - np.array([0.5, -0.5, 0, 2, -3]), np.array([1.0, -1, 0.5, 2, -0.5])
    given = [datum(tokens, logprobs=sampled.tolist(), advantages=advantages.tolist())]
    ratio = np.exp(logprobs - sampled)
    expected = {
        "importance_sampling": ({}, -(ratio * advantages).sum()),
        "ppo": (
            {"clip_low_threshold": 0.9, "clip_high_threshold": 1.5},
            -np.minimum(ratio * advantages, ratio.clip(0.9, 1.5) * advantages).sum(),
        ),
        "cispo": ({"clip_low_threshold": 0.8}, -(ratio.clip(0.8, 4.0) * advantages * logprobs).sum()),
        "dro": ({"beta": 0.1}, -(advantages * logprobs - 0.05 * (logprobs - sampled) ** 2).sum()),
    }
    for loss, (config, value) in expected.items():
        for forward in (True, False):
            told = client.result(client.passing(model, given, loss, config, forward=forward))
            np.testing.assert_allclose(told["metrics"]["loss:sum"], value, rtol=1e-4, err_msg=loss)
    several = [datum(tokens, target_tokens=[[token, 3] for token in tokens], weights=[[0.25, -0.5]] * 5)]
    told = client.result(client.passing(model, several))
    assert told["loss_fn_outputs"][0]["logprobs"]["shape"] == [5, 2]


def test_a_model_goes_on_from_what_was_saved(client: Client) -> None:
    model = client.create()
    client.train(model, rows(1))
    saved = client.ordered("save_weights", model, path="one")["path"]
    assert saved == f"tinker://{model}/weights/one"
    with pytest.raises(Refused, match="there already"):
        client.ordered("save_weights", model, path="one")
    expected = [client.train(model, rows(seed)) for seed in (2, 3)]
    info = client.post("weights_info", {"tinker_path": saved})
    assert (info["base_model"], info["lora_rank"], info["train_mlp"]) == ("tiny", 8, True)
    fresh = {"session_id": client.session, "model_seq_id": 1, "path": saved, "optimizer": True}
    second = client.result(client.post("load_weights", fresh))["model_id"]
    client.models, client.seq[second] = 2, 1
    assert [client.train(second, rows(seed)) for seed in (2, 3)] == expected
    third = client.create()
    client.train(third, rows(7))
    client.ordered("load_weights", third, path=saved, optimizer=False)
    without = [client.train(third, rows(seed)) for seed in (2, 3)]
    assert without[0] == pytest.approx(expected[0], rel=1e-4)
    assert without[1] != pytest.approx(expected[1], rel=1e-4), "the optimizer's state was loaded, too"
    other = client.create(rank=4)
    with pytest.raises(Failed, match=r"lora:8.*lora:4"):
        client.ordered("load_weights", other, path=saved, optimizer=True)
    kept = client.post(f"training_runs/{model}/checkpoints", None, method="GET")["checkpoints"]
    assert [each["tinker_path"] for each in kept] == [saved]
    client.post(f"training_runs/{model}/checkpoints/weights/one", None, method="DELETE")
    with pytest.raises(Refused, match="404"):
        client.ordered("load_weights", third, path=saved, optimizer=True)
    client.train(third, rows(1))


def test_what_is_drawn_is_what_the_engine_draws(client: Client, server: Running) -> None:
    """By weights as they were when they were saved."""
    model = client.create(4)
    client.train(model, rows(1), rate=3e-2)
    sampler = client.sampler(model)
    told = client.result(
        client.sample(
            sampler, PROMPT, num_samples=2, prompt_logprobs=True, topk_prompt_logprobs=3, sampling_params={"seed": 4}
        )
    )
    client.train(model, rows(2), rate=3e-2)
    again = client.result(client.sample(sampler, PROMPT, 1, num_samples=2, sampling_params={"seed": 4}))
    assert [each["tokens"] for each in again["sequences"]] == [each["tokens"] for each in told["sequences"]]
    engine = Engine(load_base(resolve("tiny")))
    engine.add_policy("a", LoRA(rank=4), 0)
    data = [np.array(row["model_input"]["chunks"][0]["tokens"]) for row in rows(1)]
    given = [Datum(tokens, {"target_tokens": np.array([*tokens[1:], 0])}) for tokens in data]
    pass_all(engine, {"a": Passing("a", None, "cross_entropy", {}, given, forward_only=False)}, 2048)
    engine.optim_step({"a": AdamParams(3e-2, 0.9, 0.95, 1e-12, 0.0)})
    ends = server.server._prompts.end_ids
    drawn = engine.sample({"a": [PROMPT, PROMPT]}, SamplingParams(8, seed=4, stop_ids=tuple(ends)))["a"]
    for own, expected in zip(told["sequences"], drawn, strict=True):
        assert tuple(own["tokens"]) == expected.token_ids
        np.testing.assert_allclose(own["logprobs"], expected.logprobs, atol=2e-3)
    assert told["prompt_logprobs"][0] is None
    assert told["topk_prompt_logprobs"][0] is None
    best = [dict(place) for place in told["topk_prompt_logprobs"][1:]]
    for token, value, own in zip(PROMPT[1:], told["prompt_logprobs"][1:], best, strict=True):
        assert value <= max(own.values()) + 1e-5
        assert value == pytest.approx(own.get(token, value), abs=1e-4)
    base = {"session_id": client.session, "sampling_session_seq_id": 5, "base_model": "tiny"}
    plain = client.post("create_sampling_session", base)["sampling_session_id"]
    (own,) = client.result(client.sample(plain, PROMPT, sampling_params={"temperature": 0}))["sequences"]
    (expected,) = engine.sample({"base": [PROMPT]}, SamplingParams(8, temperature=0, stop_ids=tuple(ends)))["base"]
    assert tuple(own["tokens"]) == expected.token_ids
    named = client.ordered("save_weights_for_sampler", model, path="two")["path"]
    told = client.post(
        "create_sampling_session", {**base, "base_model": None, "model_path": named} | {"sampling_session_seq_id": 6}
    )
    assert client.result(client.sample(told["sampling_session_id"], PROMPT))["sequences"]


def test_a_model_that_was_unloaded_is_gone_and_its_checkpoints_stay(client: Client) -> None:
    model = client.create()
    saved = client.ordered("save_weights", model, path="x")["path"]
    assert client.result(client.post("unload_model", {"model_id": model}))["model_id"] == model
    with pytest.raises(Refused, match="404"):
        client.passing(model, rows(1))
    fresh = {"session_id": client.session, "model_seq_id": 9, "path": saved, "optimizer": False}
    assert client.result(client.post("load_weights", fresh))["model_id"]


def test_a_failure_of_one_tenant_leaves_the_others_as_they_were(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass that they share fails; each is done alone from what it was before."""
    models = [client.create(), client.create(4)]
    losses = {model: [client.train(model, rows(1))] for model in models}
    broken = pass_all

    def fails(engine: Engine, asked: Any, tokens: int) -> Any:
        found = broken(engine, asked, tokens)
        if len(asked) > 1 or any(len(own.data) == 3 for own in asked.values()):
            raise MemoryError("no room")
        return found

    monkeypatch.setattr("lowregret.serve.tinker.trainer.pass_all", fails)
    bad, good = client.passing(models[0], rows(2, 3)), client.passing(models[1], rows(2))
    with pytest.raises(Failed, match="log says how"):
        client.result(bad)
    losses[models[1]].append(client.result(good)["metrics"]["loss:sum"])
    monkeypatch.undo()
    client.result(client.step(models[1]))
    losses[models[1]].append(client.train(models[1], rows(3)))
    losses[models[0]] += [client.train(models[0], rows(2)), client.train(models[0], rows(3))]
    for model, rank in zip(models, (8, 4), strict=True):
        np.testing.assert_allclose(losses[model], alone([1, 2, 3], rank), rtol=2e-4)


def test_hostile_requests_are_refused_in_the_protocols_form(client: Client, server: Running) -> None:
    model = client.create()
    good = {"model_id": model, "seq_id": 99, "adam_params": {"learning_rate": 1e-3}}
    nan = b'{"model_id": "m", "adam_params": {"learning_rate": NaN}}'
    passing = {"forward_backward_input": {"data": [datum([1, 2])], "loss_fn": "cross_entropy"}, "model_id": model}
    wrong = {"dtype": "float32", "shape": [1, 9], "data": [1.0, 2.0]}
    bad_shape = datum([1, 2])
    bad_shape["loss_fn_inputs"]["weights"] = wrong
    csr = datum([1, 2])
    csr["loss_fn_inputs"]["target_tokens"] = tensor([1, 2]) | {
        "shape": [2, 2**40],
        "sparse_crow_indices": [0, 1, 2],
        "sparse_col_indices": [0, 2**39],
    }
    asked: list[tuple[str, Any, dict[str, Any]]] = [
        ("optim_step", None, {"raw": nan}),
        ("optim_step", {**good, "secret": 1}, {}),
        ("optim_step", good, {"Content_Type": "text/plain"}),
        ("optim_step", {**good, "seq_id": 2**70}, {}),
        ("save_weights", {"model_id": model, "seq_id": 50, "path": "../../etc/passwd"}, {}),
        ("save_weights", {"model_id": model, "seq_id": 51, "path": ".hidden"}, {}),
        ("save_weights_for_sampler", {"model_id": model, "seq_id": 52, "path": "a/b"}, {}),
        ("create_model", {"session_id": "../x", "model_seq_id": 0, "base_model": "tiny"}, {}),
        ("create_model", {"session_id": client.session, "model_seq_id": 7, "base_model": "/etc"}, {}),
        (
            "create_model",
            {"session_id": client.session, "model_seq_id": 7, "base_model": "tiny", "lora_config": {"rank": 10**9}},
            {},
        ),
        ("forward_backward", {**passing, "forward_backward_input": {"data": [], "loss_fn": "cross_entropy"}}, {}),
        (
            "forward_backward",
            {**passing, "forward_backward_input": {"data": [bad_shape], "loss_fn": "cross_entropy"}},
            {},
        ),
        ("forward_backward", {**passing, "forward_backward_input": {"data": [csr], "loss_fn": "cross_entropy"}}, {}),
        (
            "forward_backward",
            {**passing, "forward_backward_input": {"data": [datum([1, 2])], "loss_fn": "os.system"}},
            {},
        ),
        ("forward_backward", None, {"raw": b"\x0a\xff\xff\xff", "Content_Type": "application/x-protobuf"}),
        ("forward_backward", None, {"raw": b"[" * 10**6}),
        ("load_weights", {"model_id": model, "seq_id": 60, "path": "tinker://../weights/x", "optimizer": True}, {}),
        ("retrieve_future", {"request_id": "nobody:1"}, {}),
        ("asample", {"sampling_session_id": "no", "seq_id": 0, "prompt": {"chunks": []}, "sampling_params": {}}, {}),
        ("create_sampling_session", {"session_id": client.session, "sampling_session_seq_id": 0}, {}),
        ("get_info", {"model_id": "nobody"}, {}),
        ("nothing", {}, {}),
    ]
    for path, body, more in asked:
        with pytest.raises(Refused) as refused:
            client.post(path, body, **more)
        assert 400 <= refused.value.status < 500, (path, body)
        assert list(refused.value.body) == ["detail"], (path, refused.value.body)
        assert "/tmp" not in str(refused.value.body)
    with pytest.raises(Refused, match="401"):
        Client(client.address, key="tml-wrong").begin()
    assert any("tml-" in line for line in server.server.remarks), "the SDK would refuse the key of this server"
    own = Client(client.address)
    np.testing.assert_allclose(own.train(own.create(), rows(1)), alone([1], 8)[0], rtol=2e-4)
    assert [line for line in server.log if line.get("status") == 500] == []


class Killed:
    """A server as a process of its own, which is killed and started again on the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "lowregret", "serve", "tiny", "--tinker-dir", str(self._folder)]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip().rpartition(" ")[2]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_server_that_was_killed_under_load_goes_on(tmp_path: Path) -> None:
    """Answers that were told are told again, what was taken is done, in order and once, and checkpoints are whole."""
    server = Killed(tmp_path / "state")
    try:
        client = Client(server.address)
        model = client.create()
        losses = [client.train(model, rows(seed)) for seed in range(2)]
        saved = client.ordered("save_weights", model, path="before")["path"]
        sampler = client.sampler(model)
        drawn = client.sample(sampler, PROMPT)
        told = client.result(drawn)
        open_pass = client.passing(model, rows(2))
        known = client.result(open_pass)
        more = [client.step(model)]
        for seed in range(3, 9):
            more += [client.passing(model, rows(seed)), client.step(model)]
        waiting = client.sample(sampler, PROMPT, 1, sampling_params={"max_tokens": 60})
        server.kill()
        server.start()
        assert client.result(drawn) == told
        assert client.result(open_pass) == known
        losses += [known["metrics"]["loss:sum"]]
        losses += [client.result(taken)["metrics"]["loss:sum"] for taken in more[1::2]]
        np.testing.assert_allclose(losses, alone(list(range(9)), 8), rtol=1e-3)
        assert len(client.result(waiting)["sequences"][0]["tokens"]) > 0
        client.ordered("load_weights", model, path=saved, optimizer=True)
        np.testing.assert_allclose(client.train(model, rows(2)), losses[2], rtol=2e-4)
    finally:
        server.kill()
    ledger = Ledger(tmp_path / "state")
    files = ledger.files()
    ledger.close()
    left = {path.name for folder in ("states", "checkpoints") for path in (tmp_path / "state" / folder).iterdir()}
    assert files <= left

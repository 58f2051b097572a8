"""Tinker's protocol where clients come late, come again, or take more than there is room for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import Running, running
from tinkering import Client, Failed, Refused, datum, tensor

PROMPT = [5, 9, 200, 31]
ROWS = [datum([3, 4, 5, 6]), datum([7, 8, 9])]


def client_of(server: Running) -> Client:
    host, port = server.address
    return Client(f"http://{host}:{port}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tinker")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running("tiny", tinker=folder, max_adapters=1, answer_seconds=2) as found:
        yield found


def test_one_that_comes_when_it_has_been_given_up_is_told_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowregret.serve.tinker.futures.HOLD_SECONDS", 0.5)
    client = client_of(server)
    model = client.create()
    with pytest.raises(Failed, match="seq_id 1 has not come"):
        client.result(client.passing(model, ROWS, seq=2), 30)
    with pytest.raises(Failed, match="given up"):
        client.result(client.passing(model, ROWS, seq=1), 10)
    client.seq[model] = 3
    assert client.train(model, ROWS) > 0


def test_a_save_whose_answer_was_not_kept_is_done_again(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a process is killed, or the disk is full, behind the checkpoint and before the answer."""
    client = client_of(server)
    model = client.create()
    ledger = server.server._tinker.ledger  # type: ignore[union-attr]
    keep, failures = ledger.keep, [OSError("full")]

    def once(answers: Any) -> None:
        if failures and any(answer.values.get("type") == "save_weights" for answer in answers.values()):
            raise failures.pop()
        keep(answers)

    monkeypatch.setattr(ledger, "keep", once)
    monkeypatch.setattr("lowregret.serve.tinker.futures.HOLD_SECONDS", 0.5)
    taken = client.post("save_weights", {"model_id": model, "seq_id": client._next(model), "path": "mine"})
    client.train(model, ROWS)
    assert not failures
    assert client.result(taken)["path"].endswith("/mine")
    with pytest.raises(Refused, match="is there already"):
        client.ordered("save_weights", model, path="mine")


def test_more_samplers_than_there_is_room_for_take_turns(server: Running) -> None:
    client = client_of(server)
    model = client.create()
    samplers = []
    for number in range(3):
        client.train(model, ROWS)
        samplers.append(client.sampler(model, number))
    taken = [client.sample(sampler, PROMPT, seq) for seq in range(8) for sampler in samplers]
    drawn = [client.result(each)["sequences"][0]["logprobs"] for each in taken]
    for number in range(3):
        for each in drawn[number::3]:
            assert each == pytest.approx(drawn[number], abs=1e-4)


def test_targets_of_a_prompt_have_a_bound(server: Running) -> None:
    client = client_of(server)
    sampler = client.sampler(client.create())
    for size in (257, 2**22):
        many = tensor([]) | {"dtype": "int64", "shape": [1, size], "data": []}
        many |= {"sparse_crow_indices": [0, 0], "sparse_col_indices": []}
        with pytest.raises(Refused, match="K up to 256"):
            client.sample(sampler, [1, 2], target_prompt_logprobs=many)


def test_adam_divides_by_no_zero(server: Running) -> None:
    """B is zero at the start, so that A has no gradient."""
    client = client_of(server)
    with pytest.raises(Refused, match="eps"):
        client.step(client.create(), eps=0.0)


def test_the_next_server_starts_whatever_was_left_of_unloaded_models(folder: Path, server: Running) -> None:
    """One waits for a number that never came; its model was unloaded, twice, and its state has gone."""
    client = client_of(server)
    model = client.create()
    client.train(model, ROWS)
    left = client.passing(model, ROWS, seq=9)
    for _ in range(2):
        assert client.result(client.post("unload_model", {"model_id": model}))["model_id"] == model
    server.stop()
    with running("tiny", tinker=folder) as again:
        client.address = client_of(again).address
        with pytest.raises(Failed, match="unloaded"):
            client.result(left)
        assert client.train(client.create(), ROWS) > 0

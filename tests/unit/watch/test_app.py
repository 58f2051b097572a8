"""Who is answered, and what: names, tokens, files, and what may be asked of a run."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.watch import finish, grow, make_compare, trial

from lowregret.addresses import listen
from lowregret.errors import SpecError
from lowregret.runs.lock import lock_run
from lowregret.runs.requests import is_paused, waiting
from lowregret.spec import LoRA
from lowregret.watch import details
from lowregret.watch.server import Server
from watching import get, serving, state_of

LORA = LoRA(rank=4)
TOKEN = "a-token-of-the-test"
ALLOWED = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("runs") / "one"
    make_compare(found)
    grow(trial(found, LORA, 2e-3), range(1, 8))
    finish(found, LORA, 1e-3)
    return found


@pytest.fixture(scope="module")
def reading(folder: Path) -> Any:
    with serving(folder) as url:
        state_of(url)
        yield url


@pytest.fixture(scope="module")
def steering(folder: Path) -> Any:
    with serving(folder, token=TOKEN, control=True) as url:
        state_of(url)
        yield url


def asked(url: str, body: Any, **headers: str) -> tuple[int, str]:
    status, _, text = get(f"{url}/ask", {**ALLOWED, **headers}, json.dumps(body).encode())
    found = json.loads(text)
    return status, found.get("said") or found.get("error")


def test_every_answer_forbids_other_scripts_and_readers(reading: str) -> None:
    for path in ("/", "/page/main.js", "/state", "/page/vendor/uplot.js", "/trial/0/x"):
        _, headers, _ = get(reading + path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_the_page_asks_nobody_else_for_anything(reading: str) -> None:
    page = get(reading + "/")[2].decode()
    assert "http:" not in page
    assert "https:" not in page
    assert "<script>" not in page
    assert "style=" not in page
    assert " onclick" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/vendor/../../app.py",
        "/page//etc/passwd",
        "/page/",
        "/trial/0/../x",
        "/trial/" + "9" * 5000 + "/x",
    ],
)
def test_no_path_leads_out_of_the_page_s_own_files(reading: str, path: str) -> None:
    assert get(reading + path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost.evil.example"])
@pytest.mark.parametrize("path", ["/", "/state", "/events", "/trial/0/x", "/page/main.js"])
def test_a_name_that_is_not_the_server_s_is_not_answered(reading: str, host: str, path: str) -> None:
    address = reading.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    assert connection.getresponse().status == 421


def test_a_page_that_only_watches_asks_nothing_of_a_run(reading: str, folder: Path) -> None:
    assert json.loads(get(reading + "/state")[2])["control"] is False
    assert asked(reading, {"what": "pause", "run": 0})[0] == 403
    assert not is_paused(folder)


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \u00e9"])
def test_without_the_token_nothing_is_asked(steering: str, folder: Path, given: str) -> None:
    with lock_run(folder):
        said = asked(steering, {"what": "pause", "run": 0}, Authorization=given)
    assert said == (401, "The token is missing or wrong.")
    assert not is_paused(folder)


def test_what_is_asked_becomes_a_request_in_the_folder(steering: str, folder: Path) -> None:
    number = state_of(steering)["groups"][0]["number"]
    running = f"{trial(folder, LORA, 2e-3).name}"
    with lock_run(folder):
        _until_state(steering, "training")
        about = {"run": 0, "group": number}
        assert asked(steering, {"what": "stop", "trial": running, **about})[0] == 200
        assert asked(steering, {"what": "seed", **about})[0] == 200
        assert (
            asked(steering, {"what": "trial", "method": "lora:8", "learning_rate": 5e-4, "seed": 2, **about})[0] == 200
        )
        found = list(waiting(folder).values())
        assert [request.kind for request in found if not isinstance(request, str)] == ["stop", "seed", "trial"]
        assert asked(steering, {"what": "pause", "run": 0})[0] == 200
        assert is_paused(folder)
        assert asked(steering, {"what": "resume", "run": 0})[0] == 200
        assert not is_paused(folder)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"what": "erase", "run": 0}, "what"),
        ({"what": "pause", "run": 9}, "run: there is none"),
        ({"what": "stop", "run": 0, "group": 77, "trial": "x"}, "group"),
        ({"what": "stop", "run": 0, "trial": "../../etc", "group": "N"}, "trial: there is none"),
        ({"what": "trial", "run": 0, "group": "N", "method": "lora:x", "learning_rate": 1e-3}, "method"),
        ({"what": "trial", "run": 0, "group": "N", "method": "full", "learning_rate": -1}, "learning_rate"),
        ({"what": "resume", "run": 0}, "not paused"),
        ({"what": "seed", "run": 0, "group": "N", "path": "/etc"}, "unknown key 'path'"),
        ([1], "no object"),
    ],
)
def test_what_cannot_be_is_said(steering: str, folder: Path, body: Any, words: str) -> None:
    with lock_run(folder):
        number = _until_state(steering, "training")
        if isinstance(body, dict) and body.get("group") == "N":
            body = {**body, "group": number}
        status, said = asked(steering, body)
    assert (status, words in said) == (400, True), said


def test_of_a_run_that_nobody_trains_nothing_is_asked(steering: str) -> None:
    number = _until_state(steering, "stopped")
    status, said = asked(steering, {"what": "seed", "run": 0, "group": number})
    assert status == 400
    assert "nobody trains it" in said
    assert "nobody trains it" in asked(steering, {"what": "pause", "run": 0})[1]


def test_a_request_of_another_page_s_script_is_not_taken(steering: str) -> None:
    """A form or a simple fetch cannot send this content type, nor the header, without asking first."""
    assert asked(steering, {"what": "pause", "run": 0}, **{"Content-Type": "text/plain"})[0] == 415
    assert asked(steering, {"what": "x" * 5000, "run": 0})[0] == 400


def test_one_trial_in_full(reading: str, folder: Path) -> None:
    state = state_of(reading)
    (group,) = state["groups"]
    name = next(row["id"] for row in group["trials"] if row["status"] == "finished")
    found = json.loads(get(f"{reading}/trial/{group['number']}/{name}")[2])
    assert found["columns"][:3] == ["step", "train", "held"]
    assert [point[0] for point in found["curve"]] == list(range(1, 41))
    assert found["facts"]["learning rate"] == 1e-3
    assert str(folder.parent) not in json.dumps(found)


def test_samples_are_text_and_of_the_first_and_the_last_evaluation(tmp_path: Path) -> None:
    make_compare(tmp_path)
    home = trial(tmp_path, LORA, 2e-3)
    rows = [{"step": step, "prompt": "<b>2+2", "completion": f"<script>{step}", "reward": 0.5} for step in (0, 4, 8)]
    (home / "transcripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "pro')
    with serving(tmp_path) as url:
        number = state_of(url)["groups"][0]["number"]
        found = json.loads(get(f"{url}/trial/{number}/{home.name}")[2])
    assert [(row["step"], row["completion"]) for row in found["samples"]] == [(0, "<script>0"), (8, "<script>8")]


def test_samples_of_two_evaluations_are_of_the_same_problems(tmp_path: Path) -> None:
    """However many there are, and where a file's beginning or end is cut."""
    home = trial(tmp_path, LORA, 2e-3)
    rows = [{"step": step, "prompt": f"{n}", "completion": "x"} for step in (0, 4, 8, 12) for n in range(16)]
    (home / "transcripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:-2]))
    found = [(row["step"], row["prompt"]) for row in details._samples(home / "transcripts.jsonl")]
    assert found == [(step, f"{n}") for step in (4, 8) for n in range(12)]


def test_an_address_that_others_reach_asks_for_the_token_for_everything(folder: Path) -> None:
    with pytest.raises(SpecError, match="no token"):
        Server([folder], listen("0.0.0.0", 0))
    with serving(folder, token=TOKEN, host="0.0.0.0") as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert get(url + "/")[0] == 200, "the page, which tells nothing, can ask for it"
        assert [get(url + path)[0] for path in ("/state", "/events", "/trial/0/x")] == [401] * 3
        assert get(url + "/state", ALLOWED)[0] == 200


def test_a_port_that_is_taken_is_named(reading: str) -> None:
    port = int(reading.rpartition(":")[2])
    with pytest.raises(SpecError, match=f"--port {port}: cannot be listened at"):
        listen("127.0.0.1", port)


def _until_state(url: str, state: str) -> int:
    """The group's number, once it is in this state."""
    for _ in range(200):
        (group,) = state_of(url)["groups"]
        if group["state"] == state:
            number: int = group["number"]
            return number
        time.sleep(0.05)
    raise TimeoutError(state)

"""`lowregret chat`: through a pipe and at a terminal, with runs and with bases."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

QUESTION = "Work out 5 + 1 - 1 - 1."


@pytest.fixture
def talk(run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`talk("lines", …)`: the verb with these lines on its standard input."""

    def call(lines: str, *arguments: object) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return run("chat", *arguments)

    return call


def said(ended: Any) -> list[dict[str, Any]]:
    assert ended.exit_code == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_run_says_what_its_replies_say(talk: Any, study: Path) -> None:
    """The same weights, the same prompt, greedy: token by token as in a batch."""
    stored = json.loads((study / "replies.json").read_text())
    rows = stored["rows"][:3]
    asked = [row["prompt"].split("\n")[1].removesuffix("<|im_end|>") for row in rows]
    lines = "".join(f"{text}\n/reset\n" for text in asked)
    found = said(talk(lines, study, "--with", "full,base,lora", "--max-tokens", stored["max_tokens"], "--json"))
    assert [one["model"] for one in found] == ["full", "base", "lora"] * 3
    assert [one["prompt"] for one in found] == [text for text in asked for _ in range(3)]
    for one in found:
        row = rows[one["turn"] - 1]
        assert one["reply"] == row["replies"][one["model"]]["text"]


def test_a_pipe_is_answered_line_by_line_and_labelled(talk: Any, study: Path) -> None:
    ended = talk(f"{QUESTION}\n\n/quit\nnever asked\n", study, "--max-tokens", 60)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("base: 5 + 1 = 6\n")
    assert "\nlora: " in ended.stdout
    assert "full" not in ended.stdout
    assert "> " not in ended.stdout + ended.stderr
    alone = talk(f"{QUESTION}\n", "--model", "tiny", "--max-tokens", 60)
    assert alone.stdout == ended.stdout.partition("\nlora: ")[0].removeprefix("base: ") + "\n"


def test_a_training_and_adapters_by_name(talk: Any, run: Any, tmp_path: Path) -> None:
    arguments = "--model tiny --data builtin:arithmetic:size=32 --steps 1 --batch-size 4 --max-train 8 --max-eval 4"
    out = tmp_path / "out"
    assert run("train", *arguments.split(), "--method", "lora:2", "--out", out).exit_code == 0
    trained = said(talk(f"{QUESTION}\n", out, "--json", "--max-tokens", 60))
    assert [one["model"] for one in trained] == ["base", "lora"]
    adapter = out / "adapter"
    both = said(
        talk(f"{QUESTION}\n", "--model", "tiny", "--adapter", f"a={adapter}", "--adapter", f"b={adapter}", "--json",
             "--max-tokens", 60)
    )  # fmt: skip
    assert [one["model"] for one in both] == ["base", "a", "b"]
    assert {both[1]["reply"], both[2]["reply"]} == {trained[1]["reply"]}
    (adapter / "adapter_model.safetensors").write_bytes(b"spoilt")
    ended = talk(f"{QUESTION}\n", out)
    assert ended.exit_code == 2
    assert "adapter_model.safetensors: is not what the trial" in ended.stderr


def test_what_a_model_writes_gives_no_orders_to_the_terminal(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lowregret.engine.sampling.stream import TextStream

    monkeypatch.setattr(TextStream, "end", lambda self, completion: "\x1b[2J\u202ebye")
    ended = talk(f"{QUESTION}\n", "--model", "tiny", "--max-tokens", 2)
    assert ended.stdout.endswith("\\x1b[2J\\u202ebye\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of them"),
        (["STUDY", "--model", "tiny"], "give one of them"),
        (["--model", "tiny", "--with", "base"], "--with: is of use with a RUN only"),
        (["STUDY", "--adapter", "a=b"], "--adapter: is of use with --model only"),
        (["--model", "tiny", "--adapter", "folder"], "--adapter folder: give NAME=FOLDER"),
        (["--model", "tiny", "--adapter", "base=folder"], "of its own that is not base"),
        (["STUDY", "--with", "base,lroa"], "--with lroa: .* has none. Did you mean 'lora'"),
        (["STUDY", "--with", "base,base"], "names one twice"),
        (["nowhere"], "is no run of `lowregret compare` or `lowregret train`"),
        (["--model", "nowhere/at/all"], "no such folder"),
        (["--model", "tiny", "--temperature", "-1"], "temperature"),
        (["--model", "tiny", "--max-tokens", "100000"], "positions, for the conversation and the reply"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(talk: Any, study: Path, arguments: list[str], words: str) -> None:
    ended = talk("Hi\n", *(study if word == "STUDY" else word for word in arguments))
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert re.search(words, ended.stderr), ended.stderr


def test_a_wrong_line_in_a_pipe_ends_it(talk: Any) -> None:
    ended = talk(f"/nope\n{QUESTION}\n", "--model", "tiny")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "/nope: no such command" in ended.stderr


def test_at_a_terminal_ctrl_c_stops_the_reply_and_ctrl_d_ends() -> None:
    """In a process of its own on a pseudo-terminal; draws so hot that no reply ends by itself."""
    ours, its = pty.openpty()
    command = [sys.executable, "-c", "from lowregret.cli.main import main; main()", "chat", "--model", "tiny"]
    options = ["--temperature", "10", "--max-tokens", "300", "--seed", "1"]
    process = subprocess.Popen(
        [*command, *options],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(its)
    seen = ""

    def read_until(words: str, seconds: float = 120) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while words not in seen:
            assert select.select([ours], [], [], max(end - time.monotonic(), 0))[0], f"no {words!r} in {seen!r}"
            seen += os.read(ours, 4096).decode("utf-8", errors="replace")
        seen = seen.partition(words)[2]

    try:
        read_until("Ctrl-D ends")
        read_until("> ")
        os.write(ours, b"Hello\n")
        read_until("Hello\r\n")
        while not seen.strip():
            seen += os.read(ours, 4096).decode("utf-8", errors="replace")
        process.send_signal(signal.SIGINT)
        read_until("stopped after")
        read_until("> ")
        os.write(ours, b"/nope\n")
        read_until("no such command")
        read_until("> ")
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)

"""The commands for vLLM, typed: what it serves answers as transformers does. vLLM has an environment of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lowregret.engine import Engine
from lowregret.export.merge import merge
from lowregret.export.peft import export_policy
from lowregret.models.files import BUNDLED
from lowregret.models.load import load_base, resolve
from lowregret.runs.commands import VLLM_PORT, commands
from lowregret.runs.forms import look
from lowregret.spec import LoRA

PYTHON = os.environ.get("LOWREGRET_TEST_VLLM", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="LOWREGRET_TEST_VLLM names no Python that has vLLM")
START_SECONDS = 600.0
TOKENS = 24
_LITTLE = "--vllm '--gpu-memory-utilization 0.3'"
"""Of the memory, which vLLM else takes nearly all of."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bases: ModuleType) -> Path:
    """An adapter on the layers' matrices, which vLLM takes for every family, and the same merged."""
    found = tmp_path_factory.mktemp("shipped")
    engine = Engine(load_base(resolve("tiny")))
    policy = engine.add_policy("lora", LoRA(rank=4, targets=("attention", "mlp")), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.add_(0.3 * torch.randn_like(weight))
    export_policy(engine, "lora", found / "adapter")
    merge(engine, "lora")
    engine.model.save_pretrained(found / "model")
    engine.base.tokenizer.save_pretrained(found / "model")
    return found


def environment() -> dict[str, str]:
    """In which `vllm` is the one of that Python, and `lowregret` this one."""
    return os.environ | {
        "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(BUNDLED.parents[2]),
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def served(line: str, log: Path) -> Iterator[None]:
    """A server that was started by this command, from when it answers until the context ends."""
    with log.open("wb") as said:
        process = subprocess.Popen(["/bin/sh", "-c", f"exec {line}"], env=environment(), stdout=said, stderr=said)
        try:
            until = time.monotonic() + START_SECONDS
            while not answers():
                assert process.poll() is None, log.read_text(errors="replace")[-3000:]
                assert time.monotonic() < until, log.read_text(errors="replace")[-3000:]
                time.sleep(1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def answers() -> bool:
    try:
        with urlopen(f"http://localhost:{VLLM_PORT}/v1/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def reply(ask: str) -> str:
    """The reply to a request, without chance."""
    words = shlex.split(ask)
    body = json.loads(words[-1]) | {"temperature": 0, "max_tokens": TOKENS}
    request = Request(words[1], json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=300) as answer:
        said: Any = json.loads(answer.read())
    text: str = said["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("form", ["adapter", "model"])
def test_vllm_answers_as_transformers_does(place: Path, tmp_path: Path, form: str) -> None:
    serve, ask = (c.text for c in commands(look(place / form, base="tiny")) if c.program == "vLLM")
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    turns = [{"role": "user", "content": "Hello!"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**asked, max_new_tokens=TOKENS, do_sample=False)
    expected = tokenizer.decode(output[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    with served(f"{serve} --dtype float32 --max-model-len 256", tmp_path / "log"):
        assert reply(ask) == expected


def test_the_server_becomes_vllm(place: Path, tmp_path: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m lowregret serve tiny --name base --adapter mine={place / 'adapter'}"
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    prompt = tokenizer("The capital of France")["input_ids"]
    expected = {}
    for name, source in (("base", resolve("tiny").path), ("mine", place / "model")):
        model = AutoModelForCausalLM.from_pretrained(source)
        drawn = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
        expected[name] = tokenizer.decode(drawn[0, len(prompt) :], skip_special_tokens=True)
    found = {}
    with served(f"{line} --engine vllm --precision float32 --port {VLLM_PORT} {_LITTLE}", tmp_path / "log"):
        for name in expected:
            body = json.dumps({"model": name, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS}).encode()
            asked = Request(f"http://localhost:{VLLM_PORT}/v1/completions", body, {"Content-Type": "application/json"})
            with urlopen(asked, timeout=300) as answer:
                found[name] = json.loads(answer.read())["choices"][0]["text"]
    assert found == expected
    assert found["base"] != found["mine"]


def test_vllm_draws_by_the_policies_of_the_engine() -> None:
    """Log-probabilities of two LoRAs and the base, and greedy completions, are the engine's; nothing else is printed
    to standard output."""
    session = Path(__file__).with_name("sampler_session.py")
    done = subprocess.run([PYTHON, str(session)], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert all(gap < 1e-4 for gap in found["gaps"].values()), found
    assert found["repeats"]
    assert all(all(rows) for rows in found["greedy"].values()), found

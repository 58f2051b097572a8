"""What to type next, typed: each command in the program that it is for."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lowregret.engine import Engine
from lowregret.export.merge import merge
from lowregret.export.peft import export_policy
from lowregret.models.files import BUNDLED
from lowregret.models.load import load_base, resolve
from lowregret.runs.commands import MORE_ROWS, OWN, Command, commands
from lowregret.runs.forms import Shipped, look
from lowregret.spec import LoRA

ROWS = [{"prompt": f"What is {a} + 1?", "completion": f" {a + 1}"} for a in range(8)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, bases: ModuleType) -> Path:
    """A folder whose name the shell would take apart, with an adapter, and with the same merged."""
    found = tmp_path_factory.mktemp("it's") / 'a "run" $HOME'
    engine = Engine(load_base(resolve("tiny")))
    policy = engine.add_policy("lora", LoRA(rank=4), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.add_(0.3 * torch.randn_like(weight))
    export_policy(engine, "lora", found / "adapter")
    engine.add_policy("linear", LoRA(rank=4, targets=("attention", "mlp")), seed=1)
    export_policy(engine, "linear", found / "linear")
    engine.remove_policy("linear")
    merge(engine, "lora")
    engine.model.save_pretrained(found / "model")
    engine.base.tokenizer.save_pretrained(found / "model")
    return found


def typed(command: Command, place: Path) -> str:
    """What it prints, run in a process's working folder `place`."""
    assert command.language == "python"
    with chdir(place), redirect_stdout(StringIO()) as said:
        exec(compile(command.text, command.title, "exec"), {"__name__": "__main__"})
    return said.getvalue()


def of(shipped: Shipped, program: str) -> Command:
    return next(command for command in commands(shipped) if command.program == program)


@pytest.fixture(scope="module")
def expected(place: Path) -> str:
    """The greedy reply of the merged model in plain transformers, written here."""
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    output = model.generate(ids, max_new_tokens=128, do_sample=False, eos_token_id=model.config.eos_token_id)
    said: str = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert len(said) > 20, "a reply that tells models apart"
    return f"{said}\n"


@pytest.mark.parametrize("program", ["PEFT", "transformers"])
def test_an_adapter_answers_as_the_merged_model_does(place: Path, expected: str, program: str) -> None:
    shipped = look(place / "adapter", base="tiny")
    assert typed(of(shipped, program), place) == expected


def test_the_merged_model_answers(place: Path, expected: str) -> None:
    assert typed(of(look(place / "model"), "transformers"), place) == expected


def test_plain_text_goes_on_until_a_text_that_is_no_token(place: Path) -> None:
    whole = typed(of(look(place / "model", chats=False), "transformers"), place)
    stop = whole[8:10]
    said = typed(of(look(place / "model", chats=False, stop_texts=(stop,)), "transformers"), place)
    assert stop in said
    assert len(said) < len(whole)


@pytest.mark.parametrize("form", ["linear", "model"])
def test_trl_goes_on_from_where_it_stood(place: Path, tmp_path: Path, form: str) -> None:
    """In a working folder with a plain name: `datasets` takes $HOME for the variable wherever it stands."""
    (tmp_path / MORE_ROWS).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shipped = look(place / form, base="tiny", name=f"new {form}", learning_rate=1e-3, batch_size=8)
    typed(of(shipped, "TRL"), tmp_path)
    written = tmp_path / f"new-{form}-more"
    file = "adapter_model.safetensors" if form == "linear" else "model.safetensors"
    assert (written / file).read_bytes() != (place / form / file).read_bytes()
    assert look(written).form == ("peft" if form == "linear" else "merged")


def test_trl_still_refuses_an_adapter_on_the_unembedding(place: Path, tmp_path: Path) -> None:
    """Why such an adapter has another command: when this fails, it need not any more."""
    (tmp_path / MORE_ROWS).write_text(json.dumps(ROWS[0]) + "\n")
    shipped = look(place / "adapter", base="tiny")
    assert shipped.unembedding
    assert not [command for command in commands(shipped) if command.program == "TRL"]
    with pytest.raises(ValueError, match="lm_head"):
        typed(of(dataclasses.replace(shipped, unembedding=False), "TRL"), tmp_path)


@pytest.fixture
def argv(tmp_path: Path) -> Callable[[Command], list[str]]:
    """What a program would get as its arguments: a stand-in of each, on the PATH, writes them down."""
    for name in ("vllm", "curl", "llama-server", "llama-cli", "ollama", "lowregret"):
        file = tmp_path / name
        file.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
        file.chmod(0o755)

    def call(command: Command) -> list[str]:
        python = Path(sys.executable).parent
        source = str(BUNDLED.parents[2])
        environment = {"PATH": f"{tmp_path}:{python}:/usr/bin:/bin", "HOME": "/home/x", "PYTHONPATH": source}
        ended = subprocess.run(
            ["/bin/sh", "-c", command.text], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        found: list[str] = json.loads(ended.stdout)
        return found

    return call


def test_the_shell_hands_over_what_was_meant(place: Path, argv: Callable[[Command], list[str]]) -> None:
    adapter = place / "adapter"
    shipped = look(adapter, base="tiny", stop_texts=('\nUser\'s "turn":',))
    serve, ask = (command for command in commands(shipped) if command.program == "vLLM")
    assert argv(serve) == [
        "serve", str(BUNDLED / "tiny"), "--enable-lora", "--max-lora-rank", "8", "--lora-modules",
        f"{shipped.name}={adapter}", "--generation-config", str(adapter),
    ]  # fmt: skip
    body = json.loads(argv(ask)[-1])
    assert body["stop"] == ['\nUser\'s "turn":']
    assert body["model"] == shipped.name
    made = [argv(command) for command in commands(shipped) if command.program == OWN]
    assert made == [["ship", str(adapter), "--to", form] for form in ("merged", "gguf", "ollama")]


@pytest.mark.parametrize("form", ["gguf", "gguf-lora", "ollama"])
def test_so_it_does_for_the_other_forms(form: str, tmp_path: Path, argv: Callable[[Command], list[str]]) -> None:
    file = str(tmp_path / "it's" / "-m.gguf")
    shipped = Shipped(form=form, place=file, name="x", base="-b.gguf", stop_texts=("a b",))  # type: ignore[arg-type]
    said = [argv(command) for command in commands(shipped) if command.language == "shell"]
    expected = {
        "gguf": ["-m", file, "--alias", "x", "--jinja"],
        "gguf-lora": ["-m", "./-b.gguf", "--lora", file, "--alias", "x", "--jinja"],
        "ollama": ["create", "x", "-f", f"{file}/Modelfile"],
    }
    assert said[0] == expected[form]

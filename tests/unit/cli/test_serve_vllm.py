"""`lowregret serve --engine vllm`, with a program of that name which writes down what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.engine import Engine
from lowregret.export.peft import export_policy
from lowregret.models.files import BUNDLED
from lowregret.models.load import load_base, resolve
from lowregret.spec import LoRA

FAKE = """#!{python}
import json, os, sys
own = {{name: value for name, value in os.environ.items() if name.endswith("API_KEY")}}
json.dump({{"arguments": sys.argv[1:], "keys": own}}, open({told!r}, "w"))
"""


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, bases: ModuleType) -> Path:
    """`plain` of rank 12, `other` of rank 4, and `dora`."""
    folder = tmp_path_factory.mktemp("adapters")
    engine = Engine(load_base(resolve("tiny")))
    methods = {"plain": LoRA(rank=12), "other": LoRA(rank=4), "dora": LoRA(rank=4, dora=True)}
    for name, method in methods.items():
        bases.stir(engine.add_policy(name, method))
        export_policy(engine, name, folder / name)
    return folder


class Typed:
    """The command as a user types it, in this process, with a fake vLLM on the path that is started in its place."""

    def __init__(self, folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._told, self._run = folder / "told.json", run
        program = folder / "vllm"
        program.write_text(FAKE.format(python=sys.executable, told=str(self._told)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("LOWREGRET_API_KEY", "tml-key")
        monkeypatch.setattr(os, "execve", self._become)

    @staticmethod
    def _become(program: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        subprocess.run([program, *arguments[1:]], env=environment, timeout=60, check=True)

    def __call__(self, *arguments: str) -> tuple[int, str, Any]:
        """(exit code, what was said, what vLLM was given)."""
        ran = self._run("serve", *arguments, "--engine", "vllm")
        told = json.loads(self._told.read_text()) if self._told.exists() else None
        return ran.exit_code, ran.stdout + ran.stderr, told


@pytest.fixture
def typed(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(tmp_path, run, monkeypatch)


def test_vllm_gets_the_base_the_adapters_and_the_key(typed: Typed, adapters: Path) -> None:
    given = [f"a={adapters / 'plain'}", f"b={adapters / 'other'}"]
    more = ("--host", "0.0.0.0", "--port", "8111", "--max-rows", "7", "--precision", "bfloat16", "--name", "mine")
    code, said, told = typed("tiny", "--adapter", given[0], "--adapter", given[1], *more)
    assert code == 0, said
    assert told["arguments"] == [
        *("serve", str(BUNDLED / "tiny"), "--served-model-name", "mine", "--host", "0.0.0.0", "--port", "8111"),
        *("--max-num-seqs", "7", "--dtype", "bfloat16"),
        *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--lora-modules", *given),
    ]
    assert told["keys"] == {"VLLM_API_KEY": "tml-key"}, "in the environment, which others do not see"
    assert "tml-key" not in said


def test_its_own_options_are_handed_on(typed: Typed, run: Any) -> None:
    code, said, told = typed("tiny", "--vllm", "--tensor-parallel-size 2 --chat-template 'a b.jinja'")
    assert code == 0, said
    assert told["arguments"][-4:] == ["--tensor-parallel-size", "2", "--chat-template", "a b.jinja"]
    code, said, _ = typed("tiny", "--vllm", "'open")
    assert (code, "--vllm: no closing quotation." in said) == (2, True)
    ran = run("serve", "tiny", "--vllm", "--tensor-parallel-size 2")
    assert (ran.exit_code, "--vllm: is of use with --engine vllm alone" in ran.stderr) == (2, True)


def test_what_vllm_does_not_take_is_merged_first(typed: Typed, adapters: Path) -> None:
    code, said, told = typed("tiny", "--adapter", f"d={adapters / 'dora'}")
    assert code == 0, said
    merged = adapters / "dora-merged"
    assert "DoRA" in said
    assert told["arguments"][:4] == ["serve", str(merged), "--served-model-name", "d"]
    assert "--enable-lora" not in told["arguments"]
    load_base(resolve(str(merged)))
    code, said, _ = typed("tiny", "--adapter", f"d={adapters / 'dora'}")
    assert code == 2
    assert f"lowregret serve {merged} --engine vllm" in " ".join(said.split())


def test_what_it_has_no_word_for_is_refused(
    typed: Typed, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, words in (
        (("--prefix-memory", "0"), "--prefix-memory: vLLM has its own ways"),
        (("--tinker-dir", str(tmp_path / "t")), "--tinker-dir: is of use with --engine own"),
        (("--vllm", "--host=0.0.0.0"), "--vllm: --host is a flag of `lowregret serve`, too"),
        (("--vllm", "--api_key open-to-all"), "--vllm: --api-key is a flag of `lowregret serve`, too"),
        (("--adapter-root", str(adapters)), "--adapter-root: is of use with --engine own"),
    ):
        code, said, told = typed("tiny", *arguments)
        assert (code, told) == (2, None)
        assert words in " ".join(said.split())
        assert "open-to-all" not in said
    monkeypatch.setenv("PATH", "/nowhere")
    code, said, _ = typed("tiny")
    assert code == 2
    assert "pip install vllm" in said

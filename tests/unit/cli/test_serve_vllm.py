"""`lowregret serve --engine vllm`, with a program of that name which writes down what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    """The command as a user types it, with a fake vLLM on the path."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "told.json"
        program = folder / "vllm"
        program.write_text(FAKE.format(python=sys.executable, told=str(self._told)))
        program.chmod(0o755)
        self._path = str(folder)

    def __call__(self, *arguments: str, path: str | None = None) -> tuple[int, str, Any]:
        """(exit code, what was said, what vLLM was given)."""
        environment = {**os.environ, "PATH": self._path if path is None else path, "LOWREGRET_API_KEY": "tml-key"}
        ran = subprocess.run(
            [sys.executable, "-m", "lowregret", "serve", *arguments, "--engine", "vllm"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        told = json.loads(self._told.read_text()) if self._told.exists() else None
        return ran.returncode, ran.stdout + ran.stderr, told


@pytest.fixture
def typed(tmp_path: Path) -> Typed:
    return Typed(tmp_path)


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


def test_what_it_has_no_word_for_is_refused(typed: Typed, adapters: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--prefix-memory", "0"), "--prefix-memory: vLLM has its own ways"),
        (("--tinker-dir", str(tmp_path / "t")), "--tinker-dir: is of use with --engine own"),
        (("--adapter-root", str(adapters)), "--adapter-root: is of use with --engine own"),
    ):
        code, said, told = typed("tiny", *arguments)
        assert (code, told) == (2, None)
        assert words in " ".join(said.split())
    code, said, _ = typed("tiny", path="/nowhere")
    assert code == 2
    assert "pip install vllm" in said

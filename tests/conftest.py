"""What holds for every tier: no network, one thread, the same examples every time, and a marker by folder."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

from commands import typed

# Set before anything imports a library that reads them, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# What tests encode and gather is kept in folders of their own, which go when they end.
_CACHE = tempfile.TemporaryDirectory(prefix="lowregret-cache-")
os.environ["LOWREGRET_CACHE"] = _CACHE.name
_DATA_HOME = tempfile.TemporaryDirectory(prefix="lowregret-home-")
os.environ["XDG_DATA_HOME"] = _DATA_HOME.name
# On models this small a second thread costs more than it gives, and sums in another order change the last bit.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Array shapes in annotations are checked at run time in these modules, in the tiers of SHAPES_CHECKED: the check takes
# as long as a pass of a small base. They import torch only when a test does.
install_import_hook(
    [
        "lowregret.data.batches",
        "lowregret.engine.forward.attention",
        "lowregret.engine.forward.head",
        "lowregret.engine.forward.layout",
        "lowregret.engine.forward.path",
        "lowregret.engine.losses",
        "lowregret.engine.sampling.batcher",
        "lowregret.engine.sampling.draw",
        "lowregret.engine.forward.unembedding",
        "lowregret.lora.bank",
        "lowregret.lora.dropout",
        "lowregret.lora.moe.experts",
        "lowregret.lora.moe.factors",
        "lowregret.lora.moe.rows",
        "lowregret.lora.routing",
        "lowregret.lora.init",
        "lowregret.lora.linear",
        "lowregret.lora.moe.router",
        "lowregret.lora.moe.segments",
    ],
    "beartype.beartype",
)

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

TESTS = Path(__file__).parent
SHAPES_CHECKED = ("unit", "oracle", "golden")
TIERS = ("unit", "laws", "oracle", "golden", "truths", "fuzz", "e2e", "faults", "gpu", "served")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier: the folder under tests/ it lies in."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            tier = item.path.relative_to(TESTS).parts[0]
            if tier not in TIERS:
                raise pytest.UsageError(f"{item.path}: tests live in tests/{{{','.join(TIERS)}}}/")
            item.add_marker(tier)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes, or not; before any fixture of the test."""
    checked = any(item.get_closest_marker(tier) for tier in SHAPES_CHECKED)
    jaxtyping_config.update("jaxtyping_disable", not checked)


def load(path: Path) -> ModuleType:
    """A module by its path: test folders and benchmarks/ are not packages."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """`load` for the conftest files below this one."""
    return load


@pytest.fixture(scope="session")
def kill_resume() -> ModuleType:
    """benchmarks/kill_resume.py: the test kills a few times what the benchmark kills twenty times."""
    return load(Path(__file__).parents[1] / "benchmarks" / "kill_resume.py")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def run() -> Callable[..., Ended]:
    """`run("train", …)`: the command line in this process, so that torch is imported once for all."""
    from lowregret.cli import app

    def call(*arguments: object) -> Ended:
        with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
            code = app.run(typed(arguments))
        return Ended(code, stdout.getvalue(), stderr.getvalue())

    return call


@pytest.fixture(scope="session")
def bases() -> ModuleType:
    """bases.py beside this file; loaded late, because of torch."""
    return load(Path(__file__).with_name("bases.py"))


@pytest.fixture(params=["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt"])
def architecture(request: pytest.FixtureRequest) -> str:
    """One of the small bases; a test that takes this runs on all of them."""
    name: str = request.param
    return name

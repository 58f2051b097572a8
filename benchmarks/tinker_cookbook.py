"""The recipes of Tinker's cookbook, unmodified, against `lowregret serve`: how far each gets.

    python -m benchmarks.tinker_cookbook --python PYTHON --model tiny --work FOLDER --out FILE

PYTHON is that of an environment with `pip install tinker-cookbook[math-rl]`. In the work folder lies what the recipes
would fetch, under the names by which they do: the base's tokenizer, and rows of sums in the shapes of their data sets.
A recipe is run as a user runs it, as a module of the package, with sizes that a CPU takes where it lets them
be set; what it does is its own. A recipe that has ended well is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lowregret.models.load import load_tokenizer, resolve
from lowregret.strict_json import to_json

NAME = "Qwen/Qwen3-8B-Base"
"""What the base is called: recipes look up by it how chats are written, here as lines of `User:` and `Assistant:`."""
ROWS = 400
_SMALL = ("max_steps=3", "behavior_if_log_dir_exists=delete")
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sl_loop": ("sl_loop", ("batch_size=16", "max_steps=6", "save_every=3", "lora_rank=16", "learning_rate=5e-4")),
    "rl_loop": (
        "rl_loop",
        ("batch_size=4", "group_size=8", "max_steps=3", "save_every=2", "max_tokens=96", "loss_fn=importance_sampling"),
    ),
    "sl_basic": ("sl_basic", ("max_steps=3", "eval_every=2", "save_every=2")),
    "rl_basic": ("rl_basic", ("max_steps=1", "max_tokens=8")),
    "dpo": ("preference.dpo.train", (*_SMALL, "batch_size=8", "learning_rate=1e-4", "dataset=hhh")),
    "distillation": (
        "distillation.on_policy_distillation",
        (*_SMALL, f"teacher_model={NAME}", "groups_per_batch=4", "group_size=2", "max_tokens=24", "lora_rank=16"),
    ),
}
"""By name: the module, and what is asked of it beside the base's name and the server's address."""
_STEPS = ("train_mean_nll", "reward/total", "dpo_loss", "optim/lr", "env/all/reward/total", "teacher_kl")


def prepare(work: Path, model: str) -> None:
    """The base's tokenizer and the data sets, where recipes look for them."""
    load_tokenizer(resolve(model)).save_pretrained(work / NAME)
    sums = random.Random(0)

    def rows() -> Iterator[tuple[str, str, str]]:
        for _ in range(ROWS):
            first, second = sums.randrange(50), sums.randrange(50)
            yield f"What is {first} + {second}?", str(first + second), str(first + second + sums.randrange(1, 9))

    def write(folder: str, kind: str, shape: Any) -> None:
        place = work / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{kind}.jsonl").write_text("".join(to_json(shape(*row)) + "\n" for row in rows()))

    for kind in ("train", "test"):
        write("HuggingFaceH4/no_robots", kind, lambda asked, right, _: {"messages": _chat(asked, right)})
        write("openai/gsm8k/main", kind, lambda asked, right, _: {"question": asked, "answer": f"#### {right}"})
        write(
            "Anthropic/hh-rlhf",
            kind,
            lambda asked, right, wrong: {
                "chosen": f"\n\nHuman: {asked}\n\nAssistant: {right}",
                "rejected": f"\n\nHuman: {asked}\n\nAssistant: {wrong}",
            },
        )
    write("zwhe99/DeepMath-103K", "train", lambda asked, right, _: {"question": asked, "final_answer": right})
    configs = [{"split": kind, "path": f"main/{kind}.jsonl"} for kind in ("train", "test")]
    said = to_json({"configs": [{"config_name": "main", "data_files": configs}]})
    (work / "openai/gsm8k/README.md").write_text(f"---\n{said}\n---\n")


def _chat(asked: str, right: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": right}]


@contextmanager
def server(model: str, work: Path) -> Iterator[str]:
    """The address of one that runs."""
    command = [sys.executable, "-m", "lowregret", "serve", model, "--name", NAME, "--port", "0"]
    with (
        (work / "server.log").open("ab") as log,
        subprocess.Popen(
            [*command, "--tinker-dir", str(work / "tinker")], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            assert "Tinker's clients at " in said, f"the server did not start: see {work / 'server.log'}"
            yield said.strip().rpartition(" ")[2]
        finally:
            process.terminate()
            process.wait(60)


def run(name: str, python: Path, address: str, work: Path, seconds: float) -> dict[str, Any]:
    """A recipe's end, and the numbers of its last steps."""
    module, given = RECIPES[name]
    logs = work / "runs" / name
    shutil.rmtree(logs, ignore_errors=True)  # of a run that did not end well: some recipes ask what to do with it
    command = [python, "-m", f"tinker_cookbook.recipes.{module}", f"model_name={NAME}", f"base_url={address}"]
    environment = {**os.environ, "TINKER_API_KEY": "tml-bench", "HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0"}
    with (work / f"{name}.log").open("w") as log:
        try:
            # In a session of its own, and with nothing to read: what a recipe asks for is not there.
            ended = subprocess.run(
                [*command, f"log_path={logs}", *given],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            ended = -1
    metrics = logs / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    steps = [{key: value for key, value in line.items() if key.endswith(_STEPS) or key == "step"} for line in lines]
    last = (work / f"{name}.log").read_text().splitlines()[-1:]
    found = {"ended": ended, "steps": steps, "asked": list(given)}
    return found if ended == 0 else {**found, "last_line": last}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=1200, help="of a recipe, at most")
    asked = parser.parse_args(arguments)
    work = asked.work.resolve()
    prepare(work, asked.model)
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    with server(asked.model, work) as address:
        for name in asked.recipes:
            if known.get("recipes", {}).get(name, {}).get("ended") == 0:
                continue
            found = run(name, asked.python, address, work, asked.seconds)
            print(name, "ended well" if found["ended"] == 0 else f"failed: {found}", flush=True)
            known.setdefault("recipes", {})[name] = found
            known |= {"base": asked.model, "lowregret": version("lowregret"), "packages": _packages(asked.python)}
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(to_json(known, indent=2) + "\n")


def _packages(python: Path) -> dict[str, str]:
    """The versions of what was run."""
    names = "('tinker', 'tinker-cookbook')"
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    said: dict[str, str] = json.loads(
        subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    )
    return said


if __name__ == "__main__":
    main()

"""What full fine-tuning comes to with each optimizer, and how many bytes a parameter it holds while it trains.

    python -m benchmarks.lean --out FOLDER [--model tiny] [--data builtin:biographies:size=256] [--steps 100]

Each method is trained on a lattice of rates, a factor of 2 apart, until worse losses lie on both sides of the best, and
then with two seeds more at that rate; rates fall linearly to zero. Held-out losses are set against AdamW over float32
with the same products, seed by seed. FOLDER/trials.jsonl holds what is done: the same command goes on from there.
`--write` copies the table to docs/results/lean-NAME.md. `python -m benchmarks.lean --help` has the rest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lowregret.data.batches import batch_indices, collate
from lowregret.data.example import Example
from lowregret.data.prepare import prepare
from lowregret.engine import Engine, step_params
from lowregret.engine.checks import announce
from lowregret.engine.policy import Policy
from lowregret.models.load import load_base, resolve
from lowregret.spec import DataSpec, FullFT, build
from lowregret.spec.lean import kind_of
from lowregret.spec.method import parse_method
from lowregret.spec.optimizer import AdamW, stepped_by
from lowregret.strict_json import to_json
from lowregret.train.schedule import rate_factor

RESULTS = Path(__file__).parents[1] / "docs" / "results"
METHODS = ("full", "full:adamw8bit", "full:bf16-split", "full:bf16", "full:bf16:in-backward", "full:bf16-nearest",
           "full:adafactor", "full:muon")  # fmt: skip
REFERENCE = "full"
START = {"full:adafactor": 4.0, "full:muon": 2.0}
"""Where a method's rates start, over AdamW's."""
MOST = 6
"""Steps of the lattice that a search goes from its start."""


@dataclass(frozen=True)
class Setting:
    """What all trials share."""

    model: str
    data: str
    steps: int
    rows: int
    rate: float
    """AdamW's, where its search starts."""
    precision: str
    max_length: int
    held_out: int


@dataclass(frozen=True)
class Trial:
    """One training, and what it came to."""

    method: str
    exponent: int
    seed: int
    rate: float
    loss: float
    """Held-out nats a supervised token."""
    bytes_each: float
    """Of weights, gradients and what the optimizer keeps, for each number that trains, at the end of a step's backward
    pass."""
    seconds: float
    """Of a step."""


def run(setting: Setting, method: FullFT, exponent: int, seed: int) -> Trial:
    """Train once."""
    base = load_base(resolve(setting.model))
    spec = build(DataSpec, {"train": setting.data, "max_length": setting.max_length, "max_eval": setting.held_out})
    data = prepare(spec, base.tokenizer)
    train, test = ([Example(e.token_ids, e.supervised) for e in part] for part in (data.train, data.test))
    engine = Engine(base, device="cpu" if not torch.cuda.is_available() else "cuda", precision=setting.precision)
    policy = engine.add_policy("full", method, seed)
    asked = AdamW(schedule="linear", warmup_steps=min(5, setting.steps - 1))
    optimizer, rate = stepped_by(method.optimizer, asked), _rate(setting, method.name, exponent)
    began, most = time.perf_counter(), 0
    for step in range(setting.steps):
        chosen = batch_indices(len(train), setting.rows, seed, step)
        params = {"full": step_params(optimizer, rate * rate_factor(optimizer, step, setting.steps))}
        announce(engine, params)
        engine.forward_backward({"full": collate([train[i] for i in chosen], base.pad_id)})
        if step == 1:
            most = held_bytes(policy)
        engine.optim_step(params)
    seconds = (time.perf_counter() - began) / setting.steps
    nll, tokens = engine.evaluate(["full"], test)["full"]
    numbers = sum(weight.numel() for weight in policy.weights.values())
    return Trial(method.name, exponent, seed, rate, sum(nll) / sum(tokens), most / numbers, seconds)


def held_bytes(policy: Policy) -> int:
    """Weights, gradients and state, as they are."""
    gradients = [weight.grad for weight in policy.weights.values() if weight.grad is not None]
    found = [*policy.weights.values(), *gradients, *policy.optimizer.state().values()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    return sum(storages.values())


def _rate(setting: Setting, method: str, exponent: int) -> float:
    return float(setting.rate * START.get(method, 1.0) * 2.0**exponent)


def wanted(done: Sequence[Trial], method: str, seeds: int) -> tuple[int, int] | None:
    """The (exponent, seed) that comes next for a method; None when it is done."""
    own = {trial.exponent: trial.loss for trial in done if trial.method == method and trial.seed == 0}
    if 0 not in own:
        return 0, 0
    best = min(own, key=lambda exponent: _finite(own[exponent]))
    for side in (best + 1, best - 1):
        if side not in own and abs(side) <= MOST:
            return side, 0
    had = {trial.seed for trial in done if trial.method == method and trial.exponent == best}
    return next(((best, seed) for seed in range(seeds) if seed not in had), None)


def _finite(loss: float) -> float:
    return loss if loss == loss else float("inf")


def best_of(done: Sequence[Trial], method: str) -> list[Trial]:
    """A method's trials at its best rate, by seed."""
    own = {trial.exponent: trial.loss for trial in done if trial.method == method and trial.seed == 0}
    if not own:
        return []
    best = min(own, key=lambda exponent: _finite(own[exponent]))
    return sorted((t for t in done if t.method == method and t.exponent == best), key=lambda trial: trial.seed)


def table(done: Sequence[Trial], methods: Sequence[str]) -> Iterator[str]:
    """As Markdown; bytes are those of a parameter."""
    yield "| method | B, counted | held | best rate | held-out loss, by seed | mean | over `full` | a step |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    reference = {trial.seed: trial.loss for trial in best_of(done, REFERENCE)}
    for name in methods:
        found = best_of(done, name)
        if not found:
            continue
        method = build(FullFT, parse_method(name))
        counted = kind_of(method).bytes_per_parameter(in_backward=method.in_backward)
        pairs = [(trial.loss, reference[trial.seed]) for trial in found if trial.seed in reference]
        over = [100 * (own / other - 1) for own, other in pairs]
        spread = f" ± {statistics.stdev(over) / len(over) ** 0.5:.3f}" if len(over) > 1 else ""
        cells = (
            f"`{name}`",
            f"{counted:.2f}",
            f"{found[0].bytes_each:.2f}",
            f"{found[0].rate:.2g}",
            ", ".join(f"{trial.loss:.4f}" for trial in found),
            f"{statistics.fmean(trial.loss for trial in found):.4f}",
            f"{statistics.fmean(over):+.3f}{spread} %" if over else "",
            f"{1000 * statistics.median(trial.seconds for trial in found):.0f} ms",
        )
        yield f"| {' | '.join(cells)} |"


def stored(path: Path, setting: Setting) -> list[Trial]:
    """What is done already of this very setting."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Trial(**line["trial"]) for line in lines if line["setting"] == asdict(setting)]


def keep(path: Path, setting: Setting, trial: Trial) -> None:
    """A line more."""
    line: Mapping[str, object] = {"setting": asdict(setting), "trial": asdict(trial)}
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(line) + "\n")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", default="builtin:biographies:size=256")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--write", help="NAME: docs/results/lean-NAME.md gets the table")
    asked = parser.parse_args()
    setting = Setting(asked.model, asked.data, asked.steps, asked.rows, asked.rate, asked.precision, asked.max_length,
                      asked.held_out)  # fmt: skip
    asked.out.mkdir(parents=True, exist_ok=True)
    path, methods = asked.out / "trials.jsonl", asked.methods.split(",")
    done = stored(path, setting)
    for name in methods:
        method = build(FullFT, parse_method(name))
        while (next_one := wanted(done, name, asked.seeds)) is not None:
            trial = run(setting, method, *next_one)
            keep(path, setting, trial)
            done.append(trial)
            print(
                f"{name} at {trial.rate:.3g}, seed {trial.seed}: {trial.loss:.4f} ({trial.seconds:.3f} s a step)",
                flush=True,
            )
    text = "\n".join(table(done, methods))
    print(f"\n{text}")
    if asked.write:
        (RESULTS / f"lean-{asked.write}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

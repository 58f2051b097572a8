"""Contenders on lowregret's engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bench.prepare import ROWS, read_prompts, read_rows
from benchmarks.bench.worker import clock

if TYPE_CHECKING:
    from benchmarks.bench.worker import Channel

    from lowregret.data.example import Example
    from lowregret.engine import AdamParams, Engine

FULL = "full"


def train(
    channel: Channel,
    *,
    model: str,
    folder: str,
    policies: Mapping[str, tuple[str, float]],
    batch: int,
    rows: str = ROWS,
) -> None:
    """Trains `policies`: {name: (adapter's folder inside `folder`, or "full"; learning rate)}.

    A request names the policies to step (all of them by default), whether they go `together` or one after
    the other, and how many `steps`. Each policy sees the same rows in the same order.
    """
    from lowregret.data.batches import collate
    from lowregret.engine import AdamParams

    engine = _engine(model)
    for name, (adapter, _) in policies.items():
        _add(engine, name, adapter, folder)
    examples = _examples(folder, rows)
    steps = dict.fromkeys(policies, 0)
    params = {name: AdamParams(rate) for name, (_, rate) in policies.items()}
    channel.ready()
    while (request := channel.wait()) is not None:
        asked: list[str] = request.get("policies", list(policies))
        total: dict[str, Any] = {"seconds": 0.0, "update_seconds": 0.0, "supervised": 0, "tokens": 0, "losses": {}}
        for _ in range(request.get("steps", 1)):
            start = steps[asked[0]] * batch
            chosen = examples[start : start + batch]
            _step(engine, asked, collate(chosen, engine.base.pad_id), params, request.get("together", True), total)
            for name in asked:
                steps[name] += 1
            total["supervised"] += len(asked) * sum(example.supervised_tokens for example in chosen)
            total["tokens"] += len(asked) * sum(len(example.token_ids) - 1 for example in chosen)
        means = {name: sum(values) / len(values) for name, values in total["losses"].items()}
        channel.answer(**{**total, "losses": means, "loss": sum(means.values()) / len(means)})


def _step(
    engine: Engine,
    policies: Sequence[str],
    batch: Any,
    params: Mapping[str, AdamParams],
    together: bool,
    total: dict[str, Any],
) -> None:
    """One optimizer step of each policy, timed into `total`; in the passes that `lowregret train` would take."""
    from lowregret.data.batches import passes
    from lowregret.engine.footprint import max_tokens

    for group in [list(policies)] if together else [[name] for name in policies]:
        limit = max_tokens(engine, group)  # the trainer measures it when policies come, not in a step
        began = clock()
        found = dict.fromkeys(group, 0.0)
        for part in passes(dict.fromkeys(group, batch), limit):
            for name, result in engine.forward_backward(part).items():
                found[name] += float(result.loss)
        passed = clock()
        engine.optim_step({name: params[name] for name in group})
        ended = clock()
        total["seconds"] += ended - began
        total["update_seconds"] += ended - passed
        for name, loss in found.items():
            total["losses"].setdefault(name, []).append(loss)


def sample(channel: Channel, *, model: str, folder: str, policies: Sequence[str]) -> None:
    """Samples greedily, to the last token, from every policy for the same prompts: in one call, or one call each."""
    from lowregret.engine import SamplingParams

    engine = _engine(model)
    for name in policies:
        _add(engine, name, name, folder)
    prompts = read_prompts(folder)
    channel.ready()
    while (request := channel.wait()) is not None:
        params = SamplingParams(max_tokens=request["max_tokens"], temperature=0.0)
        groups = [list(policies)] if request["together"] else [[name] for name in policies]
        began = clock()
        completions = {}
        for group in groups:
            completions.update(engine.sample(dict.fromkeys(group, prompts), params))
        seconds = clock() - began
        ids = [list(completion.token_ids) for name in policies for completion in completions[name]]
        channel.answer(seconds=seconds, tokens=sum(map(len, ids)), ids=ids)


def remember(channel: Channel, *, model: str, folder: str, policies: Sequence[str], adapter: str) -> None:
    """Holds weights, gradients and moments of all policies at once; each has passes of one short row of its own."""
    from lowregret.data.batches import collate
    from lowregret.engine import AdamParams

    engine = _engine(model)
    channel.ready()  # before the policies: the peak that grows is theirs
    parameters = 0
    for name in policies:
        _add(engine, name, adapter, folder)
        parameters = engine.policies[name].trainable_parameters
    first = _examples(folder, ROWS)[0]
    batch = collate([type(first)(first.token_ids[:16], (False, *[True] * 15))], engine.base.pad_id)
    while channel.wait() is not None:
        for name in policies:
            engine.forward_backward({name: batch})
        engine.optim_step(dict.fromkeys(policies, AdamParams(1e-4)))
        channel.answer(parameters=parameters)


def _engine(model: str) -> Engine:
    from lowregret.engine import Engine
    from lowregret.models.load import load_base, resolve

    return Engine(load_base(resolve(model)), device="cpu", precision="float32")


def _add(engine: Engine, name: str, adapter: str, folder: str) -> None:
    from lowregret.export.peft import load_adapter
    from lowregret.spec import FullFT

    if adapter == FULL:
        engine.add_policy(name, FullFT())
    else:
        load_adapter(engine, name, Path(folder) / adapter)


def _examples(folder: str, rows: str) -> list[Example]:
    from lowregret.data.example import Example

    return [
        Example(tuple(row["input_ids"]), tuple(bool(on) for on in row["completion_mask"]))
        for row in read_rows(folder, rows)
    ]

"""Two LoRAs and the base drawn by vLLM, of whose environment this is run, beside the engine. Prints JSON."""

from __future__ import annotations

import json

import torch

from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling.agreement import agreement
from lowregret.engine.sampling.vllm import VllmSampler
from lowregret.export.peft import export_policy
from lowregret.models.load import load_base, resolve
from lowregret.spec import LoRA


def main() -> None:
    engine = Engine(load_base(resolve("tiny")))
    torch.manual_seed(0)
    for name, rank in (("a", 4), ("b", 16)):
        policy = engine.add_policy(name, LoRA(rank=rank, targets=("attention", "mlp")), seed=rank)
        with torch.no_grad():
            for weight in policy.weights.values():
                weight.add_(0.1 * torch.randn_like(weight))
    prompts = {name: [[5, 6, 7 + row] for row in range(4)] for name in ("a", "b", "base")}
    sampler = VllmSampler(engine, export_policy)
    gaps = {}
    greedy = SamplingParams(max_tokens=24, temperature=0.0, seed=0)
    for params in (SamplingParams(max_tokens=24, temperature=0.7, seed=3), greedy):
        found = sampler.sample(prompts, params)
        for name in prompts:
            own = agreement(engine, {name: prompts[name]}, {name: found[name]}, params)
            gaps[f"{name} at {params.temperature:g}"] = own.mean
    again = sampler.sample(prompts, greedy)
    ours = engine.sample(prompts, greedy)
    print(
        json.dumps(
            {
                "gaps": gaps,
                "repeats": again == found,
                "greedy": {
                    name: [row.token_ids == other.token_ids for row, other in zip(found[name], ours[name], strict=True)]
                    for name in prompts
                },
            }
        )
    )


if __name__ == "__main__":
    main()

"""The card of a bundled base: what it was trained on, its loss against the entropy floor, and what it can solve."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowregret.data.builtin.arithmetic import PROMPTS, draw_chain, read_answer
from lowregret.data.builtin.instructions import OPERATIONS, Instruction, draw_instruction
from lowregret.data.builtin.people import ATTRIBUTES, Person
from lowregret.engine import Engine, SamplingParams
from lowregret.runs.atomic import write_bytes, write_json
from lowregret.train.checkpoint import Progress

_ROWS = 250


def complete(engine: Engine, policy: str, prompts: Sequence[str], temperature: float, max_tokens: int) -> list[str]:
    """The assistant's replies to user prompts."""
    tokenizer = engine.base.tokenizer
    end = tokenizer.eos_token_id
    texts = [
        str(tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True))
        for p in prompts
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, stop_ids=(end,), seed=0)
    found = engine.sample({policy: ids}, params)[policy]
    return [str(tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)).strip() for completion in found]


def solve_rates(engine: Engine, policy: str, known: Sequence[Person]) -> dict[str, float]:
    """Share of problems solved at temperature 1: arithmetic by steps, facts about known people, instructions."""
    rates: dict[str, float] = {}
    generator = random.Random("solve rates")
    for steps in (1, 2, 3, 4, 5):
        problems = [draw_chain(generator, steps)[0] for _ in range(_ROWS)]
        prompts = [generator.choice(PROMPTS).format(problem.expression) for problem in problems]
        replies = complete(engine, policy, prompts, 1.0, 16 * (steps + 1))
        right = [read_answer(reply) == problem.answer for reply, problem in zip(replies, problems, strict=True)]
        rates[f"arithmetic, {steps} steps"] = sum(right) / len(right)
    prompts, answers = [], []
    for person in generator.choices(known, k=_ROWS):
        index = generator.randrange(len(ATTRIBUTES))
        prompts.append(generator.choice(ATTRIBUTES[index].questions).format(name=person.name))
        answers.append(f"{person.facts[index]}.")
    replies = complete(engine, policy, prompts, 1.0, 12)
    rates["facts about known people"] = sum(map(str.__eq__, replies, answers)) / len(answers)
    for operation in OPERATIONS:
        instructions: list[Instruction] = []
        while len(instructions) < _ROWS // 5:
            instruction, _ = draw_instruction(generator, 4)
            if instruction.operation == operation:
                instructions.append(instruction)
        prompts = [generator.choice(OPERATIONS[operation]).format(" ".join(i.items)) for i in instructions]
        replies = complete(engine, policy, prompts, 1.0, 24)
        right = [reply == instruction.answer for reply, instruction in zip(replies, instructions, strict=True)]
        rates[f"instructions, {operation}"] = sum(right) / len(right)
    return rates


def write_card(
    folder: Path,
    name: str,
    recipe: str,
    parameters: int,
    documents: int,
    progress: Progress,
    by_kind: Mapping[str, Sequence[tuple[float, float, int]]],
    engine: Engine,
    known: Sequence[Person],
) -> None:
    """README.md and card.json beside the weights; `by_kind`: (loss, floor, tokens) of held-out documents, in nats."""
    rates = solve_rates(engine, "full", known)
    losses = {}
    for kind, rows in sorted(by_kind.items()):
        loss, floor, tokens = (math.fsum(column) / len(rows) for column in zip(*rows, strict=True))
        losses[kind] = {"nats_per_document": loss, "floor": floor, "tokens_per_document": tokens}
    facts = {
        "parameters": parameters,
        "documents": documents,
        "tokens": progress.tokens,
        "minutes": progress.seconds / 60,
        "losses": losses,
        "solve_rates": rates,
    }
    write_json(folder / "card.json", facts)
    table = "\n".join(
        f"| {kind} | {row['nats_per_document']:.3f} | {row['floor']:.3f} | {row['tokens_per_document']:.1f} |"
        for kind, row in losses.items()
    )
    solved = "\n".join(f"| {task} | {100 * rate:.0f} % |" for task, rate in rates.items())
    config = json.loads((folder / "config.json").read_text())
    write_bytes(folder / "README.md", _CARD.format(
        name=name, recipe=recipe, parameters=parameters, documents=documents, tokens=progress.tokens,
        minutes=progress.seconds / 60, table=table, solved=solved, rows=_ROWS, layers=config["num_hidden_layers"],
        hidden=config["hidden_size"], vocabulary=config["vocab_size"], kind=_kind(config), dtype=config["dtype"],
    ).encode())  # fmt: skip


def _kind(config: Mapping[str, object]) -> str:
    experts = config.get("num_local_experts")
    if not experts:
        return "dense Qwen3"
    return f"Qwen3-MoE ({experts} experts in each layer, {config['num_experts_per_tok']} for each token)"


_CARD = """\
---
license: apache-2.0
---
# {name}: a bundled base of lowregret

A {kind} of {parameters:,} parameters ({layers} layers, hidden size {hidden}, vocabulary {vocabulary}, tied
embeddings, {dtype}), pretrained by lowregret's own FullFT loop on text that lowregret generates. It exists so that the
demo and the tests need no download; it knows nothing about the world.

- Made by: `python -m tools.pretrain tools/recipes/{recipe} --out DIR`
- Data: {documents:,} documents, {tokens:,} tokens, one pass; biographies of made-up people in many wordings, questions
  about them, worked one-digit arithmetic with some steps written wrong on purpose, and list instructions, all in chat
  form but the biographies. Each document has its own row.
- Time: {minutes:.0f} minutes on a CPU.
- Numbers below in `card.json`.

## Loss against the entropy floor

Held-out documents. The floor is the entropy of a document's draw given its kind and the known facts; the loss also
holds what the first tokens tell about the kind.

| kind | loss, nats per document | floor | tokens per document |
|---|---|---|---|
{table}

## Solve rates at temperature 1

{rows} problems each (instructions: {rows} over the five tasks).

| task | solved |
|---|---|
{solved}
"""

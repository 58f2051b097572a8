"""A model card for the hub: README.md, written from records and read back by huggingface_hub's own classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lowregret.environment import PACKAGES
from lowregret.errors import RecordsError
from lowregret.export.card_facts import CardFacts, public_data, public_task
from lowregret.export.hub_base import CARD
from lowregret.foreign import boundary
from lowregret.foreign_text import last_part, markdown, shown, without_paths
from lowregret.runs.atomic import write_bytes
from lowregret.runs.commands import Command
from lowregret.runs.files import VERDICT
from lowregret.spec import FullFT, LoRA

_LIBRARIES = {"peft": "peft", "merged": "transformers", "gguf": "gguf", "gguf-lora": "gguf", "ollama": "gguf"}
_ADAPTERS = ("peft", "gguf-lora")
_TASK = "text-generation"
_TO_FILL = "**To be filled in.**"


def write_card(folder: Path, facts: CardFacts, use: Sequence[Command] = ()) -> Path:
    """Write README.md beside what is shipped, and return its path; `use` are the commands that it shows.

    What huggingface_hub reads out of the file must be what was meant; else, and when it names a place of this machine,
    RecordsError.
    """
    data: Any = card_data(facts)
    content = f"---\n{data.to_yaml()}\n---\n\n{_body(facts, use, (folder / VERDICT).is_file())}"
    file = folder / CARD
    with boundary(RecordsError, file, "cannot be read back by huggingface_hub", "Report it, with the command."):
        read: Any = ModelCard(content)
    if read.data.to_dict() != data.to_dict():
        raise RecordsError(f"{file}: huggingface_hub reads other metadata out of it than were written. Report it.")
    if (place := next((place for place in facts.places if "/" in place and place in content), None)) is not None:
        raise RecordsError(f"{file}: would name {place}, a place of this machine. Report it, with the command.")
    write_bytes(file, content.encode())
    return file


def card_data(facts: CardFacts) -> ModelCardData:
    """The card's metadata (hf.co/docs/hub/model-cards, "Model card metadata")."""
    adapter = facts.form in _ADAPTERS
    relation = "adapter" if adapter else "merge" if facts.adapters > 1 else "finetune"
    licence = facts.licence
    method = None if facts.trial is None else facts.trial.spec.method
    tags = ["lowregret", "full-fine-tuning" if isinstance(method, FullFT) else "lora", *_objective(facts)]
    extra: dict[str, Any] = {"base_model_relation": relation} if facts.base else {}
    if licence is not None:
        extra |= {"license": licence.names[0] if len(licence.names) == 1 else list(licence.names)}
        extra |= {"license_name": licence.title, "license_link": licence.link}
    return ModelCardData(
        base_model=facts.base,
        library_name=_LIBRARIES[facts.form],
        pipeline_tag=_TASK,
        datasets=list(_hub_datasets(facts)) or None,
        tags=tags,
        model_name=facts.name,
        eval_results=_results(facts) or None,
        **extra,
    )


def _objective(facts: CardFacts) -> list[str]:
    kind = (facts.asked.get("objective") or {}).get("kind")
    return [str(kind)] if kind in ("sft", "rl") else []


def _sources(facts: CardFacts) -> dict[str, str]:
    """`train` and `eval` → the source, of those that were named."""
    data = facts.asked.get("data") or {}
    return {part: str(data[part]) for part in ("train", "eval") if data.get(part)}


def _hub_datasets(facts: CardFacts) -> Iterator[str]:
    yield from dict.fromkeys(found.hub for found in map(public_data, _sources(facts).values()) if found.hub)


def _results(facts: CardFacts) -> list[EvalResult]:
    """The held-out loss or reward, for the hub's model-index."""
    trial, sources = facts.trial, _sources(facts)
    if trial is None or not sources:
        return []
    source = public_data(sources.get("eval") or sources["train"])
    rewarded = trial.test_reward is not None
    value = trial.test_reward if rewarded else trial.test_nll
    if value is None or not math.isfinite(value):
        return []
    metric = "held-out reward" if rewarded else "held-out loss, nats per supervised token"
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=source.hub or "other",
            dataset_name=shown(" ".join(source.label.split())),
            metric_type="reward" if rewarded else "loss",
            metric_name=metric,
            metric_value=value,
        )
    ]


def _body(facts: CardFacts, use: Sequence[Command], verdict_beside: bool) -> str:
    sections = {
        "Training": _table(_training(facts)),
        "Result": _result(facts, verdict_beside),
        "Proof": _proof(facts),
        "Use": _use(use),
        "Intended use": f"{_TO_FILL} What it is meant for, in which languages, and for whom.",
        "Limits": f"{_TO_FILL} Where it fails, what it was not tried on, what its data lack.",
        "Licence": "" if facts.licence else f"{_TO_FILL} The base states no licence that could be read here.",
        "Made with": _table(_environment(facts)),
    }
    text = "".join(f"\n## {title}\n\n{said}\n" for title, said in sections.items() if said)
    return f"# {markdown(facts.name)}\n\n{_what(facts)}\n{text}"


def _what(facts: CardFacts) -> str:
    base = markdown(facts.base or facts.base_label)
    whole = isinstance(facts.trial.spec.method, FullFT) if facts.trial is not None else False
    if facts.form in _ADAPTERS:
        said = f"A LoRA adapter for {base}."
    elif whole:
        said = f"{base} after full fine-tuning."
    elif facts.adapters > 1:
        said = f"{base} with {facts.adapters} LoRA adapters merged into its weights."
    else:
        said = f"{base} with a LoRA adapter merged into its weights."
    if facts.base is None:
        said += f" {_TO_FILL} The base is not known by a name on the hub: set `base_model` above."
    return said


def _training(facts: CardFacts) -> dict[str, Any]:
    trial, asked = facts.trial, facts.asked
    rows: dict[str, Any] = {"Base": facts.base or facts.base_label}
    if facts.manifest is not None:
        rows["Base's files, SHA-256"] = _digests(facts.manifest.base)
    if trial is None:
        return rows | dict(facts.method)
    method = trial.spec.method
    rows["Method"] = method.name
    if isinstance(method, LoRA):
        rows |= {"Rank": method.rank, "Alpha": method.alpha, "Targets": ", ".join(method.targets)}
    optimizer = asked.get("optimizer") or {}
    rows |= {
        "Objective": _objective_words(asked),
        "Learning rate": trial.learning_rate,
        "Schedule": _schedule(optimizer),
        "Optimizer": optimizer.get("kind") or ("adamw" if optimizer else None),
        "Batch size": asked.get("batch_size"),
        "Steps": trial.steps,
        "Tokens": trial.tokens,
        "Seed": trial.seed,
        "Seeds with this method and rate": facts.seeds,
    }
    for part, source in _sources(facts).items():
        rows[{"train": "Training data", "eval": "Held-out data"}[part]] = public_data(source).label
    if facts.manifest is not None:
        rows["Training data as tokens, SHA-256"] = facts.manifest.train
        rows["Held-out data as tokens, SHA-256"] = facts.manifest.test
        rows["Reward, SHA-256"] = _digests(facts.manifest.reward)
    return rows


def _objective_words(asked: Mapping[str, Any]) -> str | None:
    objective = asked.get("objective") or {}
    task = objective.get("task")
    return f"{objective.get('kind')}, {public_task(str(task))}" if task else objective.get("kind")


def _schedule(optimizer: Mapping[str, Any]) -> str | None:
    schedule, warmup = optimizer.get("schedule"), optimizer.get("warmup_steps")
    return f"{schedule}, {warmup} steps of warm-up" if schedule and warmup else schedule


def _digests(files: Mapping[str, str]) -> str:
    return ", ".join(f"{last_part(name)} {digest}" for name, digest in files.items())


def _result(facts: CardFacts, verdict_beside: bool) -> str:
    trial, verdict = facts.trial, facts.verdict
    said = []
    if trial is not None and trial.test_reward is not None:
        said.append(f"Held-out reward: {trial.test_reward:.4g}, of {trial.test_examples:,} problems.")
    elif trial is not None and trial.test_nll is not None:
        said.append(
            f"Held-out loss: {trial.test_nll:.4g} nats per supervised token, of {trial.test_examples:,} examples with "
            f"{trial.test_tokens:,} such tokens."
        )
    if verdict is not None:
        if verdict.reasons:
            said.append(markdown(without_paths(verdict.reasons[0], facts.places)))
        if verdict_beside:
            said.append(f"[{VERDICT}]({VERDICT}) has the interval's parts, the rates that were tried and the rules.")
    return "\n\n".join(said)


def _proof(facts: CardFacts) -> str:
    proof = facts.proof
    if proof is None:
        return ""
    loss = proof.held_out
    rows = {
        "Written as": f"{proof.form}, {proof.precision}",
        "Read by": proof.reader,
        "Held against": proof.reference,
        "Compared": f"{proof.compared} at {proof.positions:,} positions of {proof.texts:,} texts",
        "Largest difference": proof.largest_difference,
        "Mean difference": proof.mean_difference,
        "Same most probable token": proof.top_token_agrees,
        "Same token ids": None if proof.same_token_ids is None else ("yes" if proof.same_token_ids else "no"),
        "Same greedy tokens": None
        if proof.greedy_tokens is None
        else f"{proof.same_greedy_tokens} of {proof.greedy_tokens}",
        "Held-out loss, trained and shipped": None
        if loss is None
        else f"{loss.trained:.6g} and {loss.shipped:.6g} nats",
        "Held-out loss over the quantised base, as trained": None
        if loss is None or loss.quantised is None
        else f"{loss.quantised:.6g} nats; the others are over the base as it is",
        "Share of the updates that rounding removed": proof.updates_lost,
        "Bound": proof.bound,
        "Holds": "yes" if proof.holds else "no",
        "Note": proof.note,
    }
    said = "A program that had no part in writing the files loaded them, and was held against what was trained."
    return f"{said}\n\n{_table(without_paths(rows, facts.places))}"


def _use(found: Sequence[Command]) -> str:
    blocks = []
    for command in found:
        fence = "`" * max(3, 1 + max((len(run) for run in _ticks(command.text)), default=0))
        language = "bash" if command.language == "shell" else "python"
        note = f"{markdown(command.note)}\n\n" if command.note else ""
        blocks.append(f"### {markdown(command.title)}\n\n{note}{fence}{language}\n{command.text}\n{fence}")
    return "\n\n".join(blocks)


def _ticks(text: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]


def _environment(facts: CardFacts) -> dict[str, Any]:
    return {name: facts.environment.get(name) for name in ("lowregret", "python", *PACKAGES, "commit")}


def _table(rows: Mapping[str, Any]) -> str:
    told = {name: value for name, value in rows.items() if value not in (None, "")}
    if not told:
        return ""
    lines = "".join(f"| {markdown(name)} | {markdown(_spelled(value))} |\n" for name, value in told.items())
    return f"| | |\n|---|---|\n{lines}".rstrip("\n")


def _spelled(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

"""The plan as a page: on a terminal, and as Markdown. Torch-free.

Both are made from the same lines: a head, a table that sets LoRA beside full fine-tuning with the source of every
number, and sections of sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowregret.foreign_text import markdown as escaped
from lowregret.foreign_text import shown
from lowregret.plan.advice.capacity import Information
from lowregret.plan.advice.choice import Advice
from lowregret.plan.formatting import describe, money, rate, share
from lowregret.plan.next_steps import next_steps
from lowregret.plan.plan import MethodPlan, Plan
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.shapes.adapters import adapter_bytes
from lowregret.quantities import bits, byte_count, count, duration
from lowregret.spec import FullFT, LoRA

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_BETWEEN = 2
"""Columns between those of the table."""
_LEAST_SOURCE = 14
"""Columns in which a source can be read."""
_FOOT = "SCIENCE n: section n of docs/science.md. GB: 10⁹ bytes."


@dataclass(frozen=True)
class TableRow:
    """One line of the table."""

    label: str
    lora: str
    full: str
    source: str


def head(plan: Plan) -> list[tuple[str, str]]:
    """(what, facts) of the model, the data and the run."""
    shapes, facts = plan.shapes, plan.facts
    active = f", {count(shapes.active)} active" if shapes.active != shapes.total else ""
    experts = f", {shapes.experts} experts of which {shapes.active_experts} are chosen" if shapes.experts else ""
    found = [
        (
            "model",
            f"{shapes.name}: {count(shapes.total)} parameters{active}, {shapes.layers} layers × {shapes.hidden_size:,}"
            f"{experts} ({shapes.family})",
        )
    ]
    if facts is None:
        rows = _rows_of(plan, "up to ") or f"up to {plan.length:,} tokens"
        found.append(("data", f"none given: {plan.steps:,} steps of {rows} are assumed"))
    else:
        tokens = f"{count(facts.supervised_tokens)} supervised of {count(facts.tokens)} tokens"
        said = f"{facts.source}: {facts.examples:,} examples, {_rows_of(plan, 'about ') or tokens} ({facts.how})"
        found.append(("data", f"{said}; {facts.held_out:,} held out"))
    if facts is not None and facts.notes:
        found.append(("files", "; ".join(facts.notes)))
    found.append(("capacity", capacity_line(plan)))
    return found


def _rows_of(plan: Plan, so: str) -> str:
    """What a row of RL is; empty for rows that are trained on as they stand."""
    if plan.request.objective != "rl":
        return ""
    completion = plan.request.max_tokens
    return f"prompts of {so}{plan.length - completion:,} tokens and completions of up to {completion:,}"


def capacity_line(plan: Plan) -> str:
    """Bits of the data against bits of the adapter."""
    information, capacity = plan.information, plan.capacity
    rank = plan.lora.method.rank if isinstance(plan.lora.method, LoRA) else 0
    low, high = (value for value in capacity["lora_bits_teach"])
    held = f"rank {rank} holds {bits(low)} to {bits(high)} of new facts"
    if information is None:
        return f"{held} (0.7 to 2.2 bit a parameter, SCIENCE 5)"
    binding = capacity["rank_needed"]
    stops = "no rank is enough" if binding is None else f"it stops binding at rank {binding}"
    most = "" if information.unit in ("facts", "edl") else "at most "
    regime = {"teach": "; training teaches", "elicit": "; training elicits"}.get(information.regime, "")
    learnt = f"{most}{bits(information.to_hold)} to learn ({_source(information)}){regime}"
    expected = plan.expected
    if expected is None:
        return f"{learnt}; {held}; {stops}"
    return f"{learnt}; rank {rank} has {expected.bits_per_parameter:.2g} bit a parameter; {stops}"


def _source(information: Information) -> str:
    return "facts made up for it" if information.unit == "facts" else information.source


def answer(plan: Plan) -> str:
    """The advice in one sentence."""
    choice = plan.advice.choice
    length = f"{choice.epochs:g} epoch{'' if choice.epochs == 1 else 's'}, " if choice.epochs else ""
    method = "the whole base" if isinstance(choice.method, FullFT) else f"a {describe(choice.method)}"
    return (
        f"Train {method} at learning rate {rate(plan.advice.learning_rate)}, batch {choice.batch_size}, {length}"
        f"{choice.steps:,} steps."
    )


def asked_otherwise(plan: Plan) -> str:
    """Which method the table is for, when it is not the advised one; else empty."""
    method = plan.request.method
    if method is None or method == plan.advice.choice.method:
        return ""
    return f"You asked for {describe(method)}: the table below is for that."


def rows(plan: Plan) -> Iterator[TableRow]:
    """LoRA beside FullFT, line by line."""
    lora, full = plan.lora, plan.full

    def both(label: str, source: str, of: Callable[[MethodPlan], str]) -> TableRow:
        return TableRow(label, of(lora), of(full), source)

    yield both("learning rate", "a sweep, and terms", lambda side: rate(side.rate.value))
    yield both("  likely in", "9 of 10 bases", lambda side: f"{rate(side.rate.low)} – {rate(side.rate.high)}")
    if plan.expected is not None:
        source = "if it teaches facts" if plan.expected.regime == "unknown" else "of what is learned"
        yield TableRow("expected regret", plan.expected.short(), "0", source)
    trained = "d_in + d_out a rank"
    yield both("trains", trained, lambda side: f"{count(side.trainable)} ({share(side.trainable / plan.shapes.total)})")
    narrow = full.shipped_bytes < adapter_bytes(full.trainable)
    yield both("on disk", "as it trains" if narrow else "float32", lambda side: byte_count(side.shipped_bytes))
    at_once = f"{lora.micro_batch} / {full.micro_batch} rows of {plan.length:,}"
    yield both("memory", at_once, lambda side: byte_count(side.memory.total))
    yield both("  weights", "base and adapter", lambda side: byte_count(side.memory.weights))
    state = "gradients, moments"
    yield both("  state", state, lambda side: byte_count(side.memory.gradients + side.memory.optimizer))
    passing = "logits too"
    yield both("  activations", passing, lambda side: byte_count(side.memory.activations + side.memory.logits))
    yield both("least device", "for one row", lambda side: side.smallest or "none")
    yield both("FLOPs a token", _ratio(plan), lambda side: count(side.flops_per_token))
    if plan.hardware is not None:
        yield from _on_hardware(plan, plan.hardware, both)


def _on_hardware(
    plan: Plan, hardware: Hardware, both: Callable[[str, str, Callable[[MethodPlan], str]], TableRow]
) -> Iterator[TableRow]:
    assumed = "assumed" if plan.hardware_assumed else byte_count(hardware.memory_bytes)
    yield both(f"on {_devices(plan)}{hardware.name}", assumed, _fit)
    if (lean := plan.full.lean) is not None:
        again = ", --checkpoint-activations" if lean.checkpoint_activations else ""
        yield TableRow("  fits", "", lean.method.name, f"rows to {lean.longest:,}{again}")
    if plan.request.devices > 1:
        yield both("  placed", "Devices, below", _placed)
        yield both("  sent", "by each in a step", lambda side: byte_count(side.sent_bytes))
        yield both("  waiting", "of a step", lambda side: share(side.waiting_share))
    use = "measured here" if hardware.kind == "cpu" else f"{100 * hardware.utilisation:.0f} % of peak"
    left_out = "no sampling; " if plan.request.objective == "rl" else ""
    yield both("  time", left_out + use, lambda side: _if_it_fits(side, duration, side.seconds))
    if plan.lora.money is not None:
        source = "--price" if plan.price_given else "a list price"
        yield both("  money", source, lambda side: _if_it_fits(side, money, side.money))


def _devices(plan: Plan) -> str:
    """`8 × ` before a device's name; nothing for one."""
    return f"{plan.request.devices} × " if plan.request.devices > 1 else ""


def _device(plan: Plan) -> str:
    return "none is enough" if plan.hardware is None else f"{_devices(plan)}{plan.hardware.name}"


def _placed(side: MethodPlan) -> str:
    """How a method uses the devices; the mesh where it says more."""
    placement = side.placement
    return f"{placement.kind}, {placement.mesh}" if placement.mesh.in_parts else placement.kind


def _if_it_fits(side: MethodPlan, words: Callable[[float], str], value: float | None) -> str:
    if value is None:
        return ""
    return words(value) if side.fits is not False else f"{words(value)} if it fits"


def _fit(side: MethodPlan) -> str:
    if not side.fits:
        said = "see Beware" if side.remedy.count("--") > 1 else side.remedy
        return f"no; {said}" if said else "does not fit"
    return f"fits, {side.micro_batch} row{'s' if side.micro_batch > 1 else ''}"


def _ratio(plan: Plan) -> str:
    return f"LoRA {plan.lora.flops_per_token / plan.full.flops_per_token:.2f}× (SCIENCE 3.9)"


def sections(plan: Plan) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(title, style, sentences)."""
    advice: Advice = plan.advice
    yield "Why", "", advice.choice.reasons
    if plan.request.devices > 1:
        yield "Devices", "", [side.placed for side in (plan.lora, plan.full)]
    wide = [side for side in (plan.lora, plan.full) if side.remedy.count("--") > 1]
    told = [f"{side.label} would fit with {side.remedy}." for side in wide]
    yield "Beware", "yellow", [*advice.warnings, *told]
    yield "Problems in the data", "red", plan.facts.problems if plan.facts is not None else ()
    yield "What would change this", "", advice.choice.would_change
    parts = [f"{part.about.capitalize()}: {part.said}" for part in plan.trust.parts]
    yield "How far to trust it", "", [*parts, f"What would tell most: {plan.trust.pilot.said}"]


# --- terminal -------------------------------------------------------------------------------------------------------


def page(plan: Plan) -> RenderableType:
    """For a terminal: about one screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    top = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    top.add_column(style="dim", no_wrap=True)
    top.add_column()
    for label, facts in head(plan):
        top.add_row(label, Text(facts))
    parts += [top, Text(), Text(answer(plan), style="bold green")]
    choice = plan.advice.choice
    parts.append(Text(f"Confidence {choice.confidence}: {choice.confidence_reason}."))
    if asked_otherwise(plan):
        parts.append(Text(asked_otherwise(plan), style="yellow"))
    parts += [Text(), _Beside(plan)]
    for title, style, sentences in sections(plan):
        if sentences:
            parts += [Text(), Text(title, style=f"bold {style}".strip())]
            parts.append(_bullets(sentences))
    steps = next_steps(plan)
    parts += [Text(), Text("Next", style="bold"), *(Text(f"  {step}") for step in steps)] if steps else []
    parts += [Text(), Text(_FOOT, style="dim")]
    return Group(*parts)


@dataclass(frozen=True)
class _Beside:
    """The table; without its sources where they would be a few letters wide."""

    plan: Plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        plan, lines = self.plan, list(rows(self.plan))
        heads = ("", plan.lora.label, plan.full.label)
        columns = zip(heads, *((row.label, row.lora, row.full) for row in lines), strict=True)
        taken = sum(max(map(len, column)) + _BETWEEN for column in columns)
        sources = options.max_width - taken >= _LEAST_SOURCE
        full_asked = isinstance(plan.asked.method, FullFT)
        table = Table(box=None, padding=(0, _BETWEEN, 0, 0), pad_edge=False)
        for title, asked in zip(heads, (False, not full_asked, full_asked), strict=True):
            table.add_column(title, style="bold" if asked else "", no_wrap=True)
        if sources:
            table.add_column("from", style="dim", header_style="dim")
        for row in lines:
            table.add_row(row.label, row.lora, row.full, *([Text(row.source)] if sources else []))
        yield table


def _bullets(sentences: Sequence[str]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    for sentence in sentences:
        table.add_row(" •", Text(sentence))
    return table


def models_page(plans: Sequence[Plan]) -> RenderableType:
    """Several models side by side, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True, style="dim")
    for plan in plans:
        table.add_column(Text(plan.shapes.name.rpartition("/")[2]), header_style="bold")
    for label, *values in model_rows(plans):
        table.add_row(label, *(Text(value) for value in values))
    return table


# --- Markdown -------------------------------------------------------------------------------------------------------


def markdown(plan: Plan) -> str:
    """The same as a document."""
    choice = plan.advice.choice
    lines = [f"# Plan: {escaped(plan.shapes.name)}", "", f"**{escaped(answer(plan))}**", ""]
    lines += [escaped(f"Confidence {choice.confidence}: {choice.confidence_reason}."), ""]
    lines += [escaped(asked_otherwise(plan)), ""] if asked_otherwise(plan) else []
    lines += [f"- {escaped(f'{label}: {facts}')}" for label, facts in head(plan)]
    lines += ["", _cells("", plan.lora.label, plan.full.label, "from"), "|---|---|---|---|"]
    lines += [_cells(row.label.strip(), row.lora, row.full, row.source) for row in rows(plan)]
    for title, _, sentences in sections(plan):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {escaped(sentence)}" for sentence in sentences)]
    steps = next_steps(plan)
    lines += ["", "## Next", "", *_fenced(steps)] if steps else []
    return "\n".join([*lines, "", escaped(_FOOT)])


def models_markdown(plans: Sequence[Plan]) -> str:
    """Several models side by side, as a Markdown table."""
    names = (plan.shapes.name.rpartition("/")[2] for plan in plans)
    lines = [_cells("", *names), "|" + "---|" * (len(plans) + 1)]
    return "\n".join([*lines, *(_cells(*row) for row in model_rows(plans))])


def _cells(*values: str) -> str:
    return "| " + " | ".join(map(escaped, values)) + " |"


def _fenced(lines: Sequence[str]) -> list[str]:
    """Code as it is, between fences longer than any that it has."""
    fence = "`" * max(3, 1 + max((len(found) for line in lines for found in re.findall("`+", line)), default=0))
    return [fence, *map(shown, lines), fence]


def model_rows(plans: Sequence[Plan]) -> Iterator[tuple[str, ...]]:
    """A label, and a value of each model."""

    def row(label: str, of: Callable[[Plan], str]) -> tuple[str, ...]:
        return (label, *(of(plan) for plan in plans))

    yield row("parameters", lambda plan: count(plan.shapes.total))
    if any(plan.shapes.experts for plan in plans):
        yield row("active", lambda plan: count(plan.shapes.active))
    yield row("advice", lambda plan: plan.advice.method)
    yield row("confidence", lambda plan: plan.advice.choice.confidence)
    yield row("learning rate", lambda plan: rate(plan.asked.rate.value))
    yield row("likely in", lambda plan: f"{rate(plan.asked.rate.low)} – {rate(plan.asked.rate.high)}")
    yield row("trains", lambda plan: count(plan.asked.trainable))
    yield row("ships", lambda plan: byte_count(plan.asked.shipped_bytes))
    yield row("memory, LoRA", lambda plan: byte_count(plan.lora.memory.total))
    yield row("memory, FullFT", lambda plan: byte_count(plan.full.memory.total))
    yield row("FLOPs a token", lambda plan: count(plan.asked.flops_per_token))
    yield row(
        "device", lambda plan: _devices(plan) + plan.hardware.name if plan.hardware is not None else "none is enough"
    )
    yield row("  time", lambda plan: _if_it_fits(plan.asked, duration, plan.asked.seconds))
    yield row("  money", lambda plan: _if_it_fits(plan.asked, money, plan.asked.money))
    yield row("warnings", lambda plan: str(len(plan.advice.warnings)))

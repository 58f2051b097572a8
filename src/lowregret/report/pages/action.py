"""What to do about a verdict: how the winner is served and shipped, or what would settle it, with its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowregret.analysis.settle import settling_command
from lowregret.quantities import duration
from lowregret.report.pages.use import kept
from lowregret.report.reading import StudyRecords
from lowregret.runs.commands import OWN, Command
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA
from lowregret.runs.verdict import SettlingOption

NO_WEIGHTS = "The run has kept no weights: train with these choices, and its page will say how to serve and ship them."
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Step:
    """A command, and what it does."""

    title: str
    command: str


def otherwise(study: StudyRecords) -> str:
    """What to know where there is no step: of an open verdict the reason that says what stands in the way."""
    if study.verdict.verdict != "inconclusive":
        return NO_WEIGHTS
    return next(iter(study.verdict.reasons[1:]), "No command would settle it: the reasons are below.")


def steps(study: StudyRecords) -> list[Step]:
    """What to type next, most useful first; none where no weights are kept or nothing affordable would settle it."""
    if study.verdict.verdict == "inconclusive":
        if not study.command.startswith(f"{OWN} "):
            return []
        folder = str(study.folder)
        return [
            Step(f"{more(study, option).capitalize()}:", settling_command(study.command, folder, option))
            for option in settling(study)
        ]
    advice = study.verdict.recommendation
    if advice is None:
        return []
    home = study.folder / BEST / (BEST_FULL if advice.rank is None else BEST_LORA)
    found = kept(study.folder, study.spec.model, study.spec.batch_size).get(home, [])
    return [Step(command.title, command.text) for command in _serving(found)]


def _serving(found: Sequence[Command]) -> list[Command]:
    """The first that serves, and those that ship."""
    serve = [command for command in found if command.does.startswith("serve")][:1]
    return [*serve, *(command for command in found if command.program == OWN)]


def settling(study: StudyRecords) -> list[SettlingOption]:
    """What would settle an open verdict, the fastest first: what was computed with it; or, where one seed has told
    nothing of the noise to compute with, as many seeds as the reasons ask for."""
    verdict = study.verdict
    found = [] if verdict.settling is None else list(verdict.settling.options)
    pair = [result for result in (verdict.lora, verdict.full) if result is not None]
    if not found and len(pair) == 2 and all(result.bracketed for result in pair) and min(r.seeds for r in pair) == 1:
        seeds = max(3, study.spec.seeds + 1)
        seconds = sum((seeds - result.seeds) * result.seconds for result in verdict.methods)
        found = [SettlingOption(seeds=seeds, seconds=seconds or None)]
    return sorted(found, key=lambda option: (option.seconds is None, option.seconds or 0.0))


def more(study: StudyRecords, option: SettlingOption) -> str:
    """What an option asks for beyond what there is: `four more seeds, about 20 min`."""
    interval, said = study.verdict.interval, []
    if option.seeds is not None:
        said.append(_counted(option.seeds - (1 if interval is None else interval.seeds), "seed"))
    if option.examples is not None:
        kind = "problem" if study.rewarded else "example"
        said.append(_counted(option.examples - (0 if interval is None else interval.examples), f"held-out {kind}"))
    time = "" if option.seconds is None else f", about {duration(option.seconds)}"
    return f"{' and '.join(said)}{time}"


def _counted(count: int, noun: str) -> str:
    number = _NUMBERS[count] if 0 <= count < len(_NUMBERS) else f"{count:,}"
    return f"{number} more {noun}{'' if count == 1 else 's'}"

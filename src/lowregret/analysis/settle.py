"""What more would settle an open verdict: seeds or held-out examples, their time, and the command. Torch-free."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

from lowregret.analysis.comparison import Measured
from lowregret.analysis.interval import Interval
from lowregret.analysis.numbers import Scale
from lowregret.quantities import duration
from lowregret.runs.verdict import Settling, SettlingOption
from lowregret.spec import FullFT

_MOST_SEEDS = 32
_OF_PILOTS, _UNTIL_DECIDED = ("--budget", "--bank"), "--until-decided"
_CLOSE = 0.2
"""A tolerance nearer to the regret than this share of the half width is too near for any advice."""
_MOST_EXAMPLES = 1000
"""No advice to run with more seeds than this, or with so many times the held-out examples."""


def settle(
    interval: Interval, tolerance: float, measured: Sequence[Measured], held_out: int | None, *, can_grow: bool = True
) -> Settling:
    """What would separate the interval from the tolerance if the regret stayed where it is.

    The example variance goes as 1/examples and the seed variance as 1/seeds, with their degrees of freedom
    (`Interval.resized`). The fewest seeds at the examples that there are, and the fewest examples at these seeds; where
    neither alone is enough, the pair with the least product. Times are those of the trials that there are.

    Args:
        interval: of the regret, from two seeds and two examples or more.
        tolerance: in its unit.
        measured: the methods of the study: each takes further seeds at its best rate.
        held_out: examples that the data hold out; None when that is not known, and then no number is too large.
        can_grow: whether a folder can take more held-out examples.
    """
    gap = abs(tolerance - interval.value)
    most = interval.examples if not can_grow else _MOST_EXAMPLES * interval.examples if held_out is None else held_out
    examples = _fewest_examples(interval, gap, interval.seeds)
    seeds = next((n for n in _more_seeds(interval) if _narrow(interval, interval.examples, n, gap)), None)
    options = []
    if examples is not None and examples <= most:
        options.append(_option(interval, measured, examples, interval.seeds))
    if seeds is not None:
        options.append(_option(interval, measured, interval.examples, seeds))
    if not options:
        pairs = ((_fewest_examples(interval, gap, n), n) for n in _more_seeds(interval))
        both = [(fewest, n) for fewest, n in pairs if fewest is not None and fewest <= most]
        if both:  # the pair with the least examples times seeds
            options.append(_option(interval, measured, *min(both, key=lambda pair: pair[0] * pair[1])))
    beyond = examples if examples is not None and examples > most else None
    stuck = not options and beyond is None
    return Settling(
        options=tuple(options),
        examples_beyond=beyond,
        rates_in_the_way=stuck and _rates_in_the_way(interval, gap),
    )


def sentence(settling: Settling, interval: Interval, scale: Scale) -> str:
    """What would settle it, for a person."""
    said = [_words(option, interval, scale) for option in settling.options]
    beyond = settling.examples_beyond
    elsewhere = "" if beyond is None else f"about {beyond:,} held-out {scale.example}s"
    if not said and not elsewhere:
        if settling.rates_in_the_way:
            return (
                "No number of seeds would settle it: where the best rates lie between those tried is not known well "
                "enough. List rates closer to the best ones with --learning-rates, in a new folder."
            )
        return (
            f"The regret lies so close to the tolerance that no affordable number of {scale.example}s or seeds would "
            "separate them: treat the methods as equal up to the tolerance, or set another --tolerance."
        )
    if not said:
        return (
            f"If the regret stays where it is, {elsewhere} (now {interval.examples:,}) would settle it, which is more "
            "than this folder can take: give more held-out data, in a new folder."
        )
    more = f" So would {elsewhere}, with more held-out data in a new folder." if elsewhere else ""
    return (
        f"If the regret stays where it is, {', or '.join(said)} would settle it: run the same command with that in the "
        f"same folder.{more}"
    )


def _rates_in_the_way(interval: Interval, gap: float) -> bool:
    """Whether most of the noise that is left with all seeds is that of reading bottoms between rates.

    Where the gap is small beside the interval the regret is simply close to the tolerance.
    """
    return gap >= _CLOSE * interval.half_width and interval.resized(interval.examples, _MOST_SEEDS).rate_share > 0.5


def settling_command(command: str, folder: str, option: SettlingOption) -> str:
    """The command that made a folder, asking for what the option asks for."""
    wanted = {"--out": folder}
    wanted |= {} if option.seeds is None else {"--seeds": str(option.seeds)}
    wanted |= {} if option.examples is None else {"--max-eval": str(option.examples)}
    return shlex.join(
        [*_without(shlex.split(command), list(wanted)), *(part for pair in wanted.items() for part in pair)]
    )


def comparing_command(command: str, *, decided: bool | None = None) -> str:
    """The command that makes the comparison of which this one may have trained the pilots alone.

    `decided` says whether it stopped when it was decided; None leaves that as the command has it.
    """
    if command.startswith("lowregret.forecast"):
        return "lowregret.compare(...)"
    try:
        asked = shlex.split(command) if command.startswith("lowregret ") else []
    except ValueError:  # no command of ours
        asked = []
    words = ["lowregret", "compare", *_without(asked[2:], _OF_PILOTS)] if asked[1:2] == ["forecast"] else asked
    there = _UNTIL_DECIDED in words
    if words and decided is not None and decided != there:
        words = [*words, _UNTIL_DECIDED] if decided else [word for word in words if word != _UNTIL_DECIDED]
    return command if words == asked else shlex.join(words)


def _without(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command's words without these flags and their values."""
    kept: list[str] = []
    left = iter(words)
    for word in left:
        name, _, value = word.partition("=")
        if name not in names:
            kept.append(word)
        elif not value:
            next(left, None)
    return kept


def _words(option: SettlingOption, interval: Interval, scale: Scale) -> str:
    parts = []
    time = "" if option.seconds is None else f", about {duration(option.seconds)}"
    if option.examples is not None:
        more = option.examples - interval.examples
        after = "" if option.seeds is not None else time
        parts.append(f"{more:,} more held-out {scale.example}s (--max-eval {option.examples}{after})")
    if option.seeds is not None:
        more = option.seeds - interval.seeds
        parts.append(f"{more} more seed{'s' if more > 1 else ''} (--seeds {option.seeds}{time})")
    return " together with ".join(parts)


def _option(interval: Interval, measured: Sequence[Measured], examples: int, seeds: int) -> SettlingOption:
    return SettlingOption(
        seeds=seeds if seeds > interval.seeds else None,
        examples=examples if examples > interval.examples else None,
        seconds=_seconds(measured, examples / interval.examples, seeds - interval.seeds),
    )


def _seconds(measured: Sequence[Measured], growth: float, more_seeds: int) -> float | None:
    """The time of more seeds, and of judging the trials at the best rates by `growth` times the examples.

    A LoRA trial has kept its weights, and of FullFT one has: they are evaluated. The other FullFT trials are trained
    again. None when a trial's evaluation was not timed.
    """
    total = 0.0
    for side in measured:
        trials = list(side.finished.values())
        if not trials:
            continue
        evaluation = statistics.median(record.evaluation_seconds for record in trials)
        if growth > 1 and not evaluation:
            return None
        # The share of a packed trial is what it takes beside others, as further seeds do.
        trial = statistics.median(record.seconds for record in trials) + (growth - 1) * evaluation
        again = len(trials) - 1 if isinstance(side.method, FullFT) else 0
        total += more_seeds * trial
        total += (len(trials) - again) * growth * evaluation + again * trial if growth > 1 else 0.0
    return total


def _more_seeds(interval: Interval) -> range:
    return range(interval.seeds + 1, _MOST_SEEDS + 1)


def _narrow(interval: Interval, examples: int, seeds: int, gap: float) -> bool:
    return interval.resized(examples, seeds).half_width < gap


def _fewest_examples(interval: Interval, gap: float, seeds: int) -> int | None:
    low, high = interval.examples, _MOST_EXAMPLES * interval.examples
    if not _narrow(interval, high, seeds, gap):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _narrow(interval, middle, seeds, gap) else (middle, high)
    return high

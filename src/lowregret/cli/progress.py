"""What a user sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lowregret.analysis.numbers import nats
from lowregret.foreign_text import shown
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import TrialSpec

_ROWS = 18
_OTHER_LINES = 6
"""Header, earlier trials, trials in training that have no line, and what they do now on up to three lines."""


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Words wrapped on a terminal; elsewhere, lines as they are."""
    console = CleanConsole(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
    console.soft_wrap = not console.is_terminal
    return console


class CleanConsole(Console):
    """A console whose own orders alone reach the terminal: none of the text that it shows."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


@dataclass
class _Running:
    """A trial in training."""

    trial: TrialSpec
    steps: int = 0
    first: Metric | None = None
    last: Metric | None = None
    test_loss: float | None = None
    """At its last evaluation: held-out nats per supervised token, or minus the reward."""

    @property
    def name(self) -> str:
        return f"{self.trial.method.name}, learning rate {self.trial.learning_rate:.3g}, seed {self.trial.seed}"

    @property
    def tokens_per_second(self) -> float | None:
        """Since its first step, which has much to do once; of a pack, the pace of all together."""
        if self.first is None or self.last is None:
            return None
        seconds, tokens = self.last.seconds - self.first.seconds, self.last.tokens - self.first.tokens
        return tokens / seconds if seconds > 0 and tokens else None

    @property
    def seconds_left(self) -> float:
        """Of its own time, which in a pack is its share."""
        return 0.0 if self.last is None else self.last.seconds / self.last.step * (self.steps - self.last.step)


class LiveProgress:
    """An observer of studies and trials (study.observer.Observer) that writes to the console."""

    def __init__(self, *, quiet: bool = False, to_stderr: bool = False) -> None:
        self._console = make_console(stderr=to_stderr, quiet=quiet)
        self._live = (
            Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        )
        self._ended: list[TrialRecord] = []
        self._running: dict[TrialSpec, _Running] = {}
        """In the order in which they started."""
        self._in_study = False
        self._rewards = False
        """Whether results are rewards, not losses."""
        self._done = self._expected = 0
        self._drawn = 0.0

    def __enter__(self) -> LiveProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(Text(""))
            self._live.stop()
            if self._ended:
                self._console.print(self._table("stopped", self._ended, list(self._running.values())))

    def say(self, line: str) -> None:
        if line:
            self._console.print(Text(line))

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._in_study = True
        running = self._running[trial] = _Running(trial)
        self._done, self._expected = done, expected
        if not self._live:
            number = done + len(self._running)
            self.say(f"trial {number} of about {max(expected, number)}: {running.name}")

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        running = self._running.setdefault(trial, _Running(trial))
        running.steps, running.last = steps, metric
        running.first = running.first or metric
        running.test_loss = running.test_loss if metric.test_loss is None else metric.test_loss
        self._rewards = self._rewards or metric.test_reward is not None
        if self._live:
            self._draw()
        elif metric.test_loss is not None or self._tells(running, metric):
            self.say(f"  {self._current(running)}")

    def trial_ended(self, record: TrialRecord) -> None:
        self._ended.append(record)
        self._rewards = self._rewards or record.test_reward is not None
        self._running.pop(record.spec, None)
        self._done += 1
        if self._live:
            self._draw(at_once=True)
        else:
            result = "" if record.test_loss is None else f", {self._noun} {self._result(record.test_loss)}"
            whose = f" {record.method} at {record.learning_rate:.3g}, seed {record.seed}" if self._running else ""
            problem = f": {record.error}" if record.error else ""
            self.say(f"  {record.status}{whose}{result}, {record.seconds:.1f} s{problem}")

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        self._running.pop(record.spec, None)
        if self._live:
            self._draw(at_once=True)
        else:
            whose = f" {record.method} at {record.learning_rate:.3g}"
            self.say(f"  pilot{whose}: {self._noun} {self._result(loss)} after step {step}")

    @property
    def _noun(self) -> str:
        return "held-out reward" if self._rewards else "held-out loss"

    def _result(self, loss: float | None) -> str:
        return "" if loss is None else nats(-loss if self._rewards else loss)

    def _tells(self, running: _Running, metric: Metric) -> bool:
        """Whether a step without an evaluation is worth a line: ten times a trial, of one trial for all in training."""
        first = next(iter(self._running.values()))
        return running is first and running.steps >= 10 and metric.step % max(running.steps // 10, 1) == 0

    def _current(self, running: _Running) -> str:
        """The last step of a trial, for all in training where that makes sense."""
        metric = running.last
        if metric is None:
            return ""
        several = len(self._running) > 1
        whose = f"{running.trial.method.name} at {running.trial.learning_rate:.3g}, seed {running.trial.seed}, "
        held_out = "" if metric.test_nll is None else f", held-out loss {nats(metric.test_nll)}"
        loss = "" if metric.train_nll is None else f", training loss {nats(metric.train_nll)}"
        if metric.rl is not None:
            samples = metric.rl
            loss = f", reward {samples.reward:.3f}, {samples.length:.0f} tokens, entropy {samples.entropy:.3f}"
            if samples.dropped_groups:
                loss += f", {samples.dropped_groups} of {samples.groups} groups dropped"
        if metric.test_reward is not None:
            held_out = f", held-out reward {metric.test_reward:.3f}"
        pace = running.tokens_per_second
        together = f" in {len(self._running)} trials" if several else ""
        speed = f", {pace:,.0f} tokens/s{together}" if pace else ""
        left = "" if several else f", {_clock(running.seconds_left)} left in this trial"
        return (
            f"{whose if several else ''}step {metric.step}/{running.steps}{loss}{held_out}{speed}{left}{self._left()}"
        )

    def _left(self) -> str:
        """Of the study, once a trial has ended: those to come take as long as those that were."""
        if not self._in_study or not self._ended:
            return ""
        mean = sum(record.seconds for record in self._ended) / len(self._ended)
        waiting = max(self._expected - self._done - len(self._running), 0)
        return f", about {_clock(mean * waiting + sum(r.seconds_left for r in self._running.values()))} in the study"

    def _draw(self, at_once: bool = False) -> None:
        """Four times a second is enough for a reader, and less than many small trials have steps."""
        now = time.monotonic()
        if self._live and (at_once or now - self._drawn >= 0.25):
            self._drawn = now
            self._live.update(self._now())

    def _now(self) -> Group:
        """Those in training and as many of the last that ended as the window has room for, and what happens now."""
        running = list(self._running.values())
        first = next((trial for trial in running if trial.last is not None), None)
        current = Text("" if first is None else self._current(first))
        if not self._in_study:  # `train`: one trial needs no table
            return Group(current)
        rows = max(1, min(_ROWS, self._console.height - _OTHER_LINES - 1))
        shown_running = running[: max(rows - 1, 1)]
        room = max(rows - len(shown_running), 0)
        shown = self._ended[-room:] if room else []
        hidden, others = len(self._ended) - len(shown), len(running) - len(shown_running)
        above = [Text(f"… {hidden} earlier trials")] if hidden else []
        below = [Text(f"… {others} more in training")] if others else []
        return Group(*above, self._table("running", shown, shown_running), *below, current)

    def _table(self, open_status: str, ended: Sequence[TrialRecord], running: Sequence[_Running]) -> Table:
        """Trials that ended, then those in training under `open_status`."""
        table = Table(box=None, pad_edge=False)
        for column, justify in (("method", "left"), ("learning rate", "right"), ("seed", "right"), ("status", "left"),
                                (self._noun, "right"), ("seconds", "right")):  # fmt: skip
            table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        best: dict[str, float] = {}
        for record in self._ended:
            if record.status == "finished" and record.test_loss is not None:
                best[record.method] = min(best.get(record.method, record.test_loss), record.test_loss)
        for record in ended:
            style = "bold" if record.status == "finished" and record.test_loss == best.get(record.method) else None
            result, seconds = self._result(record.test_loss), f"{record.seconds:.1f}"
            rate, seed = f"{record.learning_rate:.3g}", str(record.seed)
            table.add_row(record.method, rate, seed, record.status, result, seconds, style=style)
        for open_one in running:
            trial, last = open_one.trial, open_one.last
            status = open_status if last is None else f"{open_status} {last.step}/{open_one.steps}"
            seconds = "" if last is None else f"{last.seconds:.1f}"
            table.add_row(
                trial.method.name,
                f"{trial.learning_rate:.3g}",
                str(trial.seed),
                status,
                self._result(open_one.test_loss),
                seconds,
            )
        return table


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

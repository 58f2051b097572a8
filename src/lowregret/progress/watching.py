"""What a user sees while trials run: a live table on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lowregret.activity import Activity, told
from lowregret.analysis.numbers import nats
from lowregret.plan.price import Price
from lowregret.progress.console import make_console
from lowregret.progress.doing import MovingLine, PlainLines
from lowregret.progress.notebook import NotebookLive
from lowregret.progress.pace import Pace, Part
from lowregret.progress.standing import standing_table
from lowregret.quantities import duration
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.standing import GroupStanding
from lowregret.spec import TrialSpec
from lowregret.study.observer import Observer, Silent

W = TypeVar("W", bound=Observer)
_ROWS = 18
_WIDE = 100
"""Columns from which the table of groups has all of its own."""
_TOLD_SHARE = 0.2
"""Of what is left: so much less is worth a line."""
_WORTH_SECONDS = 20.0
"""Of a job: what takes less is over before a line about it is read."""
_NARROW = 72
"""Columns below which a table leaves out what matters less."""
_OTHER_LINES = 6
"""Header, earlier trials, trials in training that have no line, and what they do now on up to three lines."""


@contextmanager
def watching(observer: W | None, *, quiet: bool) -> Iterator[W | LiveProgress | Silent]:
    """Who watches a function of the Python API: the one given; else what a notebook or a terminal shows; else nobody.

    A terminal's lines go to standard error: what a program prints is its own.
    """
    if observer is not None:
        yield observer
        return
    progress = LiveProgress(quiet=quiet, to_stderr=True)
    if quiet or not progress.is_live:
        yield Silent()
        return
    with progress:
        yield progress


@dataclass
class _Running:
    """A trial in training."""

    trial: TrialSpec
    steps: int = 0
    first: Metric | None = None
    last: Metric | None = None
    group: str = ""
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

    def part(self, *, open: bool) -> Part:
        """For the pace."""
        return Part(self.trial.method.name, self.first, self.last, open, self.group)

    @property
    def seconds_left(self) -> float:
        """Of its own time, which in a pack is its share."""
        return 0.0 if self.last is None else self.last.seconds / self.last.step * (self.steps - self.last.step)


class LiveProgress:
    """An observer of studies and trials (study.observer.Observer) that writes to the console."""

    def __init__(
        self, *, quiet: bool = False, to_stderr: bool = False, agree: Callable[[Price], None] = lambda price: None
    ) -> None:
        """`agree` is asked about a price that has been told; it raises what ends the job."""
        self._agree = agree
        self._pace: Pace | None = None
        self._timed = False
        """Whether it was said how long the job takes at the pace of its first steps."""
        self._told_left: float | None = None
        """Seconds, as a line has said last."""
        self._of_groups: Sequence[Part] = ()
        self._trained: list[Part] = []
        """Of the trials that have ended or paused in this session."""
        self._console = make_console(stderr=to_stderr, quiet=quiet)
        self._live: Live | NotebookLive | None = None
        if self._console.is_jupyter and not quiet:
            self._live = NotebookLive(lambda: bool(self._activities))
        elif self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._activities: list[Activity] = []
        self._moving = MovingLine(self._activities)
        self._plain = PlainLines(self._activities, self.say) if self._live is None and not quiet else None
        self._open = ExitStack()
        self._ended: list[TrialRecord] = []
        self._running: dict[TrialSpec, _Running] = {}
        """In the order in which they started."""
        self._groups: Sequence[GroupStanding] = ()
        """Those of a study that others train."""
        self._in_study = False
        self._group = ""
        """The label of the one that is trained here; empty outside of a study."""
        self._rewards = False
        """Whether results are rewards, not losses."""
        self._done = self._expected = 0
        self._drawn = 0.0

    @property
    def is_live(self) -> bool:
        """Whether somebody looks on, in a notebook or at a terminal."""
        return self._live is not None

    def __enter__(self) -> LiveProgress:
        self._open.enter_context(told(self._activities))
        if self._live:
            self._live.start()
            self._draw(at_once=True)
        if self._plain:
            self._open.enter_context(self._plain)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self._live:
            self._live.update(Text(""))
            self._live.stop()
            if self._ended:
                self._print(self._table("stopped", self._ended, list(self._running.values())))

    def say(self, line: str) -> None:
        if line:
            self._print(Text(line))

    def _print(self, what: Text | Table) -> None:
        if self._plain:
            self._plain.line()
        if isinstance(self._live, NotebookLive):
            self._live.keep(what)
        else:
            self._console.print(what)

    def priced(self, price: Price) -> None:
        """What the job takes, told before its first trial; the user may refuse it."""
        self._pace, self._timed = Pace(price), False
        for line in price.lines():
            self.say(line)
        if price.asks and isinstance(self._live, Live):
            self._live.stop()
            try:
                self._agree(price)
            finally:
                self._live.start()

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._in_study = True
        running = self._running[trial] = _Running(trial, group=self._group)
        self._done, self._expected = done, expected
        if not self._live:
            number = done + len(self._running)
            self.say(f"trial {number} of about {max(expected, number)}: {running.name}")

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        running = self._running.setdefault(trial, _Running(trial, group=self._group))
        running.steps, running.last = steps, metric
        running.first = running.first or metric
        running.test_loss = running.test_loss if metric.test_loss is None else metric.test_loss
        self._rewards = self._rewards or metric.test_reward is not None
        self._say_pace()
        if self._live:
            self._draw()
        elif metric.test_loss is not None or self._tells(running, metric):
            self.say(f"  {self._current(running)}")

    def trial_ended(self, record: TrialRecord) -> None:
        self._ended.append(record)
        self._rewards = self._rewards or record.test_reward is not None
        self._leaves(record.spec)
        self._done += 1
        if self._live:
            self._draw(at_once=True)
        else:
            result = "" if record.test_loss is None else f", {self._noun} {self._result(record.test_loss)}"
            whose = f" {record.method} at {record.learning_rate:.3g}, seed {record.seed}" if self._running else ""
            problem = f": {record.error}" if record.error else ""
            self.say(f"  {record.status}{whose}{result}, {record.seconds:.1f} s{problem}")

    def group_started(self, label: str) -> None:
        """A study's group is trained here from now on."""
        self._group = label
        if self._pace:
            self._pace.begin(label)

    def groups(self, found: Sequence[GroupStanding]) -> None:
        """How far the groups are that others train."""
        self._groups = found
        if self._pace:
            self._of_groups = self._pace.groups(found)
            self._say_pace(self._of_groups)
            self._say_left(self._pace.left(self._of_groups))
        if self._live:
            self._draw()

    def _say_left(self, left: float | None) -> None:
        """Of a study that others train: now and then where nothing is drawn."""
        if left is None or self._live:
            return
        if self._told_left is None:
            self._told_left = left
        elif left < (1 - _TOLD_SHARE) * self._told_left:
            self._told_left = left
            self.say(f"about {duration(left)} to go")

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        self._leaves(record.spec)
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
        left = "" if several else f", {duration(running.seconds_left)} left in this trial"
        return (
            f"{whose if several else ''}step {metric.step}/{running.steps}{loss}{held_out}{speed}{left}{self._left()}"
        )

    def _leaves(self, trial: TrialSpec) -> None:
        running = self._running.pop(trial, None)
        if running is not None:
            self._trained.append(running.part(open=False))

    @property
    def _parts(self) -> list[Part]:
        """What has been trained in this session."""
        return [*self._trained, *(running.part(open=True) for running in self._running.values())]

    def _say_pace(self, parts: Sequence[Part] | None = None) -> None:
        """Once: how long the job takes at the pace of its first steps."""
        if self._pace is None or self._timed:
            return
        found = self._parts if parts is None else parts
        left = self._pace.left(found)
        if left is None:
            return
        self._timed = True
        if left < _WORTH_SECONDS:
            return
        price, planned = self._pace.price, self._pace.price.seconds
        before = "" if planned is None else f"; the plan said {duration(planned)}"
        steps = f"{self._pace.steps(found):,} steps"
        self.say(f"timed: about {duration(left)}{price.paid(left)} to go, by the first {steps}{before}")

    def _left(self) -> str:
        """Of the study, once its pace is known."""
        if not self._in_study or self._pace is None:
            return ""
        left = self._pace.left(self._parts)
        return "" if left is None else f", about {duration(left)} in the study"

    def _draw(self, at_once: bool = False) -> None:
        """Four times a second is enough for a reader, and less than many small trials have steps."""
        now = time.monotonic()
        if self._live and (at_once or now - self._drawn >= 0.25):
            self._drawn = now
            self._live.update(self._now())

    def _now(self) -> Group:
        """Those in training and as many of the last that ended as the window has room for, and what happens now."""
        if self._groups:
            left = None if self._pace is None else self._pace.left(self._of_groups)
            told = Text("" if left is None else f"about {duration(left)} to go")
            rows = max(1, self._console.height - _OTHER_LINES)
            return Group(standing_table(self._groups, rows, narrow=self._console.width < _WIDE), told, self._moving)
        running = list(self._running.values())
        first = next((trial for trial in running if trial.last is not None), None)
        current = Text("" if first is None else self._current(first))
        if not self._in_study:  # `train`: one trial needs no table
            return Group(current, self._moving) if first else Group(self._moving)
        rows = max(1, min(_ROWS, self._console.height - _OTHER_LINES - 1))
        shown_running = running[: max(rows - 1, 1)]
        room = max(rows - len(shown_running), 0)
        shown = self._ended[-room:] if room else []
        hidden, others = len(self._ended) - len(shown), len(running) - len(shown_running)
        above = [Text(f"… {hidden} earlier trials")] if hidden else []
        below = [Text(f"… {others} more in training")] if others else []
        return Group(*above, self._table("running", shown, shown_running), *below, current, self._moving)

    def _table(self, open_status: str, ended: Sequence[TrialRecord], running: Sequence[_Running]) -> Table:
        """Trials that ended, then those in training under `open_status`."""
        narrow = self._console.width < _NARROW
        noun = self._noun.removeprefix("held-out ") if narrow else self._noun
        table = Table(box=None, pad_edge=False)
        for column, justify in (
            ("method", "left"),
            ("rate" if narrow else "learning rate", "right"),
            ("seed", "right"),
            ("status", "left"),
            (noun, "right"),
            *([] if narrow else [("seconds", "right")]),
        ):
            table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        cells = len(table.columns)
        best: dict[str, float] = {}
        for record in self._ended:
            if record.status == "finished" and record.test_loss is not None:
                best[record.method] = min(best.get(record.method, record.test_loss), record.test_loss)
        for record in ended:
            style = "bold" if record.status == "finished" and record.test_loss == best.get(record.method) else None
            result, seconds = self._result(record.test_loss), f"{record.seconds:.1f}"
            rate, seed = f"{record.learning_rate:.3g}", str(record.seed)
            table.add_row(*(record.method, rate, seed, record.status, result, seconds)[:cells], style=style)
        for open_one in running:
            trial, last = open_one.trial, open_one.last
            steps = "" if last is None else f"{last.step}/{open_one.steps}"
            status = steps if narrow and steps else f"{open_status} {steps}".rstrip()
            seconds = "" if last is None else f"{last.seconds:.1f}"
            rate, seed, result = f"{trial.learning_rate:.3g}", str(trial.seed), self._result(open_one.test_loss)
            table.add_row(*(trial.method.name, rate, seed, status, result, seconds)[:cells])
        return table

"""What a user sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lowregret.analysis.numbers import nats
from lowregret.records import Metric, TrialRecord
from lowregret.spec import TrialSpec

_ROWS = 18
_OTHER_LINES = 6
"""Header, earlier trials, the current trial, and its step on up to three lines."""


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Words wrapped on a terminal; elsewhere, lines as they are."""
    console = Console(stderr=stderr, quiet=quiet, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


class Progress:
    """An observer of studies and trials (study.runner.Observer) that writes to the console."""

    def __init__(self, *, quiet: bool = False, to_stderr: bool = False) -> None:
        self._console = make_console(stderr=to_stderr, quiet=quiet)
        self._live = (
            Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        )
        self._ended: list[TrialRecord] = []
        self._trial: TrialSpec | None = None
        self._last: Metric | None = None
        self._test_nll: float | None = None
        """Of the current trial, at its last evaluation."""
        self._first_seconds = 0.0
        self._first_tokens = 0
        self._steps = 0
        self._done = self._expected = 0
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
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
                self._console.print(self._table("stopped"))

    def say(self, line: str) -> None:
        if line:
            self._console.print(Text(line))

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._trial, self._last, self._done, self._expected = trial, None, done, expected
        self._test_nll = None
        if not self._live:
            number = f"trial {done + 1} of about {max(expected, done + 1)}"
            self.say(f"{number}: {trial.method.name}, learning rate {trial.learning_rate:.3g}, seed {trial.seed}")

    def step(self, step: int, steps: int, metric: Metric) -> None:
        if self._last is None:
            self._first_seconds, self._first_tokens = metric.seconds, metric.tokens
        self._last, self._steps = metric, steps
        self._test_nll = self._test_nll if metric.test_nll is None else metric.test_nll
        if self._live:
            self._live.update(self._now())
        elif metric.test_nll is not None or (steps >= 10 and step % max(steps // 10, 1) == 0):
            self.say(f"  {self._current()}")

    def trial_ended(self, record: TrialRecord) -> None:
        self._ended.append(record)
        self._trial = None
        if self._live:
            self._live.update(self._now())
        else:
            loss = "" if record.test_nll is None else f", held-out loss {nats(record.test_nll)}"
            self.say(f"  {record.status}{loss}, {record.seconds:.1f} s" + (f": {record.error}" if record.error else ""))

    def _current(self) -> str:
        metric = self._last
        if metric is None:
            return ""
        seconds, tokens = metric.seconds - self._first_seconds, metric.tokens - self._first_tokens
        speed = f", {tokens / seconds:,.0f} tokens/s" if seconds > 0 and tokens else ""
        held_out = "" if metric.test_nll is None else f", held-out loss {nats(metric.test_nll)}"
        loss = "" if metric.train_nll is None else f", training loss {nats(metric.train_nll)}"
        per_step = metric.seconds / metric.step
        left = f", {_clock(per_step * (self._steps - metric.step))} left in this trial"
        return f"step {metric.step}/{self._steps}{loss}{held_out}{speed}{left}{self._study_left(per_step)}"

    def _study_left(self, per_step: float) -> str:
        if self._trial is None or not self._ended:
            return ""
        mean = sum(record.seconds for record in self._ended) / len(self._ended)
        remaining = mean * max(self._expected - self._done - 1, 0) + per_step * (
            self._steps - (self._last.step if self._last else 0)
        )
        return f", about {_clock(remaining)} in the study"

    def _now(self) -> Group:
        """As many of the last trials as the window has room for, and the step of the current one."""
        if self._trial is None and not self._ended:  # `train`: one trial needs no table
            return Group(Text(self._current()))
        rows = max(1, min(_ROWS, self._console.height - _OTHER_LINES))
        hidden = len(self._ended) - rows
        above = [Text(f"… {hidden} earlier trials")] if hidden > 0 else []
        return Group(*above, self._table("running", rows), Text(self._current() if self._trial else ""))

    def _table(self, open_status: str, rows: int | None = None) -> Table:
        """The trials that ended, at most the last so many, and the open one under `open_status`."""
        table = Table(box=None, pad_edge=False)
        for column, justify in (("method", "left"), ("learning rate", "right"), ("seed", "right"), ("status", "left"),
                                ("held-out loss", "right"), ("seconds", "right")):  # fmt: skip
            table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        best: dict[str, float] = {}
        for record in self._ended:
            if record.status == "finished" and record.test_nll is not None:
                best[record.method] = min(best.get(record.method, record.test_nll), record.test_nll)
        shown = self._ended if rows is None else self._ended[-rows:]
        for record in shown:
            loss = "" if record.test_nll is None else f"{nats(record.test_nll)}"
            style = "bold" if record.status == "finished" and record.test_nll == best.get(record.method) else None
            table.add_row(record.method, f"{record.learning_rate:.3g}", str(record.seed), record.status, loss,
                          f"{record.seconds:.1f}", style=style)  # fmt: skip
        if self._trial is not None:
            trial = self._trial
            loss = "" if self._test_nll is None else f"{nats(self._test_nll)}"
            table.add_row(trial.method.name, f"{trial.learning_rate:.3g}", str(trial.seed), open_status, loss, "")
        return table


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

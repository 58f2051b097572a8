"""`--track`: every trial is a run at MLflow, Weights & Biases, TensorBoard, Trackio or SwanLab.

A thread sends, so training never waits for a server; one that is away is said once, asked again every minute, and gets
what it missed from metrics.jsonl. Tracking is no part of the experiment: spec.json does not know of it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import TracebackType

from lowregret.errors import SpecError, did_you_mean
from lowregret.foreign import real_path
from lowregret.foreign_text import redacted, without_secrets
from lowregret.runs.atomic import read_record
from lowregret.runs.files import METRICS, MLFLOW, SPEC, TENSORBOARD, TRIAL, TRIALS
from lowregret.runs.lock import stored_spec
from lowregret.runs.measured import tracking_id
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.study import trial_name
from lowregret.spec import TrialSpec
from lowregret.study.observer import Observer, Relay
from lowregret.study.tracking.tool import PROJECT, RunFacts, Tool, ToolRun
from lowregret.study.tracking.tools import TOOLS

_GATHER_SECONDS = 1.0
"""A second's rows of all trials are sent together: a small base takes hundreds of steps a second."""
_RETRY_SECONDS = 60.0
_CLOSE_SECONDS = 60.0
_OWN = ("trackio", "swanlab")
"""Installed by their own names: what they need does not go with the packages of every other extra."""


@dataclass(frozen=True)
class Track:
    """What `--track` asks for."""

    tool: str
    where: str
    warned: bool = False
    """The user knows already that the tool is away."""

    def checked(self, say: Callable[[str], None]) -> Track:
        """Itself, once the tool has been asked for; says so when it is away. SpecError when the user must act."""
        try:
            TOOLS[self.tool](self.where).check()
        except SpecError:
            raise
        except Exception as problem:  # whatever a client raises, the training is worth more
            say(_warning(self, problem))
            return replace(self, warned=True)
        return self


def parse_track(text: str, folder: Path) -> Track:
    """TOOL or TOOL:WHERE; SpecError when there is no such tool, or its package is missing.

    Without WHERE: TensorBoard's events are in `folder`/tensorboard; MLflow's where MLFLOW_TRACKING_URI says, else in
    mlflow.db in `folder`; W&B's project is WANDB_PROJECT, else lowregret.
    """
    tool, _, where = text.partition(":")
    if tool not in TOOLS:
        raise SpecError(f"--track {text}: no tool named {tool!r}. {did_you_mean(tool, TOOLS)}")
    if find_spec(tool) is None:
        how = tool if tool in _OWN else "lowregret[track]"
        raise SpecError(f"--track {tool}: the package {tool} is missing. Install it by `pip install {how}`.")
    defaults = {
        "tensorboard": str(folder / TENSORBOARD),
        "mlflow": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{real_path(folder / MLFLOW)}",
        "wandb": os.environ.get("WANDB_PROJECT") or PROJECT,
        "swanlab": os.environ.get("SWANLAB_PROJECT") or PROJECT,
        "trackio": os.environ.get("TRACKIO_PROJECT") or PROJECT,
    }
    if not where and tool == "mlflow":
        folder.mkdir(parents=True, exist_ok=True)  # SQLite makes a file, no folder
    return Track(tool, where or defaults[tool])


def _warning(track: Track, problem: BaseException) -> str:
    what = " ".join(str(problem).split())[:300] or type(problem).__name__
    return f"warning: --track {track.tool}: {what} Training goes on; {track.where} is tried again every minute."


@dataclass(frozen=True)
class _Where:
    """A trial's place, on disk and among others."""

    home: Path
    folder: Path
    """Of the run or group that it belongs to."""
    study: str
    condition: str
    trial: TrialSpec


@dataclass
class _News:
    """What a tool has yet to be told of a trial."""

    rows: list[Metric] = field(default_factory=list)
    ended: TrialRecord | None = None


class Tracker:
    """Sends the steps of a process's trials to a tool, from a thread of its own."""

    def __init__(self, track: Track, say: Callable[[str], None]) -> None:
        self._track, self._say = track, say
        self._queue: SimpleQueue[tuple[_Where, Metric | TrialRecord] | None] = SimpleQueue()
        self._closing = Event()
        self._problem: BaseException | None = None
        self._warned = track.warned
        self._thread = Thread(target=_Sender(self._queue, self._closing, track, self._failed).run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Runs that are still open end as their trial.json says; those still `running` there have been stopped."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failed(TimeoutError(f"took more than {_CLOSE_SECONDS:.0f} s to take the last steps; they are lost."))
        self._tell()

    def watching(self, folder: Path, inner: Observer, study: str = "", condition: str = "") -> Tracked:
        """An observer of the trials of one run or group folder, that tells `inner` everything first."""
        return Tracked(self, folder, inner, study or real_path(folder).name, condition)

    def put(self, where: _Where, what: Metric | TrialRecord) -> None:
        self._queue.put((where, what))
        self._tell()

    def _failed(self, problem: BaseException) -> None:
        self._problem = problem

    def _tell(self) -> None:
        """Warnings come from the thread that trains: a worker's pipe to its parent is not safe for two."""
        if self._problem is not None and not self._warned:
            self._warned = True
            self._say(_warning(self._track, self._problem))


class Tracked(Relay):
    """An observer that tells a tracker as well."""

    def __init__(self, tracker: Tracker, folder: Path, inner: Observer, study: str, condition: str) -> None:
        super().__init__(inner)
        self._tracker, self._folder = tracker, folder
        self._study, self._condition = study, condition

    def stepped(self, trial: TrialSpec, metric: Metric) -> None:
        self._tracker.put(self._where(trial), metric)

    def ended(self, record: TrialRecord) -> None:
        self._tracker.put(self._where(record.spec), record)

    def _where(self, trial: TrialSpec) -> _Where:
        many = self._folder / TRIALS  # `train` has its one trial in the folder itself
        home = many / trial_name(self._folder, trial) if many.is_dir() else self._folder
        return _Where(home, self._folder, self._study, self._condition, trial)


@contextmanager
def tracked(asked: str | None, folder: Path, observer: Observer) -> Iterator[Observer]:
    """The observer of a run in `folder`, which tells a tracker as well when `--track` asks for one."""
    if asked is None:
        yield observer
        return
    with Tracker(parse_track(asked, folder).checked(observer.say), observer.say) as tracker:
        yield tracker.watching(folder, observer)


class _Sender:
    """The thread's side."""

    def __init__(
        self,
        queue: SimpleQueue[tuple[_Where, Metric | TrialRecord] | None],
        closing: Event,
        track: Track,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._queue, self._closing, self._track, self._failed = queue, closing, track, failed
        self._tool: Tool | None = None
        self._open: dict[Path, tuple[_Where, ToolRun]] = {}
        self._news: dict[Path, tuple[_Where, _News]] = {}
        self._again = 0.0
        """When the tool may be asked again."""

    def run(self) -> None:
        last = False
        while not last:
            last = self._gather()
            if last or time.monotonic() >= self._again:
                self._try(self._send)
        self._try(self._leave)

    def _gather(self) -> bool:
        """Wait for news and a little longer for more; True when there will be no more."""
        item = self._queue.get()
        self._closing.wait(_GATHER_SECONDS)
        while True:
            if item is None:
                return True
            where, what = item
            news = self._news.setdefault(where.home, (where, _News()))[1]
            if isinstance(what, Metric):
                news.rows.append(what)
            else:
                news.ended = what.model_copy(update={"error": what.error and redacted(what.error)})
            try:
                item = self._queue.get_nowait()
            except Empty:
                return False

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as problem:  # whatever a client raises, the training is worth more
            self._again = time.monotonic() + _RETRY_SECONDS
            self._failed(problem)

    def _send(self) -> None:
        for home, (where, news) in list(self._news.items()):
            run = self._run_of(where)
            try:
                self._log(run, news.rows)
                if news.ended is not None:
                    run.end(news.ended.status, news.ended)
            except Exception:
                del self._open[home]  # what it has taken is asked anew
                raise
            if news.ended is not None:
                del self._open[home]
            del self._news[home]

    def _leave(self) -> None:
        """End what is still open."""
        for where, run in self._open.values():
            record = read_record(TrialRecord, where.home / TRIAL)
            run.end("stopped" if record.status == "running" else record.status, record)

    def _run_of(self, where: _Where) -> ToolRun:
        """A trial's run; one that is opened gets the rows on disk that it lacks."""
        if where.home not in self._open:
            self._tool = self._tool or TOOLS[self._track.tool](self._track.where)
            run = self._tool.open(facts(where.trial, where.folder, where.study, where.condition))
            metrics = where.home / METRICS
            self._log(run, read_metrics(metrics) if metrics.exists() else [])
            self._open[where.home] = (where, run)
        return self._open[where.home][1]

    @staticmethod
    def _log(run: ToolRun, rows: Sequence[Metric]) -> None:
        missing = [row for row in rows if row.step > run.last]
        if missing:
            run.log(missing)


def facts(trial: TrialSpec, folder: Path, study: str, condition: str) -> RunFacts:
    """What a trial's run is called, and its config: the trial's choices, and what spec.json says of base and data."""
    called_by = tracking_id(folder)
    stored = stored_spec(folder / SPEC)
    spec, resolved = stored["spec"], stored.get("resolved") or {}
    method = {
        name: "+".join(value) if isinstance(value, list) else value
        for name, value in trial.method.model_dump(mode="json").items()
    }
    config = {
        "study": study,
        "condition": condition or study,
        "method": trial.method.name,
        **method,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "model": spec["model"],
        "data": spec["data"]["train"],
        "batch_size": spec["batch_size"],
        "steps": resolved.get("steps", 0),
    }
    called = trial_name(folder, trial)
    name = "/".join(part for part in (study, condition, called) if part)
    # Hashed: a trial's id may hold what a W&B id must not, or be longer.
    own = hashlib.sha256(called.encode()).hexdigest()[:12]
    return RunFacts(f"{called_by}-{own}", redacted(name), study, without_secrets(config))

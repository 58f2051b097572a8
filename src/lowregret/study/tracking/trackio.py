"""Trackio: a project in its local database, on a server of one's own or in a Space, as its own variables say."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from typing import Any

from lowregret.runs.records import Metric, TrialRecord
from lowregret.study.tracking.tool import GOOD, RunFacts, ToolRun, values


class Trackio:
    """`where` is the project; TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL hold."""

    def __init__(self, where: str) -> None:
        import trackio
        import trackio.run
        import trackio.utils

        self._project, self._client = where, trackio
        for module in (trackio, trackio.run, trackio.utils):
            # It prints at every run, over the progress of a training; it has no switch for that.
            module.print = _silent

    def check(self) -> None:
        """Runs are kept on this machine first: nothing can be away."""

    def open(self, facts: RunFacts) -> ToolRun:
        # It knows a run by its name alone, and ends the run of this context before it opens another.
        run = Context().run(
            self._client.init,
            self._project,
            name=f"{facts.name} {facts.id}",
            group=facts.study,
            config=dict(facts.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return _TrackioRun(run)


def _silent(*_: Any, **__: Any) -> None:
    pass


class _TrackioRun:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.last = int(run._next_step) - 1
        """The step after the last; it has no public name."""

    def log(self, rows: Sequence[Metric]) -> None:
        for row in rows:
            self._run.log(values(row), step=row.step)
            self.last = row.step

    def end(self, status: str, record: TrialRecord | None) -> None:
        if status not in (*GOOD, "stopped"):
            self._run.alert(status, text="" if record is None else record.error or "")
        self._run.finish()

"""SwanLab: one run at a time in a process, so that a trial is sent when it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lowregret.errors import SpecError
from lowregret.runs.records import Metric, TrialRecord
from lowregret.study.tracking.tool import RunFacts, ToolRun, values

_STATES = {"finished": "success", "pruned": "aborted", "stopped": "aborted"}


class SwanLab:
    """`where` is PROJECT or WORKSPACE/PROJECT; SWANLAB_MODE, SWANLAB_API_KEY and SWANLAB_LOG_DIR hold."""

    def __init__(self, where: str) -> None:
        import swanlab

        workspace, _, project = where.rpartition("/")
        self._workspace, self._project, self._client = workspace or None, project, swanlab

    def check(self) -> None:
        # Never a question on the terminal: a run may be unattended.
        if _online() and not os.environ.get("SWANLAB_API_KEY"):
            raise SpecError(
                "--track swanlab: no key. Set SWANLAB_API_KEY, or SWANLAB_MODE=offline (then `swanlab sync` sends it)."
            )

    def open(self, facts: RunFacts) -> ToolRun:
        return _SwanLabRun(self, facts)

    def send(self, facts: RunFacts, rows: Sequence[Metric], status: str, error: str | None) -> None:
        """A whole trial, in one run from its first row to its end."""
        run = self._client.init(
            workspace=self._workspace,
            project=self._project,
            name=facts.name,
            group=facts.study,
            config={**facts.config, "status": status, "error": error or ""},
            settings=self._client.Settings(interactive=False),
            # Offline a second session leaves a second folder; online it goes on in the run.
            **({"id": facts.id, "resume": "allow"} if _online() else {}),
        )
        for row in rows:
            run.log(values(row), step=row.step)
        state = _STATES.get(status, "crashed")
        run.finish(state=state, error=(error or status) if state == "crashed" else None)


def _online() -> bool:
    return os.environ.get("SWANLAB_MODE", "online") in ("online", "cloud")


class _SwanLabRun:
    def __init__(self, client: SwanLab, facts: RunFacts) -> None:
        self._client, self._facts = client, facts
        self._rows: list[Metric] = []
        self.last = -1
        """Each session sends the trial from its start: SwanLab keeps the first value of a step."""

    def log(self, rows: Sequence[Metric]) -> None:
        self._rows += rows
        self.last = rows[-1].step

    def end(self, status: str, record: TrialRecord | None) -> None:
        self._client.send(self._facts, self._rows, status, record.error if record is not None else None)

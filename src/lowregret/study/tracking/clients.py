"""MLflow, Weights & Biases and TensorBoard: many runs open at once; imported when asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowregret.errors import SpecError
from lowregret.runs.records import Metric, TrialRecord
from lowregret.study.tracking.tool import GOOD, PROJECT, RunFacts, ToolRun, values

_TAG = "lowregret.id"


class MLflow:
    """`where` is a tracking URI, as of a server or `sqlite:///FILE`."""

    def __init__(self, where: str) -> None:
        # A server that is away is asked for seconds, not for the four minutes that are MLflow's default.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        self._name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)

    def check(self) -> None:
        self._experiment()

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            try:
                return str(self._client.create_experiment(self._name))
            except MlflowException:  # another process was faster
                found = self._client.get_experiment_by_name(self._name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def open(self, facts: RunFacts) -> ToolRun:
        experiment = self._experiment()
        there = self._client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{facts.id}'")
        if there:
            run = there[0].info.run_id
            self._client.update_run(run, status="RUNNING")
            history = self._client.get_metric_history(run, "tokens")  # every row has it
            return _MLflowRun(self._client, run, max((point.step for point in history), default=-1))
        tags = {_TAG: facts.id, "study": facts.study}
        run = self._client.create_run(experiment, tags=tags, run_name=facts.name).info.run_id
        from mlflow.entities import Param

        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in facts.config.items()])
        return _MLflowRun(self._client, run, -1)


class _MLflowRun:
    _BATCH = 100
    """Rows in a request: MLflow takes 1000 metrics, and a row has at most 20."""

    def __init__(self, client: Any, run: str, last: int) -> None:
        self._client, self._run, self.last = client, run, last

    def log(self, rows: Sequence[Metric]) -> None:
        from mlflow.entities import Metric as Point

        now = int(time.time() * 1000)
        for first in range(0, len(rows), self._BATCH):
            part = rows[first : first + self._BATCH]
            points = [Point(name, value, now, row.step) for row in part for name, value in values(row).items()]
            self._client.log_batch(self._run, metrics=points)
            self.last = part[-1].step

    def end(self, status: str, record: TrialRecord | None) -> None:
        self._client.set_tag(self._run, "status", status)
        if record is not None and record.error:
            self._client.set_tag(self._run, "error", record.error[:5000])
        named = {"finished": "FINISHED", "pruned": "KILLED", "stopped": "KILLED"}
        self._client.set_terminated(self._run, named.get(status, "FAILED"))


class Wandb:
    """`where` is PROJECT or ENTITY/PROJECT; W&B's own environment variables hold."""

    def __init__(self, where: str) -> None:
        entity, _, project = where.rpartition("/")
        self._entity, self._project = entity or None, project

    def check(self) -> None:
        import wandb

        # Never a question on the terminal: a run may be unattended.
        if _wandb_online() and not wandb.login(prompt=False):
            raise SpecError(
                "--track wandb: not logged in. Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline."
            )

    def open(self, facts: RunFacts) -> ToolRun:
        import wandb

        run = wandb.init(
            entity=self._entity,
            project=self._project,
            id=facts.id,
            name=facts.name,
            group=facts.study,
            config=dict(facts.config),
            resume="allow",
            reinit="create_new",  # a pack has many runs open at once
            settings=wandb.Settings(console="off", silent=True, init_timeout=30),
        )
        return _WandbRun(run)


def _wandb_online() -> bool:
    return os.environ.get("WANDB_MODE", "online") == "online"


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.last = int(run.step) - 1
        """W&B's step is the next one. Offline it knows nothing of an earlier session, and the run is written whole."""

    def log(self, rows: Sequence[Metric]) -> None:
        for row in rows:
            self._run.log(values(row), step=row.step)
            self.last = row.step

    def end(self, status: str, record: TrialRecord | None) -> None:
        self._run.summary["status"] = status
        if record is not None and record.error:
            self._run.summary["error"] = record.error
        self._run.finish(exit_code=0 if status in GOOD else 1)


class TensorBoard:
    """`where` is a folder; a run is a folder in it."""

    def __init__(self, where: str) -> None:
        self._where = Path(where)

    def check(self) -> None:
        import torch.utils.tensorboard  # noqa: F401

        self._where.mkdir(parents=True, exist_ok=True)

    def open(self, facts: RunFacts) -> ToolRun:
        return _TensorBoardRun(self._where / facts.name, facts)


class _TensorBoardRun:
    """Events cannot be read back cheaply, so a run that goes on is written again from its first row.

    The purge step tells TensorBoard to drop what an earlier session wrote.
    """

    def __init__(self, folder: Path, facts: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config, self.last = dict(facts.config), -1
        self._writer: Any = SummaryWriter(str(folder), purge_step=0, flush_secs=5)
        table = "\n".join(f"|{name}|{value}|" for name, value in {"id": facts.id, **facts.config}.items())
        self._writer.add_text("config", f"|field|value|\n|-|-|\n{table}", 0)

    def log(self, rows: Sequence[Metric]) -> None:
        for row in rows:
            for name, value in values(row).items():
                self._writer.add_scalar(name, value, row.step)
            self.last = row.step
        self._writer.flush()

    def end(self, status: str, record: TrialRecord | None) -> None:
        said = status if record is None or not record.error else f"{status}: {record.error}"
        self._writer.add_text("status", said, max(self.last, 0))
        finals = {} if record is None else {"test_nll": record.test_nll, "test_reward": record.test_reward}
        results = {f"final/{name}": value for name, value in finals.items() if value is not None}
        if status == "finished" and results:
            # In the run's own folder: by default this opens another run below it.
            self._writer.add_hparams(self._config, results, run_name=".")
        self._writer.close()

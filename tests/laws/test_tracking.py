"""A trial at a tracker: every row once, with its step, however often it is stopped; and nothing stops training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, TrialSpec
from lowregret.study.observer import Silent
from lowregret.study.tracking import tools as trackers
from lowregret.study.tracking import tracker as module
from lowregret.study.tracking.clients import TensorBoard
from lowregret.study.tracking.tool import RunFacts, values
from lowregret.study.tracking.tracker import Track, Tracker, facts, parse_track, tracked

TRIAL = TrialSpec(method=LoRA(rank=4), learning_rate=2e-3, seed=1)
OTHER = TrialSpec(method=LoRA(rank=8), learning_rate=2e-3, seed=1)
STEPS = 6


def metric(step: int) -> Metric:
    held_out = 1.0 / (step + 1) if step % 3 == 0 else None
    return Metric(step=step, tokens=10 * step, train_nll=2.0 - step / 10, test_nll=held_out, lr=2e-3, seconds=step)


def record(trial: TrialSpec, status: str) -> TrialRecord:
    return TrialRecord(
        id=trial.id, method=trial.method.name, learning_rate=trial.learning_rate, seed=trial.seed,
        status=status, spec=trial, test_nll=0.5 if status == "finished" else None,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A compare's folder with two trials that have yet to begin."""
    spec = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "batch_size": 8}
    write_json(tmp_path / "spec.json", {"spec": spec, "resolved": {"steps": STEPS}})
    for trial in (TRIAL, OTHER):
        (tmp_path / "trials" / trial.id).mkdir(parents=True)
        write_json(tmp_path / "trials" / trial.id / "trial.json", record(trial, "running"))
    return tmp_path


def train(folder: Path, track: Track, first: int, last: int, say: list[str] | None = None) -> None:
    """Both trials in lockstep through these steps, as the pack does it: the line on disk first, then the observer."""
    with Tracker(track, (say if say is not None else []).append) as tracker:
        observer = tracker.watching(folder, Silent(), "mine", "main.lora")
        for step in range(first, last + 1):
            for trial in (TRIAL, OTHER):
                file = folder / "trials" / trial.id / "metrics.jsonl"
                there = [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []
                if step not in there:
                    append_metric(file, metric(step))
                if step:  # the evaluation before the first step is on disk only
                    observer.step(trial, STEPS, metric(step))
        if last == STEPS:
            for trial in (TRIAL, OTHER):
                write_json(folder / "trials" / trial.id / "trial.json", record(trial, "finished"))
                observer.trial_ended(record(trial, "finished"))


LOSSES = [(step, 2.0 - step / 10) for step in range(STEPS + 1)]


def test_mlflow_has_every_row_once_after_a_kill(folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    track = parse_track("mlflow", folder)
    train(folder, track, 0, 4)
    train(folder, track, 3, STEPS)  # the checkpoint was at step 2
    client = mlflow.MlflowClient(tracking_uri=track.where)
    runs = client.search_runs([client.get_experiment_by_name("lowregret").experiment_id])
    assert {run.data.params["method"] for run in runs} == {"lora:4", "lora:8"}
    assert len(runs) == 2
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["status"] == "finished"
        assert run.data.params["condition"] == "main.lora"
        points = client.get_metric_history(run.info.run_id, "train_nll")
        assert sorted((point.step, point.value) for point in points) == LOSSES


def test_tensorboard_has_every_row_once_after_a_kill(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track = parse_track(f"tensorboard:{folder / 'events'}", folder)
    train(folder, track, 0, 4)
    train(folder, track, 3, STEPS)
    for trial in (TRIAL, OTHER):
        events = EventAccumulator(str(folder / "events" / "mine" / "main.lora" / trial.id))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("train_nll")]
        assert [step for step, _ in found] == [step for step, _ in LOSSES]
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in LOSSES])
        assert [event.step for event in events.Scalars("test_nll")] == [0, 3, 6]


def test_tensorboard_has_the_result_of_a_trial_by_loss_or_by_reward(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, changed in (("test_nll", {}), ("test_reward", {"test_nll": None, "test_reward": 0.75})):
        run = TensorBoard(str(folder / name)).open(facts(TRIAL, folder, "mine", ""))
        run.log([metric(1)])
        run.end("finished", record(TRIAL, "finished").model_copy(update=changed))
        events = EventAccumulator(str(folder / name / "mine" / TRIAL.id))
        events.Reload()
        assert [event.value for event in events.Scalars(f"final/{name}")] == [0.5 if name == "test_nll" else 0.75]


def test_wandb_offline_takes_a_pack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    said: list[str] = []
    train(folder, parse_track("wandb:mine", folder).checked(said.append), 0, STEPS, said)
    assert not said
    ids = {facts(trial, folder, "mine", "").id for trial in (TRIAL, OTHER)}
    assert {path.name.partition("-")[2].partition("-")[2].partition("-")[2]
            for path in (folder / "wandb").glob("offline-run-*")} == ids  # fmt: skip


def test_wandb_without_a_login_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(SpecError, match="wandb login"):
        parse_track("wandb", folder).checked(lambda line: None)


def test_trackio_has_every_row_once_after_a_kill(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio", minversion="0.40")
    said: list[str] = []
    track = parse_track("trackio:mine", folder).checked(said.append)
    train(folder, track, 0, 4, said)
    train(folder, track, 3, STEPS, said)
    assert not said
    from trackio.sqlite_storage import SQLiteStorage

    runs = trackio.Api().runs("mine")
    assert len(runs) == 2
    for run in runs:
        rows = SQLiteStorage.get_logs("mine", run.name, run_id=run.id)
        assert sorted((row["step"], row["train_nll"]) for row in rows) == LOSSES


class FakeSwanLab(ModuleType):
    """As the package: one run at a time."""

    def __init__(self) -> None:
        super().__init__("swanlab")
        self.now: dict[str, Any] | None = None
        self.runs: list[dict[str, Any]] = []

    def Settings(self, **asked: Any) -> Any:
        return asked

    def init(self, **asked: Any) -> FakeSwanLab:
        assert self.now is None
        self.now = {**asked, "rows": []}
        self.runs.append(self.now)
        return self

    def log(self, row: Mapping[str, float], step: int) -> None:
        assert self.now is not None
        self.now["rows"].append((step, row["train_nll"]))

    def finish(self, state: str, error: str | None) -> None:
        assert self.now is not None
        assert (state == "crashed") == bool(error)
        self.now = None


def test_swanlab_has_one_run_at_a_time_and_each_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSwanLab()
    monkeypatch.setitem(sys.modules, "swanlab", fake)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setenv("SWANLAB_API_KEY", "a key")
    said: list[str] = []
    track = parse_track("swanlab:we/mine", folder).checked(said.append)
    train(folder, track, 0, 4, said)
    train(folder, track, 3, STEPS, said)
    assert not said
    ids = [facts(trial, folder, "mine", "").id for trial in (TRIAL, OTHER)]
    assert sorted(run["id"] for run in fake.runs) == sorted(ids * 2)
    assert [run["rows"] for run in fake.runs] == [LOSSES[:5]] * 2 + [LOSSES] * 2
    assert {(run["workspace"], run["project"]) for run in fake.runs} == {("we", "mine")}


def test_swanlab_offline_takes_a_pack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("swanlab")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(folder / "swanlog"))
    said: list[str] = []
    train(folder, parse_track("swanlab", folder).checked(said.append), 0, STEPS, said)
    assert not said
    assert len([*(folder / "swanlog").glob("run-*/*.swanlab")]) == 2


def test_swanlab_without_a_key_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", FakeSwanLab())
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    with pytest.raises(SpecError, match="SWANLAB_API_KEY"):
        parse_track("swanlab", folder).checked(lambda line: None)


# --- whatever the tool ----------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self, tool: FakeTool, facts: RunFacts) -> None:
        self.tool, self.facts = tool, facts
        self.rows = tool.rows.setdefault(facts.id, [])
        self.last = max(self.rows, default=-1)

    def log(self, rows: Sequence[Metric]) -> None:
        self.tool.refuse()
        self.rows += [row.step for row in rows]
        self.last = self.rows[-1]

    def end(self, status: str, record: TrialRecord | None) -> None:
        self.tool.refuse()
        self.tool.ends.append(status)
        if record is not None and record.error:
            self.tool.errors.append(record.error)


class FakeTool:
    """Keeps steps by run id; refuses the first few calls."""

    def __init__(self, refusals: int = 0) -> None:
        self.rows: dict[str, list[int]] = {}
        self.ends: list[str] = []
        self.errors: list[str] = []
        self.configs: list[Mapping[str, object]] = []
        self.refusals = refusals

    def __call__(self, where: str) -> FakeTool:
        return self

    def check(self) -> None:
        self.refuse()

    def open(self, facts: RunFacts) -> FakeRun:
        self.refuse()
        self.configs.append(facts.config)
        return FakeRun(self, facts)

    def refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError("nobody listens.")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> FakeTool:
    fake = FakeTool()
    monkeypatch.setattr(module, "TOOLS", {**trackers.TOOLS, "mlflow": fake})
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.01)
    return fake


FAKE = Track("mlflow", "http://localhost:1")


def test_a_stopped_trial_ends_as_stopped_and_goes_on_as_the_same_run(folder: Path, tool: FakeTool) -> None:
    train(folder, FAKE, 0, 4)
    assert tool.ends == ["stopped", "stopped"]
    train(folder, FAKE, 3, STEPS)
    assert tool.ends[2:] == ["finished", "finished"]
    assert list(tool.rows.values()) == [list(range(STEPS + 1))] * 2


def test_a_server_that_is_away_is_said_once_and_gets_everything_later(folder: Path, tool: FakeTool) -> None:
    tool.refusals = 2
    said: list[str] = []
    track = FAKE.checked(said.append)
    train(folder, track, 0, 4, said)
    train(folder, track, 3, STEPS, said)
    assert tool.refusals == 0
    assert len(said) == 1
    assert "nobody listens" in said[0]
    assert "Training goes on" in said[0]
    assert sorted(map(tuple, tool.rows.values())) == [tuple(range(STEPS + 1))] * 2


def test_no_secret_goes_to_a_server(folder: Path, tool: FakeTool) -> None:
    spec = {"model": "tiny", "data": {"train": "https://me:secret@rows.example/a.jsonl"}, "batch_size": 8}
    write_json(folder / "spec.json", {"spec": spec, "resolved": {"steps": STEPS}})
    failed = record(TRIAL, "failed").model_copy(update={"error": "no answer from https://me:secret@rows.example/"})
    with Tracker(FAKE, [].append) as tracker:
        tracker.watching(folder, Silent(), "mine").trial_ended(failed)
    assert tool.errors == ["no answer from https://***@rows.example/"]
    assert tool.configs[0]["data"] == "https://***@rows.example/a.jsonl"


def test_a_server_that_never_comes_stops_nothing(folder: Path, tool: FakeTool) -> None:
    tool.refusals = 10**6
    said: list[str] = []
    train(folder, FAKE, 0, STEPS, said)
    assert len(said) == 1


def test_another_folder_of_the_same_spec_has_other_runs(folder: Path, tmp_path: Path) -> None:
    one = facts(TRIAL, folder, "mine", "")
    assert facts(TRIAL, folder, "mine", "").id == one.id
    assert facts(OTHER, folder, "mine", "").id != one.id
    (folder / "tracking.json").unlink()
    assert facts(TRIAL, folder, "mine", "").id != one.id
    assert one.config["rank"] == 4
    assert one.config["learning_rate"] == 2e-3


def test_nobody_is_asked_without_the_flag(folder: Path) -> None:
    watching = Silent()
    with tracked(None, folder, watching) as observer:
        assert observer is watching
    assert not (folder / "tracking.json").exists()


def test_an_unknown_tool_and_a_missing_package_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="Did you mean 'wandb'"):
        parse_track("wandbb", folder)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install lowregret\[track\]"):
        parse_track("tensorboard", folder)


def test_where_is_everything_after_the_first_colon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert parse_track("mlflow:http://host:5000", folder).where == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert parse_track("mlflow", folder).where == "http://other"


def test_a_row_is_sent_as_numbers_by_name() -> None:
    assert values(metric(3)) == {
        "tokens": 30.0, "train_nll": pytest.approx(1.7), "test_nll": 0.25, "lr": 2e-3, "seconds": 3.0,
    }  # fmt: skip

"""What is done to one policy at a time: put on the base, stepped, saved, loaded, and put back after a kill.

A policy's state is written every SAVE_SECONDS of its training, and when it leaves the engine. What came after is in the
ledger, and is done again when the policy is put back: its numbers are the same to the rounding of packed passes.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from lowregret.engine.checks import forget_gradients
from lowregret.engine.engine import Engine
from lowregret.engine.optim.adamw import AdamParams
from lowregret.engine.policy import LoRAPolicy
from lowregret.engine.state import restore_weights
from lowregret.errors import SpecError
from lowregret.export.peft import export_policy
from lowregret.runs.atomic import make_folder, remove_file, remove_folder
from lowregret.serve.tinker.ledger import CHECKPOINTS, STATES, Answer, Ledger
from lowregret.serve.tinker.passing import pass_all
from lowregret.serve.tinker.reading import read
from lowregret.serve.tinker.tensors import Passing
from lowregret.serve.tinker.work import Create, Export, Load, Save, Step, Task
from lowregret.spec import LoRA

SAVE_SECONDS = 30.0
_ENDING = ".safetensors"
_DRAWN = re.compile(rf"[0-9a-f]{{32}}({re.escape(_ENDING)})?")
"""A name that is drawn here, of a file or a folder."""


@final
class Operations:
    """The policies of a trainer and their files; the engine's thread alone."""

    def __init__(
        self, engine: Engine, ledger: Ledger, pass_tokens: int, most: int, waits: Callable[[str], int]
    ) -> None:
        """`most` policies are on the engine at once, if the others have nothing that waits."""
        self._engine, self._ledger, self._pass_tokens, self._most, self._waits = (
            engine,
            ledger,
            pass_tokens,
            most,
            waits,
        )
        self.resident: dict[str, int] = {}
        """By policy on the engine, the one used longest ago first: the number of the last request in it."""
        self._open: set[str] = set()
        """Those with gradients that wait for a step."""
        self._saved: dict[str, float] = {}
        for name in (CHECKPOINTS, STATES):
            make_folder(ledger.folder / name)
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that nothing names: a process was killed before it did. What else lies there is somebody's: a
        folder may have had checkpoints before it was given to a server."""
        known = self._ledger.files()
        for folder in (CHECKPOINTS, STATES):
            for found in (self._ledger.folder / folder).iterdir():
                if _DRAWN.fullmatch(found.name) and found.name not in known:
                    self._remove(found)

    def place(self, folder: str, file: str) -> Path:
        """Where a file of the ledger lies; its name was drawn here."""
        return self._ledger.folder / folder / file

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir():
            remove_folder(path)
        else:
            remove_file(path)

    def ensure(self, task: Task) -> None:
        """Have the task's policy on the engine, as its requests have left it; others leave if there are too many."""
        model = task.model
        if isinstance(task.work, Load) and task.work.fresh and model not in self.resident:
            self._make_room()
            return
        if model in self.resident:
            self.resident[model] = self.resident.pop(model)
            return
        row = self._ledger.model(model)
        if row is None or row["closed"]:
            raise SpecError(f"{model}: has been unloaded.")
        self._make_room()
        if isinstance(task.work, Create):
            return
        self._restore(model, row)

    def _restore(self, model: str, row: Mapping[str, Any]) -> None:
        since = -1
        try:
            self._engine.add_policy(model, LoRA.model_validate_json(row["method"]), row["seed"])
            if row["state"] is not None:
                self._engine.load(model, self.place(STATES, row["state"]))
                since = row["state_seq"]
            self.resident[model] = since
            for asked in self._ledger.effects(model, since):
                self._again(Task(asked, read(asked)))
                self.resident[model] = asked.seq
        except BaseException:
            self.forget(model)
            raise
        self._saved[model] = time.monotonic()

    def _again(self, task: Task) -> None:
        """Do again what has been answered."""
        if isinstance(task.work, Passing):
            if not task.work.forward_only:
                pass_all(self._engine, {task.model: task.work}, self._pass_tokens)
                self._open.add(task.model)
        elif isinstance(task.work, Step):
            self._step({task.model: task.work.params})
            self._open.discard(task.model)
        elif isinstance(task.work, Load):
            self._load(task, task.work)

    def _make_room(self) -> None:
        """Let the policy go that was used longest ago and has nothing to do, if there are too many."""
        for model in list(self.resident):
            if len(self.resident) < self._most:
                return
            if not self._waits(model):
                self.keep(model)
                self.forget(model)

    def forget(self, model: str) -> None:
        """Take a policy off the engine; what is not in its file is done again when it is back."""
        self.resident.pop(model, None)
        self._open.discard(model)
        self._saved.pop(model, None)
        if model in self._engine.policies:
            self._engine.remove_policy(model)

    def close(self, model: str) -> None:
        """Train a policy no more: its state goes, its checkpoints stay."""
        self.forget(model)
        former = self._ledger.close_model(model)
        if former is not None:
            remove_file(self.place(STATES, former))

    def keep(self, model: str) -> None:
        """Write a policy's state, if it has changed and no gradients wait: a file holds none."""
        row = self._ledger.model(model)
        last = self.resident[model]
        if row is None or model in self._open or last <= (-1 if row["state_seq"] is None else row["state_seq"]):
            return
        file = secrets.token_hex(16) + _ENDING
        self._engine.save(model, self.place(STATES, file))
        former = self._ledger.state_saved(model, file, last)
        if former is not None:
            remove_file(self.place(STATES, former))
        self._saved[model] = time.monotonic()

    def after(self, task: Task, *, failed: bool) -> None:
        """A task has its answer: write the policy's state if it is time to."""
        model = task.model
        if model not in self.resident:
            return
        self.resident[model] = max(self.resident[model], task.asked.seq)
        if failed:
            return
        if isinstance(task.work, Passing) and not task.work.forward_only:
            self._open.add(model)
        elif isinstance(task.work, Step):
            self._open.discard(model)
            if time.monotonic() - self._saved.setdefault(model, time.monotonic()) > SAVE_SECONDS:
                self.keep(model)
        elif isinstance(task.work, Load):
            self.keep(model)

    def step(self, params: Mapping[Task, AdamParams]) -> dict[Task, Answer]:
        """One step of each policy, at once."""
        norms = self._step({task.model: own for task, own in params.items()})
        found = {}
        for task in params:
            norm = norms[task.model]
            found[task] = Answer({"metrics": {"grad_norm": norm} if math.isfinite(norm) else {}}, {})
        return found

    def _step(self, params: Mapping[str, AdamParams]) -> dict[str, float]:
        """A step without a pass before it has gradients of zero, whoever has been beside the policy."""
        for model in params:
            self._engine.policies[model].before_backward()
        return self._engine.optim_step(params)

    def run(self, task: Task) -> Answer:
        """Do what is neither a pass nor a step."""
        work = task.work
        if isinstance(work, Create):
            row = self._ledger.model(task.model)
            assert row is not None
            self._engine.add_policy(task.model, LoRA.model_validate_json(row["method"]), row["seed"])
            self.resident[task.model] = task.asked.seq
            return Answer({"type": "create_model", "model_id": task.model}, {})
        if isinstance(work, Save):
            return self._save(task, work)
        if isinstance(work, Export):
            return self._export(task, work)
        assert isinstance(work, Load)
        self._load(task, work)
        return Answer({"type": "load_weights", "path": work.path, "model_id": task.model}, {})

    def _save(self, task: Task, work: Save) -> Answer:
        known = self._ledger.checkpoint(work.path)
        # One that this very request wrote before a kill, or a full disk, kept its answer from being known, is its own.
        if known is not None and not work.overwrite and known["about"].get("request") != task.asked.id:
            raise SpecError(f"{work.path}: is there already. Give another name, or overwrite.")
        file = secrets.token_hex(16) + _ENDING
        place = self.place(CHECKPOINTS, file)
        self._engine.save(task.model, place)
        about = {**work.about, "request": task.asked.id}
        former = self._ledger.add_checkpoint(work.path, task.model, "weights", file, place.stat().st_size, about)
        if former is not None:
            self._remove(self.place(CHECKPOINTS, former))
        return Answer({"type": "save_weights", "path": work.path}, {})

    def _export(self, task: Task, work: Export) -> Answer:
        folder = secrets.token_hex(16)
        size = export_policy(self._engine, task.model, self.place(CHECKPOINTS, folder))
        told: dict[str, Any] = {"type": "save_weights_for_sampler", "path": work.path}
        if work.path is not None:
            # The folder of one that it replaces stays: samplers may be drawing by it.
            self._ledger.add_checkpoint(work.path, task.model, "sampler_weights", folder, size, work.about)
        if work.sampler is not None:
            self._ledger.add_sampler(work.sampler, work.session, folder, work.path)
            told["sampling_session_id"] = work.sampler
        return Answer(told, {})

    def _load(self, task: Task, work: Load) -> None:
        known = self._ledger.checkpoint(work.path)
        if known is None:
            raise SpecError(f"{work.path}: there is no such checkpoint.")
        place = self.place(CHECKPOINTS, known["file"])
        row, of = self._ledger.model(task.model), self._ledger.model(known["model"])
        assert row is not None
        assert of is not None
        if of["method"] != row["method"]:
            names = [LoRA.model_validate_json(own["method"]).name for own in (of, row)]
            raise SpecError(f"{work.path}: holds {names[0]}, and this model is {names[1]}. Create one that is alike.")
        if task.model not in self._engine.policies or not work.optimizer:
            self.forget(task.model)
            self._engine.add_policy(task.model, LoRA.model_validate_json(row["method"]), row["seed"])
        self.resident[task.model] = max(self.resident.get(task.model, -1), task.asked.seq - 1)
        if work.optimizer:
            self._engine.load(task.model, place)
            forget_gradients(self._engine, task.model)
            self._open.discard(task.model)
            return
        policy = self._engine.policies[task.model]
        assert isinstance(policy, LoRAPolicy)
        restore_weights(policy, place)

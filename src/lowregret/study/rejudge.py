"""More held-out examples: the trials at the best rates are judged again, by their weights or by training them again.

The search goes on comparing rates on the examples that all trials share (`TrialRecord.search_nll`), so the other trials
stay as they are. A trial that is trained again has its own folder for as long as that takes: a kill leaves its record
whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.analysis.learning_rate import best_rate
from lowregret.engine import Engine
from lowregret.errors import RecordsError
from lowregret.export.peft import load_adapter
from lowregret.runs.atomic import make_folder, remove_folder, write_bytes, write_json
from lowregret.runs.files import AGAIN, EXAMPLES, METRICS, TRIAL
from lowregret.runs.records import TrialRecord
from lowregret.runs.shipped import require_shipped
from lowregret.runs.study import note_environment, read_examples, read_trials, shipped_folder, trial_folder
from lowregret.spec import CompareSpec, LoRA
from lowregret.study.observer import Observer
from lowregret.study.resources import TrialResources
from lowregret.study.scheduler import Scheduler
from lowregret.train.inputs import trained_engine
from lowregret.train.sft.work import evaluate, mean_nll

_POLICY = "judged"


@dataclass(frozen=True)
class Rejudging:
    """What it works with."""

    folder: Path
    spec: CompareSpec
    resources: TrialResources
    watching: Observer

    def outdated(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The finished trials at the best rates that were judged by fewer examples than there are now."""
        shared, examples = self.resources.inputs.shared, len(self.resources.inputs.data.test)
        if shared is None:
            return []
        found = []
        for method in self.spec.methods:
            own = [record for record in records if record.method == method.name]
            best = best_rate(own).learning_rate
            found += [record for record in own if record.learning_rate == best and record.status == "finished"]
        return [record for record in found if (record.test_examples or len(shared)) < examples]

    def run(self, session: Mapping[str, str | int], should_stop: Callable[[], bool]) -> None:
        """Judge them all; RecordsError when one cannot be trained again, Interrupted after a clean stop."""
        waiting = self.outdated(read_trials(self.folder))
        if not waiting:
            remove_folder(self.folder / AGAIN)
            return
        gone = [record for record in waiting if not self._weights(record).is_dir()]
        examples = len(self.resources.inputs.data.test)
        self.watching.say(
            f"{examples:,} held-out examples now judge the best rates: {len(waiting) - len(gone)} trials are evaluated "
            f"again, {len(gone)} whose weights are not kept are trained again"
        )
        note_environment(self.folder, dict(session))
        for record in waiting:
            if record not in gone:
                self._evaluate(record)
        if gone:
            self._train(gone, session, should_stop)
        remove_folder(self.folder / AGAIN)

    def _weights(self, record: TrialRecord) -> Path:
        return trial_folder(self.folder, record.id) / shipped_folder(record)

    def _evaluate(self, record: TrialRecord) -> None:
        """Judge a trial by its weights; examples.json first, so that the record never tells of more than there is."""
        inputs, weights = self.resources.inputs, self._weights(record)
        home = trial_folder(self.folder, record.id)
        require_shipped(record, weights, f"Bring it back, or delete {home / TRIAL}: the trial is repeated.")
        adapted = isinstance(record.spec.method, LoRA)
        quantisation = record.spec.method.quantisation
        engine = self.resources.engine(quantisation) if adapted else trained_engine(inputs.spec, weights)
        policy = "base"
        if adapted:
            policy = load_adapter(engine, _POLICY, weights).name
        began = time.perf_counter()
        losses = evaluate(engine, [policy], inputs.examples.test)[policy]
        seconds = time.perf_counter() - began
        if adapted:
            engine.remove_policy(policy)
        nll = mean_nll(losses)
        if not math.isfinite(nll):
            raise RecordsError(
                f"{weights}: its held-out loss is {nll}. Delete the folder and run the same command again."
            )
        judged = record.model_copy(
            update={
                "test_nll": nll,
                "search_nll": record.shared_loss,
                "test_tokens": sum(losses.tokens),
                "test_examples": len(losses.tokens),
                "evaluation_seconds": seconds,
            }
        )
        write_json(home / EXAMPLES, losses)
        write_json(home / TRIAL, judged)

    def _train(
        self, gone: Sequence[TrialRecord], session: Mapping[str, str | int], should_stop: Callable[[], bool]
    ) -> None:
        """Train those again in a folder of their own, then put what came of it in place."""
        folder = self.folder / AGAIN
        make_folder(folder)
        for record in read_trials(folder):  # of a kill before still more examples were asked for
            if record.status == "finished" and record.test_examples != len(self.resources.inputs.data.test):
                remove_folder(trial_folder(folder, record.id))
        trials = [record.spec for record in gone]
        identity = self.resources.inputs.identity
        scheduler = Scheduler(folder, self.spec, {}, self.watching, identity, _keep_nothing, only=trials)
        scheduler.run(self.resources, session, should_stop)
        found = {record.spec: record for record in read_trials(folder)}  # ids of before 0.3.0 are other ones
        for record in gone:
            again = found[record.spec]
            if again.status == "failed":
                raise RecordsError(f"{trial_folder(folder, again.id)}: trained again, the trial failed: {again.error}")
            source, home = trial_folder(folder, again.id), trial_folder(self.folder, record.id)
            if again.status == "finished":
                write_json(home / EXAMPLES, read_examples(source / EXAMPLES))
            write_bytes(home / METRICS, (source / METRICS).read_bytes())
            write_json(home / TRIAL, again.model_copy(update={"id": record.id}))


def _keep_nothing(engine: Engine, policy: str, record: TrialRecord) -> None:
    """The weights that are kept are those of the best trial, which has them already."""

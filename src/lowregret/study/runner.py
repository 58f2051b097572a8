"""`lowregret compare`: ask the search for trials, run them, judge, and keep the winners.

The folder is the whole state: what was done is read from it, and what comes next is a pure function of what was done.
So a study that was killed at any moment goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lowregret.analysis.comparison import Examples
from lowregret.analysis.regret import judge
from lowregret.analysis.start import start_loss
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.records import TrialRecord, Verdict, make_folder, read_examples, write_json
from lowregret.spec import CompareSpec
from lowregret.study.bench import Bench, environment_of, note_base, note_environment
from lowregret.study.crew import Crew, Observer, Silent
from lowregret.study.search import describe
from lowregret.study.winners import keep_winners
from lowregret.train.checkpoint import read_checkpoint
from lowregret.train.folder import claim, opened
from lowregret.train.interrupt import stop_requests
from lowregret.train.job import grading, open_inputs
from lowregret.train.pack import Hooks, Interrupted
from lowregret.train.step import EXAMPLES
from lowregret.train.trial import RECORD

VERDICT = "verdict.json"


def compare(
    spec: CompareSpec,
    out: str | Path,
    *,
    command: str = "lowregret.compare(...)",
    observer: Observer | None = None,
) -> Verdict:
    """Answer "LoRA or full fine-tuning?" for a base and data, and leave the evidence in `out`.

    Started again with the same spec it goes on, and repeats at most the steps since the last checkpoint. Raises
    LowregretError, or Interrupted after a clean stop.
    """
    watching = observer or Silent()
    with opened(Path(out)) as folder, stop_requests(watching.say) as should_stop, grading(spec) as grader:
        session = environment()
        inputs = open_inputs(spec, watching.say)
        for line in inputs.advice(spec.methods):
            watching.say(line)
        priors = {method.name: inputs.prior(method).value for method in spec.methods}
        claim(folder, spec, {**inputs.resolved, "priors": priors}, command)
        make_folder(folder / "trials")
        bench = Bench(spec, inputs, grader, watching.say)
        note_base(folder, bench)
        checkpoint = read_checkpoint(folder)
        crew = Crew(folder, spec, priors, watching, checkpoint)
        while checkpoint or crew.wanted():
            if should_stop():
                raise Interrupted
            note_environment(folder, {**session, "threads": torch.get_num_threads()})
            if crew.train(bench.task(), Hooks(watching.step, crew.should_prune, should_stop), checkpoint):
                bench.spent()
            checkpoint = None
        records = crew.records
        before = start_loss(folder)
        verdict = judge(spec, records, _losses(folder, records), before, environment_of(folder), describe(spec))
        keep_winners(folder, verdict, records)
        write_json(folder / VERDICT, verdict)
        return verdict


def _losses(folder: Path, records: Sequence[TrialRecord]) -> dict[str, Examples]:
    found = {}
    for record in (record for record in records if record.status == "finished"):
        home = folder / "trials" / record.id
        try:
            found[record.id] = read_examples(home / EXAMPLES)
        except RecordsError as error:
            problem = str(error).partition(" Delete")[0]
            raise RecordsError(
                f"{problem} Delete {home / RECORD} and run the same command again: the trial is repeated."
            ) from None
    return found

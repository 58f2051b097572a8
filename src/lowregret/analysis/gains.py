"""What training together and stopping early have saved: two gains, each by itself. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Gains


def seconds_alone(record: TrialRecord) -> float:
    """What a trial takes by itself: its own time, with the shared steps at the pace of its step alone."""
    return record.seconds - record.shared_seconds + record.shared_seconds_alone


def measure_gains(records: Sequence[TrialRecord]) -> Gains:
    """Sum up what the trials of a study recorded.

    The packing gain compares the same training steps in two ways: the time that they took in shared passes, and an
    estimate of what they would have taken one trial after the other. The estimate goes by each trial's second step,
    which it takes in passes of its own, per token. Evaluations and the first two steps are on neither side. What early
    stopping left out is counted in steps: those that pruned and diverged trials lack compared with a whole trial.
    """
    packed = [record for record in records if record.shared_seconds_alone > 0]
    shared = sum(record.shared_seconds for record in packed)
    alone = sum(record.shared_seconds_alone for record in packed)
    whole = max((record.steps for record in records if record.status == "finished"), default=0)
    stopped = [record for record in records if record.status in ("pruned", "diverged")]
    left = {record.id: max(whole - record.steps, 0) for record in stopped}
    return Gains(
        packed_trials=len(packed),
        largest_pack=max((record.pack_size for record in records), default=1),
        shared_seconds=shared,
        shared_seconds_alone=alone,
        packing_gain=alone / shared if shared > 0 else None,
        steps=sum(record.steps for record in records),
        steps_left_out=sum(left.values()),
        seconds_left_out=sum(left[record.id] * record.seconds / record.steps for record in stopped if record.steps),
    )


def sentences(gains: Gains, records: Sequence[TrialRecord]) -> list[str]:
    """Both gains of these trials in words; nothing of one that there was not."""
    said: list[str] = []
    if gains.packing_gain is not None:
        said.append(
            f"Packing: {gains.packed_trials} trials were trained together, up to {gains.largest_pack} at once. The "
            f"steps in shared passes took {gains.shared_seconds:.1f} s and would have taken about "
            f"{gains.shared_seconds_alone:.1f} s one trial after the other, {gains.packing_gain:.2g} times as long "
            "(an estimate from each trial's second step, which runs alone)."
        )
    if gains.steps_left_out:
        total = gains.steps + gains.steps_left_out
        said.append(
            f"Stopping early: {_stopped(records)} left out {gains.steps_left_out:,} of {total:,} steps "
            f"({100 * gains.steps_left_out / total:.0f} %), about {gains.seconds_left_out:.1f} s of training."
        )
    return said


def _stopped(records: Sequence[TrialRecord]) -> str:
    """What trials did not go to their end."""
    pilots = "pilots" * any(record.pilot for record in records)
    others = "pruned and diverged trials" * any(
        record.status in ("pruned", "diverged") and not record.pilot for record in records
    )
    return ", ".join(part for part in (pilots, others) if part)

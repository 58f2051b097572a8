"""What trainings that are about to start take: told before the first one, so that nobody is surprised. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.plan.formatting import money
from lowregret.quantities import byte_count, duration

TRAINING, JUDGING, SAMPLING = "training steps", "held-out evaluation", "sampling"
_DOMINATES = 0.5
"""Of the time: a part that takes more, and is no training, is named."""
ASKED_SECONDS = 3600.0
"""A job that takes longer, by the plan, is begun on a terminal only when the user says so."""


@dataclass(frozen=True)
class MethodPrice:
    """The trials of one method that are still to be trained."""

    method: str
    trials: int
    """A guess: the search decides."""
    full_trials: float
    """What they come to in whole trials, where some are stopped early or have begun before."""
    steps: int
    """Of each."""
    judged: tuple[int, ...] = ()
    """After which of them each is evaluated."""
    parts: tuple[tuple[str, float], ...] = ()
    """(TRAINING, JUDGING or SAMPLING, seconds of one whole trial); () where the plan cannot tell."""
    group: str = ""
    """The label of the study's group that they are of."""

    def until(self, step: int) -> float:
        """Seconds of a trial's steps up to this one, by the plan; where that cannot tell, how many they are."""
        if not self.parts:
            return float(step)
        passed = step / max(self.steps, 1)
        judged = sum(at <= step for at in self.judged) / max(len(self.judged), 1)
        return sum(seconds * (judged if part == JUDGING else passed) for part, seconds in self.parts)

    @property
    def seconds(self) -> float | None:
        """Of all of them."""
        return self.full_trials * sum(each for _, each in self.parts) if self.parts else None


@dataclass(frozen=True)
class Price:
    """All that is still to be trained."""

    methods: tuple[MethodPrice, ...]
    machine: str
    """What it is counted for; empty where nothing is known of it."""
    memory_bytes: int | None = None
    """Of each device, at the most; None where the plan cannot tell."""
    has_bytes: int | None = None
    """What the device has."""
    disk_bytes: int = 0
    """Of checkpoints and winners, at the most."""
    free_bytes: int | None = None
    """Of the disk."""
    dollars_per_hour: float | None = None
    at_once: int = 1
    """Trainings that go on side by side."""
    remedies: tuple[tuple[str, str], ...] = ()
    """(part, what to type so that it takes less)."""

    @property
    def trials(self) -> int:
        return sum(each.trials for each in self.methods)

    @property
    def seconds(self) -> float | None:
        """Of all; None where the plan cannot tell of one."""
        found = [each.seconds for each in self.methods if each.trials]
        known = [each for each in found if each is not None]
        return sum(known) / self.at_once if len(known) == len(found) else None

    @property
    def shares(self) -> dict[str, float]:
        """Part → share of the time."""
        found: dict[str, float] = {}
        for each in self.methods:
            for part, seconds in each.parts:
                found[part] = found.get(part, 0.0) + each.full_trials * seconds
        total = sum(found.values())
        return {part: seconds / total for part, seconds in found.items()} if total else {}

    @property
    def asks(self) -> bool:
        """Whether it takes so long that the user is asked first."""
        return (self.seconds or 0.0) > ASKED_SECONDS

    def lines(self) -> list[str]:
        """What to say of it; nothing where nothing is left to train."""
        if not self.trials:
            return []
        about = "about " * (self.trials > 1)
        said = [f"price: {about}{counted(self.trials)}, {self._time()}{self._room()}"]
        for part, share in self.shares.items():
            if part != TRAINING and share > _DOMINATES:
                remedy = dict(self.remedies).get(part, "")
                said.append(f"price: {part} is {100 * share:.0f} % of it{remedy and f': {remedy}'}")
        if self.memory_bytes and self.has_bytes and self.memory_bytes > self.has_bytes:
            said.append(
                f"price: memory may not do: {byte_count(self.memory_bytes)} are needed, and the device has "
                f"{byte_count(self.has_bytes)}. `lowregret plan` says what makes it fit"
            )
        if self.free_bytes is not None and self.disk_bytes > self.free_bytes:
            said.append(
                f"price: the disk may not do: up to {byte_count(self.disk_bytes)} are written, and "
                f"{byte_count(self.free_bytes)} are free"
            )
        return said

    def _time(self) -> str:
        seconds = self.seconds
        if seconds is None:
            return "time known once the first steps are timed"
        most = "up to " if SAMPLING in self.shares else ""
        return f"{most}{duration(seconds)}{self.paid(seconds)} on {self.machine}"

    def paid(self, seconds: float) -> str:
        """` ($1.20)`, where a price is known."""
        return "" if self.dollars_per_hour is None else f" ({money(seconds / 3600 * self.dollars_per_hour)})"

    def _room(self) -> str:
        memory = "" if self.memory_bytes is None else f", {byte_count(self.memory_bytes)} of memory"
        disk = f", up to {byte_count(self.disk_bytes)} of disk" if self.disk_bytes else ""
        return memory + disk


def counted(trials: int) -> str:
    """`1 trial`, `14 trials`."""
    return f"{trials} trial{'s' * (trials != 1)}"

"""What `lowregret plan --study NAME --cluster …` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from lowregret.cli.outcome import say
from lowregret.plan.formatting import share
from lowregret.progress.console import make_console
from lowregret.quantities import duration

if TYPE_CHECKING:
    from lowregret.study.cluster import SimulatedStudy


def show_simulation(study: str, found: Sequence[SimulatedStudy]) -> None:
    """A line a cluster, and what holds the largest one up."""
    first = found[0]
    say(
        f"study {study}: {len(first.groups)} groups, about {first.trials:,} trials, on {first.hardware.name}; simulated"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("devices", "until all is trained", "used", "dollars", "groups that lost a node", "devices a group"):
        table.add_column(column, justify="right")
    for each in found:
        counts = sorted(group.cost.needs.gpus for group in each.groups)
        money = "" if each.simulation.money is None else f"{each.simulation.money:,.0f}"
        table.add_row(
            str(each.devices),
            duration(each.simulation.seconds),
            share(each.simulation.utilisation),
            money,
            f"{each.simulation.losses:.1f}",
            f"{counts[0]:g} to {counts[-1]:g}",
        )
    make_console().print(table)
    longest = first.longest
    say(
        f"The longest group, {longest.key}, takes {duration(longest.cost.seconds)} on {longest.cost.needs.gpus:g} "
        "of them: the study takes as long at least, unless a larger cluster gives that group more devices."
    )
    say("Trials of one group follow each other as its search asks, so that a study is spread by its groups.")
    if any(" rl " in f" {group.key}" for group in first.groups):
        say("With rewards the time of sampling is not counted.")

"""`lowregret bank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.options import positional
from lowregret.cli.outcome import aside, say, say_json
from lowregret.errors import SpecError


@verb("bank")
def bank(
    action: Annotated[str, positional("list, or add with folders of comparisons.", "ACTION", required=True)],
    /,
    *folders: Annotated[Path, positional("Folders that `lowregret compare` has left, to add.", "FOLDER")],
    bank: o.BankFile = None,
    as_json: o.Json = False,
) -> None:
    """`lowregret bank add runs/mine` adds a comparison, `lowregret bank list` shows what there is. An entry has the
    curves of the search, the regret and digests; no row of the data, no path and no name of a model.
    """
    from lowregret.analysis.forecast.banks import load_bank, own_bank
    from lowregret.analysis.forecast.entry import finished_entry
    from lowregret.runs.bank import added, changing, mend_bank, write_bank

    path = own_bank(bank)
    if action == "add":
        if not folders:
            raise SpecError("bank add: name the folder of a finished comparison: lowregret bank add RUN.")
        new = [finished_entry(folder) for folder in folders]
        path.parent.mkdir(parents=True, exist_ok=True)
        with changing(path):
            entries, lost = mend_bank(path) if path.exists() else ([], "")
            for entry in new:
                entries = added(entries, entry)
            write_bank(path, entries)
        if lost:
            aside(lost)
        if as_json:
            say_json({"bank": str(path), "comparisons": len(entries)})
        else:
            say(f"{path}: {len(entries)} comparison{'s' if len(entries) > 1 else ''} of your own")
        return
    if action != "list" or folders:
        raise SpecError(f"bank {action}: there are `lowregret bank list` and `lowregret bank add RUN`.")
    found = load_bank(bank)
    rows = [
        {
            "identity": entry.identity[:12],
            "steps": entry.steps,
            "epochs": round(entry.epochs, 2),
            "base_nll": entry.base_nll,
            "regret": {m.name: m.regret_nats for m in entry.methods if m.regret_nats is not None},
        }
        for entry in found.entries
    ]
    if as_json:
        say_json({"comparisons": rows, "own": found.own})
        return
    _table(rows)
    say(found.words())


def _table(rows: list[dict[str, object]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from lowregret.progress.console import make_console

    table = Table(box=None, pad_edge=False)
    for column in ("comparison", "steps", "epochs", "base's loss", "regret in nats"):
        table.add_column(column)
    for row in rows:
        regrets = row["regret"]
        assert isinstance(regrets, dict)
        said = ", ".join(f"{name} {value:+.3f}" for name, value in regrets.items())
        table.add_row(str(row["identity"]), str(row["steps"]), str(row["epochs"]), f"{row['base_nll']:.3f}", Text(said))
    make_console().print(table)

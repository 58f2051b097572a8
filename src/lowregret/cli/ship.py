"""`lowregret ship`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, aside, plain, say, say_json
from lowregret.errors import SpecError, did_you_mean
from lowregret.quantities import byte_count
from lowregret.runs.commands import rendered
from lowregret.runs.files import SHIPPED
from lowregret.runs.forms import Form
from lowregret.runs.proof import Proof
from lowregret.ship.winner import METHODS, Winner, find

FORMS = get_args(Form)
DTYPES = ("float32", "bfloat16", "float16")
GIGABYTE = 10**9


@verb("ship")
def ship(
    run: Annotated[
        Path,
        positional(
            "A folder of `lowregret compare` (what its verdict recommends) or `train`; or one with an adapter or a "
            "model, such as RUN/best/lora.",
            "RUN",
            required=True,
        ),
    ],
    /,
    *,
    to: Annotated[
        str,
        option(
            "peft: the adapter; merged: a whole Hugging Face model; gguf: a whole model for llama.cpp; gguf-lora: the "
            "adapter for llama.cpp; ollama: a folder for `ollama create`."
        ),
    ],
    out: Annotated[Path | None, option("A new folder. (default: RUN/shipped/lora-FORM or full-FORM)")] = None,
    method: Annotated[
        str | None, option("lora or full, of a compare's two winners. (default: what the verdict recommends)")
    ] = None,
    model: Annotated[str | None, option("The base of an adapter. (default: the one that it was trained on)")] = None,
    dtype: o.Dtype = None,
    kind: o.Kind = None,
    shard_size: o.ShardSize = None,
    name: Annotated[str | None, option("What servers and the card call it. (default: by the run)")] = None,
    base_name: Annotated[
        str | None, option("What the base is called on the hub, ORG/NAME, where its files do not tell.")
    ] = None,
    push: Annotated[
        str | None, option("Publish the folder on the hub as ORG/NAME, or NAME of your own; private, if not --public.")
    ] = None,
    public: Annotated[bool, option("Of --push: a new repository is public.")] = False,
    overwrite: Annotated[bool, option("Of --push: replace the files of a repository that holds some.")] = False,
    as_json: o.Json = False,
) -> None:
    """The files that were written are read by another program (PEFT, transformers or llama.cpp) and held against what
    was trained: proof.json and README.md say how near they are. Beyond a stated bound nothing is left there.
    """
    if push is None and (public or overwrite):
        raise SpecError(f"--{'public' if public else 'overwrite'}: is of use with --push alone. Leave it out.")
    if method is not None and method not in METHODS:
        raise SpecError(f"--method {method!r}: no such kind. {did_you_mean(method, METHODS)}")
    winner = find(run, model, method)
    folder = out or winner.home / SHIPPED / f"{winner.kind}-{to}"
    found = deliver(winner, folder, to, dtype, kind, shard_size, name, base_name, quiet=as_json)
    if push is not None:
        from lowregret.export.push import push as publish

        found["published"] = publish(folder, push, private=not public, overwrite=overwrite)
        aside(f"published: {found['published']}")
    if as_json:
        say_json(found)


def deliver(
    winner: Winner,
    out: Path,
    form: str,
    dtype: str | None = None,
    kind: str | None = None,
    shard_size: float | None = None,
    name: str | None = None,
    base_name: str | None = None,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Ship a winner and say what was written, how near it is and what to type next; the same as data."""
    if form not in FORMS:
        raise SpecError(f"--to {form!r}: no such form. {did_you_mean(form, FORMS)}")
    if dtype is not None and dtype not in DTYPES:
        raise SpecError(f"--dtype {dtype!r}: no such type. {did_you_mean(dtype, DTYPES)}")
    if shard_size is not None and not 0.001 <= shard_size <= 10**6:
        raise SpecError(f"--shard-size {shard_size:g}: is in GB, from 0.001 to a million.")
    from lowregret.cli.progress import activities_shown

    with activities_shown(), doing(LIBRARIES):
        from lowregret.export.merged.write import SHARD_BYTES
        from lowregret.ship.ship import Wanted
        from lowregret.ship.ship import ship as write

    most = SHARD_BYTES if shard_size is None else int(shard_size * GIGABYTE)
    wanted = Wanted(_form(form), dtype, kind, most, name, base_name)
    with activities_shown():
        made = write(winner, wanted, out, aside)
    for note in made.notes:
        aside(f"note: {note}")
    if not quiet:
        say("\n".join((f"{out}: {what(winner)} as {form}", *proved(made.proof))))
        say(f"\nWhat to type next:\n\n{rendered(made.commands)}")
    return {
        "written": str(out),
        "form": form,
        "proof": plain(made.proof),
        "commands": [{"title": each.title, "language": each.language, "text": each.text} for each in made.commands],
    }


def what(winner: Winner) -> str:
    """What is shipped, in words."""
    if not winner.adapters:
        return f"{winner.model}"
    return " + ".join(f"{folder}" if share == 1 else f"{share:g} · {folder}" for folder, share in winner.adapters)


def proved(proof: Proof) -> Sequence[str]:
    """What a proof says, in lines."""
    size = f"{byte_count(proof.bytes)}, {proof.precision}"
    if proof.largest_difference is None:
        return [f"{size}; NOT proved: {proof.note}"]
    lines = [
        f"{size}; read by {proof.reader}: {proof.compared} differ by at most {proof.largest_difference:.2g} "
        f"({proof.mean_difference:.2g} in the mean) at {proof.positions:,} positions"
    ]
    if proof.held_out is not None:
        loss = proof.held_out
        trained = f"{loss.trained:.6f} as trained"
        if loss.quantised is not None:
            trained = (
                f"{loss.quantised:.6f} as trained over a quantised base; {loss.trained:.6f} over the base as it is"
            )
        lines.append(
            f"held-out loss: {trained}, {loss.shipped:.6f} as shipped, nats per supervised token ({loss.examples} "
            "examples)"
        )
    if proof.greedy_tokens is not None:
        lines.append(
            f"greedy replies: the first {proof.same_greedy_tokens} of {proof.greedy_tokens} tokens are the same"
        )
    if proof.updates_lost is not None:
        lines.append(f"rounding gave {proof.updates_lost:.2%} of the updated entries back to the base")
    return lines


def _form(name: str) -> Form:
    return next(form for form in FORMS if form == name)

"""`lowregret study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowregret.cli import options as o
from lowregret.cli.outcome import command_line, exit_codes

if TYPE_CHECKING:
    from lowregret.questions.base import Question
    from lowregret.questions.judge import Claims

_QUICK = "A reduced size: `study all --quick` takes less than half an hour on 2 cores."


def study(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe (recipes/study_*.toml), the name of a question with its defaults (rank, learning-rate, …), "
            "or `all` but rl, which samples and so takes half as long as all others.",
            show_default=False,
        ),
    ],
    model: o.Model = None,
    data: o.Data = None,
    eval_data: o.EvalData = None,
    quick: Annotated[bool, typer.Option("--quick", help=_QUICK)] = False,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. (default: runs/study-NAME)", show_default=False)
    ] = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trials at the rates that a claim rests on. (default: 3)", show_default=False)
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Ranks, separated by commas. (default: the question's)", show_default=False)
    ] = None,
    evals: Annotated[
        int | None,
        typer.Option(help="Held-out evaluations per trial. (default: the question's)", show_default=False),
    ] = None,
    max_length: o.MaxLength = None,
    max_train: o.MaxTrain = None,
    max_eval: o.MaxEval = None,
    precision: o.Precision = None,
    device: o.Device = None,
    micro_batch_size: o.MicroBatchSize = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that train side by side. (default: as many as cores for a small base on a CPU, else 1)",
            show_default=False,
        ),
    ] = None,
    track: o.Track = None,
    quiet: o.Quiet = False,
) -> None:
    """Answer one question of the post, or all, on this base and these data, and judge its claims.

    A question that asks for more ranks, seeds or sizes than its folder holds extends it: what is there is not repeated.

    The same command goes on where it was stopped.
    """
    flags: dict[str, Any] = dict(locals())
    for name in ("recipe", "quick", "out", "workers", "track", "quiet"):
        flags.pop(name)
    with exit_codes(resumable=True):
        from lowregret.cli.progress import Progress

        flags["ranks"] = _ranks(ranks)
        studies = _studies(recipe, quick, out, flags)
        with Progress(quiet=quiet) as progress:
            for folder, question in studies.items():
                progress.say(f"study: {folder}")
                if len(studies) == 1:
                    progress.say(o.filled_in(question))
            from lowregret.report.pages.studies import write_page
            from lowregret.study.suite import run_studies
            from lowregret.study.tracking.tracker import parse_track

            root = _root(recipe, out, studies)
            runs = None if track is None else parse_track(track, root).checked(progress.say)
            found = run_studies(studies, workers=workers, command=command_line(), observer=progress, track=runs)
            page = write_page(list(studies), root)
        _show(found)
        typer.echo(f"report: {page}")


def _ranks(text: str | None) -> list[int] | None:
    from lowregret.errors import SpecError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--ranks {text!r}: give whole numbers separated by commas, such as 1,4,16.") from None


def _studies(recipe: str, quick: bool, out: Path | None, flags: dict[str, Any]) -> dict[Path, Question]:
    """Folder → question."""
    from lowregret.errors import SpecError, did_you_mean
    from lowregret.questions.registry import QUESTIONS, make_question
    from lowregret.spec import read_toml

    if recipe == "all":
        given = {name: value for name, value in flags.items() if value is not None}
        unfit = sorted(given.keys() - {"model", "data", "eval_data", "seeds", "precision", "device"})
        if unfit:
            name = unfit[0].replace("_", "-")
            raise SpecError(f"--{name}: is of no use with `all`, whose questions differ in it. Leave it out.")
        root = out or Path("runs/study-all")
        return {
            root / kind: make_question(
                {"kind": kind},
                quick=quick,
                flags={name: value for name, value in flags.items() if name not in question.OWN},
            )
            for kind, question in QUESTIONS.items()
            if question.IN_ALL
        }
    if recipe in QUESTIONS:
        question = make_question({"kind": recipe}, quick=quick, flags=flags)
        return {out or Path("runs") / f"study-{recipe}": question}
    if not recipe.endswith(".toml"):
        raise SpecError(
            f"no question named {recipe!r}. {did_you_mean(recipe, (*QUESTIONS, 'all'))} Or name a .toml file."
        )
    question = make_question(read_toml(recipe), quick=quick, flags=flags, source=recipe)
    return {out or Path("runs") / Path(recipe).stem.replace("_", "-"): question}


def _root(recipe: str, out: Path | None, studies: dict[Path, Question]) -> Path:
    """Where the page goes: beside the one study, or above all."""
    first = next(iter(studies))
    return (out or first.parent) if recipe == "all" else first


def _show(found: dict[Path, Claims]) -> None:
    from rich.table import Table
    from rich.text import Text

    from lowregret.cli.progress import make_console
    from lowregret.report.pages.claims import interval_text, value_text

    table = Table(box=None, pad_edge=False)
    for column in ("claim", "ruling", "here", "95 % interval", "threshold"):
        table.add_column(column)
    for claims in found.values():
        for claim in claims.claims:
            table.add_row(
                Text(f"{claim.statement.number} {claim.statement.sentence}"),
                claim.ruling,
                value_text(claim),
                interval_text(claim),
                claim.statement.threshold,
            )
    make_console().print(table)

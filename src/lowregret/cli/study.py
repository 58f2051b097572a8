"""`lowregret study`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lowregret import limits
from lowregret.activity import doing
from lowregret.cli import objective as objectives
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.config import show_config as print_config
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, command_line, plain, say, say_json
from lowregret.cli.specs import filled_in
from lowregret.cli.watch import watched
from lowregret.digests import forget_digests
from lowregret.errors import RecordsError, SpecError, did_you_mean
from lowregret.questions.question import Question
from lowregret.spec import read_toml
from lowregret.spec.recipes import recipes

if TYPE_CHECKING:
    from lowregret.questions.judge import Claims
    from lowregret.study.status import StudyStatus

_OF_ALL = {"model", "data", "eval_data", "seeds", "precision", "device", "devices", "parallel"}
"""Flags that are of use with `all`."""
_ITS_OWN = "the question's"
_WIDE = 140
"""Characters of a line of a table that goes into a file or through a pipe."""
STATUS = "status"
"""In the place of a recipe: how far a study is."""
_OF_STATUS = {"recipe", "folder", "store", "as_json", "flags"}
"""What `status` is asked with."""
ASKS = VerbFlags(
    Question,
    leaves_out={
        "the question fixes it; a recipe may change it": (
            "objective", "optimizer", "balance_experts", "first_eval", "prune",
        ),
        "the data are the question's, or of known columns": (
            "data.prompt_field", "data.completion_field", "data.overlong", "data.eval_fraction", "data.split_seed",
            "data.skip_bad_rows",
        ),
        "a study's length is given in steps": ("epochs",),
        "many small trials share the machine; a recipe may change it": (
            "memory_gb", "checkpoint_activations", "offload_activations", "checkpoint_seconds",
        ),
    },
    defaults=dict.fromkeys(
        ("model", "data", "eval_data", "steps", "batch_size", "evals", "max_length", "max_eval"), _ITS_OWN
    ),
)  # fmt: skip


_Recipe = Annotated[
    str,
    positional(
        "A recipe (its file, or its name in `lowregret recipes`), the name of a question with its defaults (rank, "
        "learning-rate, …), or `all` but rl, which samples and so takes half as long as all others. Or `status`, "
        "which says how far the study in FOLDER is, whoever trains it and wherever.",
        "RECIPE",
    ),
]
_Folder = Annotated[
    Path | None, positional("With `status`: the study's folder, or one of several studies.", "[FOLDER]")
]
_Quick = Annotated[bool, option("A reduced size: `study all --quick` takes less than half an hour on 2 cores.")]
_Out = Annotated[Path | None, option("The study's folder. (default: runs/study-NAME)")]
_Ranks = Annotated[str | None, option(f"Ranks, separated by commas. (default: {_ITS_OWN})")]
_Targets = Annotated[
    str | None, option(f"The matrices that carry its LoRAs, as --targets of `compare`. (default: {_ITS_OWN})")
]
_Task = Annotated[
    str | None,
    option("The reward function of yours that the recipe names: named here too, or it is not run."),
]
_TrustTask = Annotated[
    bool, option("Do not confine it; or grade where completions that run as Python cannot be confined.")
]
_Workers = Annotated[
    int | None,
    option(
        "Processes that train side by side; with --ray or --slurm, at most so many groups at a time. (1 or more; "
        "default: as many as cores for a small base on a CPU, else 1; on a cluster as many as have room)"
    ),
]
_Ray = Annotated[
    str | None,
    option(
        "Train on a Ray cluster: HOST:PORT of its head, auto on a node of one, or local to start one here. Needs "
        "lowregret[cluster]. (default: this machine, without Ray)"
    ),
]
_Slurm = Annotated[
    str | None,
    option(
        "Train as SLURM jobs, a group each, asked for with partition=P,account=A,qos=Q,time=MINUTES,gpu=NAME, …; "
        "defaults asks for none of these, local runs the same here without SLURM. Needs lowregret[cluster]. "
        "(default: this machine)"
    ),
]
_Store = Annotated[
    str | None,
    option(
        "Keep the study in an object store as well (s3://BUCKET/NAME, gs://…, az://…): any machine goes on with it "
        "there, and with --ray and --slurm no folder need be shared. With `status`: look there. Needs "
        "lowregret[store]. (default: --out alone)"
    ),
]
_TakeFrom = Annotated[
    str | None,
    option(
        "Folders of other studies, separated by commas: trials that ended there are taken over where this study asks "
        "for the same training of the same base and data. (default: every trial is trained)"
    ),
]
_Settle = Annotated[
    bool,
    option(
        "Give a question no further seeds, of more than three, once all its claims are settled: at 5 % over all "
        "looks together."
    ),
]
_Budget = Annotated[
    str | None,
    option(
        "Spend so much time (30min, 4h, 2d) or money ($20): what is asked for first, then further seeds of what is "
        "most open. (default: as long as what is asked for takes)"
    ),
]


@verb("study", ASKS.parameters())
def study(
    recipe: _Recipe,
    folder: _Folder = None,
    /,
    *,
    quick: _Quick = False,
    out: _Out = None,
    ranks: _Ranks = None,
    targets: _Targets = None,
    task: _Task = None,
    trust_task: _TrustTask = False,
    workers: _Workers = None,
    ray: _Ray = None,
    slurm: _Slurm = None,
    store: _Store = None,
    take_from: _TakeFrom = None,
    settle: _Settle = False,
    budget: _Budget = None,
    as_json: o.Json = False,
    track: o.Track = None,
    rehash: o.Rehash = False,
    yes: o.Yes = False,
    show_config: o.ShowConfig = False,
    watch: o.Watch = False,
    quiet: o.Quiet = False,
    **flags: Any,
) -> None:
    """A question that asks for more ranks, seeds or sizes than its folder holds extends it: what is there is not
    repeated.
    """
    if recipe == STATUS or folder is not None:
        _require_status_alone({**locals(), **flags})
        _show_status(recipe, folder, store, as_json)
        return
    _require_workers(workers)
    flags |= ({} if ranks is None else {"ranks": _ranks(ranks)}) | ({} if targets is None else {"targets": targets})
    studies = _studies(recipe, quick, out, flags, {"task": task, "trust_task": trust_task or None})
    if show_config:
        print_config({str(folder): question for folder, question in studies.items()}, as_json)
        return
    if rehash:
        forget_digests()
    from lowregret.cli.progress import live_progress

    with (
        live_progress(quiet=quiet, to_stderr=as_json, yes=yes) as progress,
        watched(watch, list(studies), progress.say),
    ):
        for line in _asked(studies):
            progress.say(line)
        with doing(LIBRARIES):
            from lowregret.study.budget import parse_budget
            from lowregret.study.execute.choose import Place
            from lowregret.study.suite import run_studies
            from lowregret.study.tracking.tracker import parse_track

        root = _root(recipe, out, studies)
        found = run_studies(
            studies,
            place=Place(workers, ray, slurm),
            command=command_line(),
            observer=progress,
            track=None if track is None else parse_track(track, root).checked(progress.say),
            settle=settle,
            budget=None if budget is None else parse_budget(budget),
            stores=_stores(store, studies),
            take_from=_folders(take_from),
        )
        page = _page(studies, found, root, progress.say)
    _tell(found, page, as_json)


def _asked(studies: dict[Path, Question]) -> Iterator[str]:
    """What is to be studied; of one study, what was filled in."""
    for folder, question in studies.items():
        yield f"study: {folder}"
        if len(studies) == 1:
            yield filled_in(question)


def _page(studies: dict[Path, Question], found: dict[Path, Claims], root: Path, tell: Callable[[str], None]) -> Path:
    """The report of the studies that have their claims; RecordsError when none has."""
    from lowregret.report.pages.studies import write_page

    for folder in studies.keys() - found.keys():
        tell(f"{folder}: has no claims yet; the same command goes on")
    if not found:
        raise RecordsError("the budget was spent before any study had its claims. The same command goes on.")
    return write_page(list(found), root)


def _tell(found: dict[Path, Claims], page: Path, as_json: bool) -> None:
    if as_json:
        say_json({"studies": {str(folder): plain(claims) for folder, claims in found.items()}, "report": str(page)})
        return
    _show(found)
    say(f"report: {page}")


def _folders(names: str | None) -> list[Path]:
    return [Path(name.strip()) for name in (names or "").split(",") if name.strip()]


def _stores(url: str | None, studies: dict[Path, Question]) -> dict[Path, str]:
    """Folder → where it is kept; of several studies each below the address, by the name of its folder."""
    if url is None:
        return {}
    from lowregret.runs.store import require_url

    address = require_url(url)
    return {folder: address if len(studies) == 1 else f"{address}/{folder.name}" for folder in studies}


def _show_status(recipe: str, folder: Path | None, store: str | None, as_json: bool) -> None:
    if recipe != STATUS:
        raise SpecError(f"unexpected {str(folder)!r}. The folder of a study is its --out.")
    if folder is not None and store is not None:
        raise SpecError(f"`lowregret study {STATUS}` reads FOLDER or what --store names. Leave out one of them.")
    if store is not None:
        from tempfile import TemporaryDirectory

        from lowregret.runs.mirror import fetch_studies
        from lowregret.study.status import study_status

        with TemporaryDirectory() as name:
            copies = fetch_studies(store, Path(name))
            _print_status([study_status(copy, address) for address, copy in copies.items()], as_json)
        return
    if folder is None:
        raise SpecError(
            f"missing FOLDER. `lowregret study {STATUS} FOLDER` says how far the study there is, with --store URL in "
            "its place the one in a store."
        )
    from lowregret.study.status import read_status

    _print_status(read_status(folder), as_json)


def _require_status_alone(given: Mapping[str, object]) -> None:
    """SpecError for a flag that says nothing about how far a study is."""
    for name, value in given.items():
        if name not in _OF_STATUS and value is not None and value is not False:
            raise SpecError(f"--{name.replace('_', '-')}: is of no use with `{STATUS}`. Leave it out.")


def _print_status(found: list[StudyStatus], as_json: bool) -> None:
    if as_json:
        say_json({"studies": {study.name: study.as_dict() for study in found}})
        return
    from lowregret.progress.console import make_console
    from lowregret.progress.standing import standing_table, status_lines

    console = make_console()
    if not console.is_terminal:
        console.width = _WIDE
    for study in found:
        for line in status_lines(study):
            say(line)
        console.print(standing_table([group.standing for group in study.groups]))


def _require_workers(workers: int | None) -> None:
    if workers is not None and not 1 <= workers <= limits.REPEATS:
        raise SpecError(f"--workers {workers}: must be 1 or more, at most {limits.REPEATS:,}.")


def _ranks(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--ranks {text!r}: give whole numbers separated by commas, such as 1,4,16.") from None


def _studies(
    recipe: str, quick: bool, out: Path | None, flags: dict[str, Any], code: dict[str, Any]
) -> dict[Path, Question]:
    """Folder → question; `code` is what the command line says of a recipe's task."""
    from lowregret.questions.registry import QUESTIONS, make_question

    if not recipe.endswith(".toml") and any(code.values()):
        raise SpecError("--task and --trust-task: are of use with a .toml recipe only, whose reward they name.")
    if recipe == "all":
        unfit = sorted(flags.keys() - _OF_ALL)
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
    shipped = {name: found for name, found in recipes().items() if found.verb == "study"}
    if not recipe.endswith(".toml") and recipe not in shipped:
        raise SpecError(
            f"no question named {recipe!r}. {did_you_mean(recipe, (*QUESTIONS, 'all'))} Or name a .toml file."
        )
    file = str(shipped[recipe].path) if recipe in shipped else recipe
    values = read_toml(file)
    if (objective := objectives.objective(values.get("objective"), code)) is not None:
        values["objective"] = objective
    question = make_question(values, quick=quick, flags=flags, source=file)
    return {out or Path("runs") / Path(file).stem.replace("_", "-"): question}


def _root(recipe: str, out: Path | None, studies: dict[Path, Question]) -> Path:
    """Where the page goes: beside the one study, or above all."""
    first = next(iter(studies))
    return (out or first.parent) if recipe == "all" else first


def _show(found: dict[Path, Claims]) -> None:
    from rich.table import Table
    from rich.text import Text

    from lowregret.progress.console import make_console
    from lowregret.questions.judge import corrected, holm
    from lowregret.report.pages.claims import interval_text, value_text

    table = Table(box=None, pad_edge=False)
    for column in ("claim", "ruling", "by Holm", "here", "95 % interval", "threshold"):
        table.add_column(column)
    every = [claim for claims in found.values() for claim in claims.claims]
    for claim, p in zip(every, holm(every), strict=True):
        table.add_row(
            Text(f"{claim.statement.number} {claim.statement.sentence}"),
            claim.ruling,
            corrected(claim, p),
            value_text(claim),
            interval_text(claim),
            claim.statement.threshold,
        )
    make_console().print(table)

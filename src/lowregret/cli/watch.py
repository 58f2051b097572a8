"""`lowregret watch`, and `--watch` of the verbs that train."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import aside, say
from lowregret.errors import SpecError
from lowregret.spec import build
from lowregret.spec.watch import WatchSpec

ASKS = VerbFlags(WatchSpec)
_TOKEN = "LOWREGRET_WATCH_TOKEN"
_SHORTEST = 8


@verb("watch", ASKS.parameters())
def watch(
    *folders: Annotated[Path, positional("A run's folder, or one in which runs are.", "FOLDER", required=True)],
    allow_control: Annotated[
        bool,
        option(
            f"Let the page stop and add trials, pause and go on: with the token that is printed, or {_TOKEN} of the "
            "environment."
        ),
    ] = False,
    open_page: Annotated[bool, option("Open the page in a browser.", "--open")] = False,
    **flags: Any,
) -> None:
    """Curves, the search for rates, the regret with its interval, workers and what they say, while runs train or after.
    It reads records alone, on any machine that sees them, and may be started and stopped at any time.
    """
    if not folders:
        raise SpecError("missing FOLDER. Name a run's folder, or one in which runs are, such as runs.")
    spec = build(WatchSpec, {name: value for name, value in flags.items() if value is not None})
    for folder in folders:
        if not folder.is_dir():
            raise SpecError(f"{folder}: is no folder. Name the --out of a run, or the folder in which runs are.")
    with _needing_serve("watch"):
        from lowregret.addresses import is_loopback, listen
        from lowregret.watch.server import Server
    token = _token() if allow_control or not is_loopback(spec.host) else None
    server = Server(folders, listen(spec.host, spec.port), token=token, control=allow_control)

    def ready() -> None:
        say(f"watch: {server.url}")
        if token is not None and _TOKEN not in os.environ:
            aside(f"token, for the page's Unlock: {token}")
        if open_page:
            import webbrowser

            webbrowser.open(server.url)

    server.run(ready)


def watched(wanted: bool, folders: Sequence[Path], say: Callable[[str], None]) -> AbstractContextManager[None]:
    """With `--watch`: the page of what is trained, for as long as it is."""
    if not wanted:
        return nullcontext()
    with _needing_serve("--watch"):
        from lowregret.watch.server import watched as beside
    return beside(folders, say)


@contextmanager
def _needing_serve(what: str) -> Iterator[None]:
    """Around an import of the server: SpecError that names the extra where its packages are missing."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "lowregret":
            raise
        raise SpecError(f"{what} needs {error.name}: pip install 'lowregret[watch]'.") from None


def _token() -> str:
    given = os.environ.get(_TOKEN, "").strip()
    if given and (len(given) < _SHORTEST or not given.isascii()):
        raise SpecError(f"{_TOKEN}: is shorter than {_SHORTEST} characters, or not ASCII.")
    return given or secrets.token_urlsafe(24)

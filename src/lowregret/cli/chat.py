"""`lowregret chat`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, aside, say_json
from lowregret.errors import LowregretError, SpecError
from lowregret.foreign_text import printable
from lowregret.spec import build
from lowregret.spec.chat import ChatSpec

if TYPE_CHECKING:
    from lowregret.chat.session import Said, Session
    from lowregret.chat.voices import Voice

ASKS = VerbFlags(ChatSpec)


@verb("chat", ASKS.parameters())
def chat(
    run: Annotated[
        Path | None,
        positional("A folder of `lowregret compare` or `lowregret train`: its base and its winners.", "RUN"),
    ] = None,
    /,
    *,
    names: Annotated[
        str | None,
        option(
            "Of RUN: which of base, lora and full, separated by commas. (default: the base and the best LoRA, or what "
            "`train` has made; full is a second base in memory)",
            "--with",
        ),
    ] = None,
    model: Annotated[
        str | None, option("Instead of RUN: a Hugging Face folder, a hub id, a .gguf file, or a bundled base.")
    ] = None,
    adapter: Annotated[
        list[str] | None, option("On --model: NAME=FOLDER, a LoRA in PEFT's format; may be repeated.")
    ] = None,
    as_json: o.Json = False,
    **flags: Any,
) -> None:
    """Each model has its own history. A turn is one line; they answer one after the other, token by token. `/help`
    lists the commands, Ctrl-C stops a reply, Ctrl-D ends.

    Lines may come through a pipe: then nothing is asked, and the first wrong one ends it. With --json each reply is an
    object on a line of its own.
    """
    spec = build(ChatSpec, {name: value for name, value in flags.items() if value is not None})
    from lowregret.cli.progress import activities_shown

    with activities_shown():
        voices = _voices(run, names, model, adapter, spec)
    from lowregret.chat.session import Session

    session = Session(voices, spec, _Json() if as_json else _Screen(labels=len(voices) > 1))
    _converse(session)


def _voices(
    run: Path | None, names: str | None, model: str | None, adapters: Sequence[str] | None, spec: ChatSpec
) -> list[Voice]:
    """Who is asked for; SpecError unless it is either a run or a base."""
    if (run is None) == (model is None):
        raise SpecError("a chat is with a RUN, or with a --model: give one of them.")
    for flag, given, needs in (("--with", names, run), ("--adapter", adapters, model)):
        if given and needs is None:
            raise SpecError(f"{flag}: is of use with {'a RUN' if flag == '--with' else '--model'} only. Leave it out.")
    named = named_adapters(adapters or ())
    with doing(LIBRARIES):
        from lowregret.chat.voices import of_model, of_run

    if model is not None:
        return of_model(model, named, spec, aside)
    assert run is not None
    wanted = [name.strip() for name in names.split(",")] if names is not None else []
    if len(set(wanted)) < len(wanted):
        raise SpecError(f"--with {names}: names one twice.")
    return of_run(run, wanted, spec, aside)


def named_adapters(adapters: Sequence[str]) -> Mapping[str, Path]:
    """NAME=FOLDER, … → folder by name; SpecError for another form."""
    found: dict[str, Path] = {}
    for given in adapters:
        name, equals, folder = given.partition("=")
        if not (name and equals and folder) or name in ("base", *found):
            raise SpecError(f"--adapter {given}: give NAME=FOLDER, each by a name of its own that is not base.")
        found[name] = Path(folder)
    return found


def _converse(session: Session) -> None:
    """Line by line, until there are no more."""
    from lowregret.train.interrupt import stop_requests

    typed = sys.stdin.isatty()
    for line in _typed() if typed else _piped():
        try:
            with stop_requests(lambda line: None, (signal.SIGINT,)) if typed else nullcontext(lambda: False) as stop:
                if not session.take(line, stop):
                    return
        except LowregretError as error:
            if not typed:
                raise
            aside(f"error: {error}")


def _typed() -> Iterator[str]:
    """What is typed at a prompt; Ctrl-C there drops the line."""
    with suppress(ImportError):
        import readline  # noqa: F401 (gives `input` its editing and history)
    aside("/help lists the commands, Ctrl-C stops a reply, Ctrl-D ends")
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            aside("")
        except EOFError:
            aside("")
            return


def _piped() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer if hasattr(sys.stdin, "buffer") else sys.stdin, start=1):
        try:
            yield line.decode("utf-8") if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            raise SpecError(f"line {number} is not UTF-8 ({error.reason}). Convert it, such as by iconv.") from None


class _Screen:
    """Replies as they are drawn, on standard output."""

    def __init__(self, *, labels: bool) -> None:
        self._labels = labels

    def begin(self, model: str) -> None:
        if self._labels:
            self.text(f"{model}: ")

    def text(self, new: str) -> None:
        print(printable(new), end="", flush=True)

    def end(self, said: Said) -> None:
        print(flush=True)
        if said.ended != "itself":
            why = "stopped" if said.ended == "stopped" else "cut by --max-tokens"
            aside(f"({said.model}: {why} after {said.tokens:,} tokens)")

    def note(self, line: str) -> None:
        aside(f"({line})")


class _Json:
    """Each reply an object on a line."""

    def begin(self, model: str) -> None:
        pass

    def text(self, new: str) -> None:
        pass

    def end(self, said: Said) -> None:
        say_json(asdict(said), indent=None)

    def note(self, line: str) -> None:
        aside(line)

"""How a command ends: exit codes, what is printed as its result, and what is said on standard error."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lowregret.cli.codes import BAD_INPUT, BROKEN_PIPE, INTERRUPTED
from lowregret.errors import LowregretError
from lowregret.foreign_text import redacted, shown, without_secrets
from lowregret.strict_json import to_json

LIBRARIES = "importing torch and transformers"
"""What a verb does first."""

if TYPE_CHECKING:  # a verb without records does not wait for pydantic
    from pydantic import BaseModel


def say(text: str) -> None:
    """A line of the result, on standard output; at once, so that a closed pipe is met here and not at exit."""
    print(shown(text), flush=True)


def say_json(data: Any, indent: int | None = 2) -> None:
    """The result as JSON, on standard output."""
    say(to_json(without_secrets(data), indent=indent))


def plain(record: BaseModel) -> Any:
    """A record as JSON has it: what is no number is null."""
    return json.loads(record.model_dump_json())


def aside(line: str) -> None:
    """Something to know beside the result, on standard error."""
    print(shown(line), file=sys.stderr, flush=True)


@contextmanager
def exit_codes(resumable: bool = False) -> Iterator[None]:
    """2 for a LowregretError, 130 after Ctrl-C, 1 for a closed pipe, as a SystemExit; with one clear message."""
    try:
        yield
    except LowregretError as error:
        aside(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, InterruptedError):
        again = " Nothing is lost: run the same command again to go on." if resumable else ""
        aside(f"\nstopped.{again}")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:  # the machine's doing, and met where no layer below could name the remedy
        aside(f"error: {error.filename or 'the operating system'}: {error.strerror or error}.")
        raise SystemExit(BAD_INPUT) from None


def command_line() -> str:
    """The command as the user typed it, but for secrets."""
    return redacted(shlex.join(["lowregret", *sys.argv[1:]]))

"""How a command ends: exit codes and what is said on standard error."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from lowregret.cli.main import INTERRUPTED
from lowregret.errors import LowregretError


def aside(line: str) -> None:
    """Something to know beside the result, on standard error."""
    typer.echo(line, err=True)


@contextmanager
def exit_codes(resumable: bool = False) -> Iterator[None]:
    """0 when all went well, 2 for a LowregretError, 130 after Ctrl-C; each with one clear message."""
    try:
        yield
    except LowregretError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except (KeyboardInterrupt, InterruptedError):
        again = " Nothing is lost: run the same command again to go on." if resumable else ""
        typer.echo(f"\nstopped.{again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:  # the machine's doing, and met where no layer below could name the remedy
        typer.echo(f"error: {error.filename or 'the operating system'}: {error.strerror or error}.", err=True)
        raise typer.Exit(LowregretError.exit_code) from None


def command_line() -> str:
    """The command as the user typed it."""
    return shlex.join(["lowregret", *sys.argv[1:]])

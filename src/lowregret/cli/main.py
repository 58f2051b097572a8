"""The console script. It imports nothing before it can answer Ctrl-C."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as Ctrl-C later does."""
    try:
        from lowregret.cli.app import app
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app()

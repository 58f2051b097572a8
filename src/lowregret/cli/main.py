"""The console script. It imports nothing before it can answer Ctrl-C."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as Ctrl-C later does."""
    try:
        from lowregret.cli.app import run
    except KeyboardInterrupt:
        from lowregret.cli.codes import INTERRUPTED

        sys.exit(INTERRUPTED)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

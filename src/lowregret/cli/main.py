"""The console script. It imports nothing of weight before it can answer Ctrl-C."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

_SOON_SECONDS = 0.05


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as Ctrl-C later does.

    Of the processes that torchrun has started the first does, and the others follow it.
    """
    sys.unraisablehook = press_again
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    try:
        from lowregret.folders import settle_home

        settle_home()
        if several:
            from lowregret.engine.parallel.launch import follow_if_told, release

            if follow_if_told():
                return
        from lowregret.cli.app import run
    except KeyboardInterrupt:
        from lowregret.cli.codes import INTERRUPTED

        sys.exit(INTERRUPTED)
    code = run(sys.argv[1:])
    if several:
        release()
    gc.freeze()  # else the collection at the end goes through all objects of the libraries, for a second and more
    sys.exit(code)


def press_again(dropped: sys.UnraisableHookArgs) -> None:
    """For `sys.unraisablehook`: a Ctrl-C that met a callback, as importing modules has many, and was dropped there, is
    pressed once more a moment later."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        threading.Timer(_SOON_SECONDS, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(dropped)


if __name__ == "__main__":
    main()

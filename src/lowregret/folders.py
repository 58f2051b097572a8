"""The user's own folders, where nothing of a run lies: for what is gathered, and for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The user's. `/` for one who has none, neither HOME nor an entry among the users, as in a container that runs
    under a bare number: nothing can be written there, which is what those who ask for it expect of a full disk, too."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def settle_home() -> None:
    """Name the home of a user who has none in the environment, for the libraries that ask for one as they are
    imported and end in a traceback where there is none; to be called before they are."""
    os.environ.setdefault("HOME", str(home()))


def expanded(name: str | Path) -> Path:
    """A path with `~` written out; as it is where nobody has that name, or no home."""
    return Path(os.path.expanduser(name))


def data_folder() -> Path:
    """Where what the user has gathered is kept: `lowregret` in `$XDG_DATA_HOME`, or in `~/.local/share`."""
    named = os.environ.get("XDG_DATA_HOME")
    return (Path(named) if named else home() / ".local" / "share") / "lowregret"


def user_cache() -> Path:
    """`$XDG_CACHE_HOME`, or `~/.cache`: everybody's."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache")


def cache_folder() -> Path:
    """`$LOWREGRET_CACHE`, or `lowregret/data` in the user's cache."""
    named = os.environ.get("LOWREGRET_CACHE")
    return Path(named) if named else user_cache() / "lowregret" / "data"

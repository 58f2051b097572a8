"""Files by the splits that their names say.

The words are those of the `datasets` library (its data_files.py). Where that library would leave a file out without a
word, or mix what does not belong together, the files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from lowregret.errors import DataError

_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_IN_NAME = {
    split: re.compile(rf"(?:^|[-._ =0-9])(?:{'|'.join(words)})(?:[-._ 0-9]|$)") for split, words in _KEYWORDS.items()
}
_SHARD = re.compile(r"(?P<split>.+)-(?P<rank>\d{5})-of-(?P<count>\d{5})(?=[.-]|$)")


def split_of(path: str) -> str | None:
    """The split that a path within a folder names, by its file or by one of the folders; None when it names none.

    A part, `NAME-00000-of-00002`, is of the split NAME, whatever that is. Raises DataError (without a place) for a path
    that names two.
    """
    *folders, name = PurePath(path).parts
    shard = _SHARD.match(name)
    if shard:
        return next((split for split, words in _KEYWORDS.items() if shard["split"] in words), shard["split"])
    named = {split for split, word in _IN_NAME.items() for part in (*folders, name) if word.search(part.lower())}
    if len(named) > 1:
        raise DataError(f"{path} has the names of two splits, {' and '.join(sorted(named))}.")
    return next(iter(named), None)


def sort_by_split(paths: Sequence[str]) -> dict[str, list[str]]:
    """Paths within a folder → the files of each split, training first. Those that name none are for training.

    Raises DataError (without a place) where some are for training by name and others by no name, and where two folders
    hold files of the same split by name.
    """
    found: dict[str | None, list[str]] = {}
    for path in paths:
        found.setdefault(split_of(path), []).append(path)
    unnamed = found.pop(None, [])
    if unnamed and "train" in found:
        raise DataError(f"{found['train'][0]} is for training by its name; the names of {few(unnamed)} do not say.")
    splits = {"train": unnamed} if unnamed else {}
    splits |= {str(split): found[split] for split in sorted(found, key=_order)}
    for split, files in splits.items():
        folders = sorted({str(PurePath(path).parent) for path in files if split_of(PurePath(path).name) == split})
        if len(folders) > 1:
            raise DataError(f"the folders {few(folders)} each hold a split {split!r}: they are several data sets.")
    return splits


def _order(split: str | None) -> tuple[int, str]:
    """The order of splits: train, validation, test, and then others by name."""
    known = [*_KEYWORDS]
    return (known.index(split) if split in known else len(known), str(split))


def missing_shards(paths: Iterable[str]) -> list[str]:
    """The files that are not among these though the names of others, `NAME-00000-of-00002`, count them."""
    ranks: dict[tuple[str, int, str], set[int]] = {}
    for path in paths:
        folder, name = PurePath(path).parent, PurePath(path).name
        shard = _SHARD.match(name)
        if shard:
            key = (str(folder / shard["split"]), int(shard["count"]), name[shard.end() :])
            ranks.setdefault(key, set()).add(int(shard["rank"]))
    return [
        f"{start}-{rank:05d}-of-{count:05d}{end}"
        for (start, count, end), there in ranks.items()
        for rank in range(count)
        if rank not in there
    ]


def describe(splits: Mapping[str, Sequence[str]]) -> str:
    """How many files each split has."""
    return ", ".join(f"{split} {len(files):,}" for split, files in splits.items())


def few(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4:,} more"

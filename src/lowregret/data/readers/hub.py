"""A dataset of the hub, or one that is in its library's cache: `ORG/NAME[:CONFIG]`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.activity import doing
from lowregret.data.readers.base import (
    Advice,
    NumberedRow,
    OpenSource,
    Reader,
    SampleSource,
    choose_split,
    number_rows,
)
from lowregret.data.readers.saved import dataset_rows
from lowregret.errors import DataError
from lowregret.foreign import boundary

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SAMPLE = "lowregret/sample"


def open_dataset(source: str, advice: Advice) -> OpenSource:
    """Load all splits. Raises DataError when neither the cache nor the hub has the dataset."""
    import datasets

    name, _, config = source.partition(":")
    remedy = f"{advice()}; a hub dataset must be in the cache or within reach, and may need a config."
    with (
        boundary(
            DataError,
            source,
            "neither an existing file nor a dataset in the local cache, and the hub gave none",
            remedy,
        ),
        doing(f"fetching {name}"),
    ):
        splits = datasets.load_dataset(name, config or None)

    def load(split: str) -> Iterator[NumberedRow]:
        return number_rows(dataset_rows(source, choose_split(source, splits, split)))

    def fingerprint(split: str) -> str:
        return str(
            choose_split(source, splits, split)._fingerprint
        )  # the library's key: config, version, revision, split

    return OpenSource(source, READER.format, READER.numbering, tuple(map(str, splits)), load, fingerprint)


def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
    """A dataset of one split as the library caches it; found once `datasets.config.HF_DATASETS_CACHE` is `folder`."""
    import datasets
    import pyarrow

    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    name = _SAMPLE.partition("/")[2]
    revision = hashlib.sha1(repr(rows).encode("utf-8", "surrogatepass")).hexdigest()
    home = folder / _SAMPLE.replace("/", "___") / "default" / "0.0.0" / revision
    home.mkdir(parents=True)
    with (
        pyarrow.OSFile(str(home / f"{name}-train.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as to,
    ):
        to.write_table(table)
    splits = datasets.SplitDict(dataset_name=name)
    splits.add(datasets.SplitInfo("train", num_examples=len(rows)))
    datasets.DatasetInfo(
        features=datasets.Features.from_arrow_schema(table.schema),
        dataset_name=name,
        config_name="default",
        version="0.0.0",
        splits=splits,
    ).write_to_directory(str(home))
    return SampleSource(_SAMPLE, [dict(row) for row in rows], list(range(1, len(rows) + 1)))


READER = Reader(
    format="hub dataset",
    numbering="row",
    spelling="a hub dataset as ORG/NAME or ORG/NAME:CONFIG",
    open=open_dataset,
    sample=sample,
    pattern=_ID,
)

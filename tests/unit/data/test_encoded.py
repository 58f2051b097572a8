"""Large data are encoded once: what is kept is used for the same rows, tokenizer and template, and for no others."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from lowregret import folders
from lowregret.data import cache, chunks, encoded, processes
from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData, prepare, prepare_held_out
from lowregret.data.sources import Row
from lowregret.data.table import record_batch
from lowregret.errors import DataError
from lowregret.spec import DataSpec

ROWS = 60


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of rows is many; the cache is empty."""
    monkeypatch.setattr(encoded, "_FEW_ROWS", 10)
    monkeypatch.setattr(processes, "CHUNK_ROWS", 7)
    monkeypatch.setattr(processes, "helpers", lambda: 0)
    monkeypatch.setattr(encoded, "helpers", lambda: 0)
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each chunk had that was encoded."""
    found: list[int] = []
    real = chunks.encode_chunk

    def counted(rows: list[Row], tokenizer: Any) -> Any:
        found.append(len(rows))
        return real(rows, tokenizer)

    monkeypatch.setattr(processes, "encode_chunk", counted)
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def some(path: Path, count: int = ROWS, word: str = "q") -> str:
    return write(path / "rows.jsonl", [{"question": f"{word}{n}", "answer": f"a{n % 50}"} for n in range(count)])


def entries() -> list[Path]:
    return list(folders.cache_folder().iterdir()) if folders.cache_folder().exists() else []


def said(data: PreparedData) -> str:
    return "\n".join(data.report.lines())


def test_the_second_start_encodes_nothing_and_gives_the_same(tmp_path: Path, chatml: Any, encodings: list[int]) -> None:
    spec = DataSpec(train=some(tmp_path))
    first = prepare(spec, chatml)
    assert sum(encodings) == ROWS
    again = prepare(spec, chatml)
    assert sum(encodings) == ROWS
    assert again == first
    assert "encoded rows kept for the next start" in said(first)
    assert "encoded before: read from" in said(again)
    assert [folder.name for folder in entries()] == [Path(said(again).split("read from ")[1].split()[0]).name]


def test_what_is_kept_equals_what_is_encoded_every_time(
    tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DataSpec(train=some(tmp_path), max_length=26)
    kept = [prepare(spec, chatml) for _ in range(2)]
    monkeypatch.setattr(encoded, "_FEW_ROWS", 1000)
    fresh = prepare(spec, chatml)
    assert "encoded rows kept" not in said(fresh)
    assert kept == [fresh, fresh]


def test_few_rows_leave_no_file(tmp_path: Path, chatml: Any) -> None:
    prepare(DataSpec(train=some(tmp_path, 9)), chatml)
    assert not folders.cache_folder().exists()


def test_few_long_rows_are_kept(tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_FEW_CHARACTERS", 20)
    prepare(DataSpec(train=some(tmp_path, 9)), chatml)
    assert len(entries()) == 1


@pytest.mark.parametrize("change", [{"max_length": 26}, {"overlong": "drop"}, {"max_train": 3}, {"split_seed": 4}])
def test_one_entry_serves_every_length_and_split(
    tmp_path: Path, chatml: Any, encodings: list[int], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = some(tmp_path)
    prepare(DataSpec(train=source), chatml)
    spec = DataSpec(train=source, max_length=change.pop("max_length", 27), **change)
    found = prepare(spec, chatml)
    assert sum(encodings) == ROWS
    monkeypatch.setattr(encoded, "_FEW_ROWS", 1000)
    assert found == prepare(spec, chatml)


def test_other_rows_under_the_same_name_are_encoded_again(tmp_path: Path, chatml: Any) -> None:
    spec = DataSpec(train=some(tmp_path))
    before = prepare(spec, chatml)
    some(tmp_path, word="p")
    after = prepare(spec, chatml)
    assert after != before
    assert chatml.decode(after.train[0].token_ids).startswith("<|im_start|>user\np")


def test_the_same_rows_under_another_name_are_known(tmp_path: Path, chatml: Any, encodings: list[int]) -> None:
    source = some(tmp_path)
    prepare(DataSpec(train=source), chatml)
    moved = Path(source).rename(tmp_path / "moved.jsonl")
    data = prepare(DataSpec(train=str(moved)), chatml)
    assert sum(encodings) == ROWS
    assert data.report.splits[0].source.source == str(moved)


def test_another_template_tokenizer_or_column_is_another_entry(
    tmp_path: Path, make_tokenizer: Any, encodings: list[int]
) -> None:
    rows = [{"question": f"q{n}", "answer": f"a{n}", "other": f"b{n}"} for n in range(ROWS)]
    source = write(tmp_path / "rows.jsonl", rows)
    template = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    tokenizers = [
        make_tokenizer(template),
        make_tokenizer(template.replace("m.content", "'x' + m.content")),
        make_tokenizer(template, ("<|im_start|>", "<|im_end|>", "<|more|>")),
    ]
    for count, tokenizer in enumerate(tokenizers, start=1):
        prepare(DataSpec(train=source), tokenizer)
        assert sum(encodings) == count * ROWS
    fields = {"prompt_field": "question", "completion_field": "other"}
    data = prepare(DataSpec(train=source, **fields), tokenizers[0])
    assert sum(encodings) == 4 * ROWS
    assert "b" in tokenizers[0].decode(data.train[0].token_ids)


def test_a_tokenizer_is_known_by_what_it_does(make_tokenizer: Any) -> None:
    spec, tokenizers = DataSpec(train="a"), [make_tokenizer(None) for _ in range(3)]
    tokenizers[2].backend_tokenizer.normalizer = normalizers.Lowercase()
    first, same, other = (encoded._key("f", "train", spec, tokenizer) for tokenizer in tokenizers)
    assert first == same != other


def test_a_new_field_of_the_data_is_part_of_the_key_unless_it_is_said_to_be_of_no_effect(chatml: Any) -> None:
    assert set(DataSpec.model_fields) > encoded._OF_NO_EFFECT
    keys = {encoded._key("f", "train", DataSpec(train="a", max_length=n), chatml) for n in (8, 9)}
    assert len(keys) == 1
    named = DataSpec(train="a", prompt_field="p", completion_field="c")
    assert encoded._key("f", "train", named, chatml) not in keys


def test_other_code_is_another_entry(
    tmp_path: Path, chatml: Any, encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DataSpec(train=some(tmp_path))
    prepare(spec, chatml)
    monkeypatch.setattr(encoded, "_code", lambda: "of tomorrow")
    prepare(spec, chatml)
    assert sum(encodings) == 2 * ROWS


def test_bad_rows_are_told_of_at_every_start(tmp_path: Path, chatml: Any, encodings: list[int]) -> None:
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(ROWS)]
    rows[3]["answer"] = rows[40]["answer"] = ""
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows\.jsonl:4: field 'answer' is empty.*--skip-bad-rows"):
        prepare(DataSpec(train=source), chatml)
    assert not [folder for folder in entries() if not folder.name.startswith(".")]
    reports = [prepare(DataSpec(train=source, skip_bad_rows=True), chatml).report for _ in range(2)]
    assert reports[0] == reports[1]
    assert [line for line, _ in reports[1].splits[0].source.bad_rows] == [4, 41]
    before = sum(encodings)
    with pytest.raises(DataError, match=r"rows\.jsonl:4: field 'answer' is empty.*--skip-bad-rows"):
        prepare(DataSpec(train=source), chatml)
    assert sum(encodings) == before


def test_a_row_that_the_template_refuses_is_bad_at_every_start(tmp_path: Path, make_tokenizer: Any) -> None:
    picky = make_tokenizer(
        "{% for m in messages %}{% if m.content == 'q30' %}{{ raise_exception('not this') }}{% endif %}"
        "{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    spec = DataSpec(train=some(tmp_path), skip_bad_rows=True)
    for _ in range(2):
        (found,) = prepare(spec, picky).report.splits
        assert (found.source.rows, found.source.bad_rows[0][0]) == (ROWS - 1, 31)
        with pytest.raises(DataError, match=r"rows\.jsonl:31: the chat template refuses this row: not this"):
            prepare(spec.model_copy(update={"skip_bad_rows": False}), picky)


def test_remarks_are_tallied_over_all_rows_and_kept(tmp_path: Path, chatml: Any) -> None:
    turn = {"role": "assistant", "content": "b"}
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, turn | {"content": ""} if n % 20 == 5 else turn, turn]}
        for n in range(ROWS)
    ]
    spec = DataSpec(train=write(tmp_path / "rows.jsonl", rows))
    for _ in range(2):
        data = prepare(spec, chatml)
        ((remark, count, first),) = data.report.splits[0].remarks
        assert (count, first) == (3, 6)
        assert f"3 rows, the first line 6: {remark}" in said(data)


@pytest.mark.parametrize("damage", ["cut off", "a bit", "no rows", "no about", "not JSON", "of another version"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, chatml: Any, encodings: list[int], damage: str) -> None:
    spec = DataSpec(train=some(tmp_path))
    before = prepare(spec, chatml)
    (folder,) = entries()
    rows, about = folder / "rows.arrow", folder / "about.json"
    content = rows.read_bytes()
    if damage in ("cut off", "a bit"):
        rows.unlink()  # what `before` has mapped stays
    if damage == "cut off":
        rows.write_bytes(content[: len(content) // 2])
    elif damage == "a bit":
        tokens = np.array(before.train[-1].token_ids, dtype=np.int32).tobytes()
        place = content.rindex(tokens)
        rows.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "no rows":
        rows.unlink()
    elif damage == "no about":
        about.unlink()
    elif damage == "not JSON":
        about.write_text('{"about": {')
    else:
        about.write_text(json.dumps({"rows": 3}))
    assert prepare(spec, chatml) == before
    assert sum(encodings) == 2 * ROWS
    assert prepare(spec, chatml) == before
    assert sum(encodings) == 2 * ROWS


def test_a_source_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = some(tmp_path)
    real = encoded.encode_in_order

    def meanwhile(*given: Any) -> Any:
        for number, chunk in enumerate(real(*given)):
            if number == 1:
                with open(source, "a") as file:
                    file.write('{"question": "late", "answer": "row"}\n')
            yield chunk

    monkeypatch.setattr(encoded, "encode_in_order", meanwhile)
    data = prepare(DataSpec(train=source), chatml)
    assert "not kept for the next start: the source changed while it was read" in said(data)
    assert not entries()
    assert len(list(data.train)) == len(data.train)


@pytest.mark.parametrize("place", ["a file", "no permission"])
def test_a_folder_that_cannot_be_written_costs_only_the_next_start(tmp_path: Path, chatml: Any, place: str) -> None:
    if place == "a file":
        folders.cache_folder().write_text("in the way")
    elif os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    else:
        folders.cache_folder().mkdir(mode=0o500)
    data = prepare(DataSpec(train=some(tmp_path)), chatml)
    assert len(data.train) + data.held_out + data.report.removed_across_split == ROWS
    assert "warning: the encoded rows are not kept for the next start" in said(data)
    assert "LOWREGRET_CACHE" in said(data)


def test_a_disk_that_gets_full_costs_only_the_next_start(tmp_path: Path, chatml: Any, encodings: list[int]) -> None:
    source = some(tmp_path)
    expected = prepare(DataSpec(train=source), chatml)
    some(tmp_path, ROWS + 1)
    size = sum(path.stat().st_size for path in entries()[0].iterdir()) // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        data = prepare(DataSpec(train=source), chatml)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "not kept for the next start: " in said(data)
    assert len(entries()) == 1
    assert data.report.splits[0].read.examples == ROWS + 1
    assert data.train != expected.train
    assert sum(encodings) == 2 * ROWS + 1


def test_two_starts_at_once_both_get_all_and_leave_one_entry(tmp_path: Path, chatml: Any) -> None:
    spec = DataSpec(train=some(tmp_path))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(prepare(spec, chatml))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(data == found[0] for data in found)
    assert len(entries()) == 1


def test_of_two_that_end_with_the_same_entry_the_first_is_kept_and_both_have_it() -> None:
    batch = record_batch([(1, Example((1, 2), (False, True)))])
    with cache.Writer("key") as one, cache.Writer("key") as other:
        one.add([batch])
        other.add([batch])
        found = [one.keep({"n": 1}), other.keep({"n": 2})]
    for kept in found:
        assert kept.folder == folders.cache_folder() / "key"
        assert list(kept.batches) == [batch]
    after = cache.find("key")
    assert after is not None
    assert (after.about, list(after.batches)) == ({"n": 1}, [batch])
    assert entries() == [folders.cache_folder() / "key"]


def test_entries_used_longest_ago_go_beyond_the_limit(
    tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [write(tmp_path / f"{n}.jsonl", [{"text": f"{n} {row}"} for row in range(20)]) for n in range(3)]
    first = prepare_held_out(DataSpec(train=sources[0]), chatml)[0]
    prepare_held_out(DataSpec(train=sources[1]), chatml)
    size = sum(path.stat().st_size for folder in entries() for path in folder.iterdir())
    for age, folder in enumerate(sorted(entries(), key=lambda folder: folder.stat().st_mtime, reverse=True)):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (1e9 - 100 * age, 1e9 - 100 * age))
    prepare_held_out(DataSpec(train=sources[0]), chatml)  # used again: the other one is the older now
    abandoned = folders.cache_folder() / f"{cache._PARTIAL}x"
    abandoned.mkdir()
    os.utime(abandoned, (1e9, 1e9))
    going = folders.cache_folder() / f"{cache._PARTIAL}y"
    going.mkdir()
    before = {folder.name for folder in entries()}
    monkeypatch.setattr(cache, "LIMIT_BYTES", size * 1.2)
    prepare_held_out(DataSpec(train=sources[2]), chatml)
    after = {folder.name for folder in entries()}
    assert len(before - after) == 2
    assert abandoned.name not in after
    assert going.name in after
    assert len(first) == 20
    prepare_held_out(DataSpec(train=sources[0]), chatml)
    assert {folder.name for folder in entries()} == after


def test_other_processes_encode_the_same_in_the_same_order(
    tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch, encodings: list[int]
) -> None:
    spec = DataSpec(train=some(tmp_path))
    alone = prepare_held_out(spec, chatml)
    assert sum(encodings) == ROWS
    monkeypatch.setattr(processes, "ALONE", 1)
    monkeypatch.setattr(encoded, "helpers", lambda: 2)
    monkeypatch.setattr(encoded, "_code", lambda: "once more")
    assert prepare_held_out(spec, chatml) == alone
    assert sum(encodings) == ROWS + processes.CHUNK_ROWS


@pytest.mark.parametrize("fault", ["dies at once", "cannot be started", "dies later"])
def test_a_process_that_is_lost_costs_only_time(
    tmp_path: Path, chatml: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    spec = DataSpec(train=some(tmp_path))
    alone = prepare_held_out(spec, chatml)
    monkeypatch.setattr(processes, "ALONE", 1)
    monkeypatch.setattr(encoded, "helpers", lambda: 2)
    monkeypatch.setattr(encoded, "_code", lambda: "once more")
    if fault == "dies at once":
        monkeypatch.setattr(processes.sys, "executable", "/bin/true")
    elif fault == "cannot be started":
        monkeypatch.setattr(processes.sys, "executable", str(tmp_path / "none"))
    else:
        real = processes.Helper.__call__

        def once(helper: processes.Helper, rows: list[Row]) -> Any:
            found = real(helper, rows)
            helper._process.kill()
            return found

        monkeypatch.setattr(processes.Helper, "__call__", once)
    assert prepare_held_out(spec, chatml) == alone


def test_a_worker_starts_without_torch() -> None:
    code = "import sys, lowregret.data.worker; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

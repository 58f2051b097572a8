"""Text from elsewhere: its secrets are not kept, its orders not obeyed, and the rest of it stays as it was."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.cli.outcome import aside, command_line, say, say_json
from lowregret.errors import RecordsError
from lowregret.foreign_text import (
    cell,
    last_part,
    markdown,
    printable,
    redacted,
    shown,
    without_paths,
    without_secrets,
)
from lowregret.progress.console import make_console
from lowregret.report.export import _write_csv
from lowregret.report.pages.document import document, reproduce
from lowregret.runs.atomic import write_json
from lowregret.runs.extension import extend_spec
from lowregret.runs.lock import bind_spec, require_same
from lowregret.spec import CompareSpec, DataSpec, TrainSpec

SECRET = "s3cr3t-Pa55w0rd"
WITH_SECRETS = [
    f"https://user:{SECRET}@host:5000/mlflow",
    f"http://{SECRET}@host/x",
    f"https://user:p/{SECRET}@host/x",
    f"https://user:a@{SECRET}@host/x",
    f"postgresql+psycopg2://me:{SECRET}@db.example/mlflow",
    f"s3://bucket/rows.jsonl?X-Amz-Signature={SECRET}&X-Amz-Date=2026",
    f"https://host/rows.jsonl?token={SECRET}",
    f"https://host/rows.jsonl?a=1&access_token={SECRET}#x",
    f"https://host/x?sig={SECRET}",
    f"api_key={SECRET}",
    f"API-KEY={SECRET}, and more",
    f"cannot reach it: password={SECRET};host=db",
    f"MLFLOW_TRACKING_PASSWORD={SECRET}",
    f"WANDB_API_KEY={SECRET} lowregret compare",
    f"Authorization: Bearer {SECRET}",
    f"'--track' 'mlflow:https://user:{SECRET}@host'",
]
HARMLESS = [
    "https://host:5000/a@b/c",
    "hf://datasets/name/rows@main/train.jsonl",
    "sqlite:////tmp/run@home/mlflow.db",
    "builtin:arithmetic:size=32,test_size=8",
    "max_tokens=512, tokenizer=fast, keys=3",
    "me@example.org",
    "user@host:rows.jsonl",
    "--batch-size 4 --seed=1 --max-length=64",
    "a basic idea, and a bearer of news",
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_a_secret_is_hidden_and_hidden_once(text: str) -> None:
    found = redacted(text)
    assert SECRET not in found
    assert "***" in found
    assert redacted(found) == found
    assert SECRET not in json.dumps(without_secrets({"a": [{"b": text}]}))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_what_the_environment_keeps_is_hidden_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "abcdefgh1234")
    monkeypatch.setenv("MY_TOKENIZER", "nothingtohide")
    monkeypatch.setenv("SHORT_PASSWORD", "abc")
    assert redacted("401 for abcdefgh1234, abc and nothingtohide") == "401 for ***, abc and nothingtohide"


def test_tokens_of_known_makers_are_hidden() -> None:
    for token in ("hf_" + "a" * 34, "ghp_" + "B" * 36, "sk-" + "c" * 40, "AKIA" + "D" * 16):
        assert redacted(f"no access with {token}.") == "no access with ***."


@given(st.text())
def test_hiding_never_adds_or_reorders_and_is_stable(text: str) -> None:
    found = redacted(text)
    assert redacted(found) == found
    assert "@" in text or "=" in text or len(found) <= len(text)


# --- where it is kept -------------------------------------------------------------------------------------------------

ADDRESS = f"https://user:{SECRET}@host/rows.jsonl?token={SECRET}"


def everything_in(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_run_keeps_no_secret_and_goes_on_when_the_address_is_given_again(tmp_path: Path) -> None:
    spec = TrainSpec(model="tiny", data=DataSpec(train=ADDRESS))
    bind_spec(tmp_path, spec, {"source": ADDRESS}, f"lowregret train --data '{ADDRESS}'")
    assert SECRET not in everything_in(tmp_path)
    bind_spec(tmp_path, spec, {"source": ADDRESS}, "again")
    renewed = TrainSpec(model="tiny", data=DataSpec(train=ADDRESS.replace(SECRET, "another")))
    bind_spec(tmp_path, renewed, {"source": "https://user:x@host/rows.jsonl?token=y"}, "a renewed token")
    elsewhere = TrainSpec(model="tiny", data=DataSpec(train=ADDRESS.replace("rows", "other")))
    with pytest.raises(RecordsError, match="belongs to another spec") as refused:
        bind_spec(tmp_path, elsewhere, {"source": ADDRESS}, "other data")
    assert SECRET not in str(refused.value)


def test_a_folder_that_an_earlier_version_wrote_with_its_secret_goes_on(tmp_path: Path) -> None:
    require_same(tmp_path, {"data": ADDRESS}, {"data": ADDRESS})
    require_same(tmp_path, {"data": ADDRESS}, {"data": redacted(ADDRESS)})


def test_a_compare_is_extended_by_the_same_address(tmp_path: Path) -> None:
    resolved = {"test_examples": 4, "test_data": "x", "priors": {}}
    spec = CompareSpec(model="tiny", data=DataSpec(train=ADDRESS), seeds=1)
    extend_spec(tmp_path, spec, resolved, ADDRESS, lambda count: "x")
    extend_spec(tmp_path, spec.model_copy(update={"seeds": 2}), resolved, ADDRESS, lambda count: "x")
    assert json.loads((tmp_path / "spec.json").read_text())["spec"]["seeds"] == 2
    assert SECRET not in everything_in(tmp_path)


def test_records_and_sessions_keep_none(tmp_path: Path) -> None:
    write_json(tmp_path / "environment.json", {"sessions": [{"tracker": ADDRESS, "nested": [ADDRESS]}]})
    assert SECRET not in everything_in(tmp_path)


def test_the_command_line_is_known_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "compare", "--track", f"mlflow:{ADDRESS}", "--seeds=2"])
    assert SECRET not in command_line()
    assert command_line().startswith("lowregret compare --track")
    assert command_line().endswith("--seeds=2")


# --- where it is printed ----------------------------------------------------------------------------------------------

ORDERS = ["\x1b[31mred", "\x9b2J", "a\rb", "a\bb", "\x07", "\u202egpj.exe", "\u2066x\u2069", "\u200f", "\x7f", "a\x00b"]
HOSTILE = "".join(ORDERS) + "\udcff" + f" password={SECRET}"


def harmless(text: str) -> bool:
    text.encode()
    return printable(text) == text and SECRET not in text


@pytest.mark.parametrize("text", ORDERS)
def test_orders_to_a_terminal_are_spelled_out(text: str) -> None:
    found = printable(f"{text}\tand\n")
    assert found.endswith("\tand\n")
    assert all(c.isprintable() or c in "\t\n" for c in found)


def test_scripts_and_emoji_of_several_characters_stay() -> None:
    for text in ("żółć", "नमस्ते", "👩‍👩‍👧", "שלום", "日本語", "a\u00a0b"):
        assert printable(text) == text


@pytest.mark.parametrize("write", [say, aside, lambda text: make_console().print(text)])
def test_every_way_to_the_terminal_is_clean(write: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    write(HOSTILE)
    captured = capfd.readouterr()
    assert harmless(captured.out + captured.err)
    assert "\\x1b[31mred" in captured.out + captured.err


def test_tables_and_markup_of_a_console_are_clean() -> None:
    from rich.table import Table
    from rich.text import Text

    file = io.StringIO()
    console = make_console()
    console.file, console.width = file, 400
    table = Table(box=None)
    table.add_column(f"[bold]{HOSTILE}")
    table.add_row(Text(HOSTILE))
    table.add_row("[/nothing] lora:2:re:[qv]_proj :smile:")
    console.print(table, f"[red]{HOSTILE}")
    assert harmless(file.getvalue())
    assert "[/nothing] lora:2:re:[qv]_proj :smile:" in file.getvalue()


def test_a_consoles_own_colours_reach_a_terminal() -> None:
    from rich.text import Text

    from lowregret.progress.console import CleanConsole

    file = io.StringIO()
    CleanConsole(file=file, force_terminal=True, color_system="standard").print(Text("\x1b[5mx", style="bold red"))
    assert file.getvalue().startswith("\x1b[1;31m")
    assert "\x1b[5m" not in file.getvalue()


def test_json_stays_json() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        say_json({"name": HOSTILE, "ok": 1})
    assert harmless(out.getvalue())
    assert json.loads(out.getvalue())["name"].startswith("\x1b[31mred")


# --- tables, Markdown, pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", list("=+-@\t\r\n＝＋－＠"))
def test_a_formula_is_text_in_a_spreadsheet_and_numbers_stay_numbers(tmp_path: Path, first: str) -> None:
    text = f"{first}HYPERLINK(1)"
    _write_csv([{"folder": text, "value": -1.5, "none": None, "word": "a=b"}], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {"folder": "'" + text, "value": "-1.5", "none": "", "word": "a=b"}
    assert cell(-1) == -1


def test_text_means_nothing_in_markdown() -> None:
    found = markdown("a|b `c` [d](http://e) <img src=x>\n# head\r\n**f** _g_ ~~h~~ &lt; \\")
    assert found == (r"a\|b \`c\` \[d\](http://e) \<img src=x\> \# head \*\*f\*\* \_g\_ \~\~h\~\~ \&lt; \\")
    assert harmless(markdown(HOSTILE))


def test_a_page_is_clean_and_keeps_its_secrets_out() -> None:
    body = reproduce(f"lowregret train --data '{ADDRESS}' {HOSTILE}", {"data": ADDRESS})
    page = document(HOSTILE, HOSTILE, body, made_from=HOSTILE)
    assert harmless(page)


def test_shown_is_both() -> None:
    assert shown(f"\x1b token={SECRET}") == "\\x1b token=***"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("made on /home/me/models/base and kept", "made on base and kept"),
        ("'~/rows.jsonl', ../x/y, ./z", "'rows.jsonl', y, z"),
        ("file:///srv/x.csv C:\\Users\\me\\y.csv \\\\host\\share\\z", "x.csv y.csv z"),
        ("~me/base/", "base"),
        ("400 tokens/s, 1/2, a / b, org/name, https://hf.co/org/name", None),
        ("+0.1/-0.2, //, and/or, x:/", None),
    ],
)
def test_places_are_told_by_their_last_part(text: str, clean: str | None) -> None:
    assert without_paths({"a": [text]}) == {"a": [clean or text]}


def test_a_known_place_is_found_whatever_it_looks_like() -> None:
    assert without_paths("on data/secret rows/x.jsonl", ["data/secret rows/x.jsonl", "x"]) == "on x.jsonl"
    assert without_paths({"/a/b (train)": 1}, ["/a/b"]) == {"b (train)": 1}


@pytest.mark.parametrize(
    ("place", "name"), [("/a/b/", "b"), ("a\\b", "b"), ("x", "x"), ("/", ""), ("~", ""), ("..", "")]
)
def test_the_last_part_of_a_place(place: str, name: str) -> None:
    assert last_part(place) == name


@given(st.text())
def test_no_absolute_place_is_left(text: str) -> None:
    assert "/home/me/" not in without_paths(f"{text} /home/me/x {text}").replace(text, "")


def test_a_line_may_be_printed_while_another_thread_sets_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of progress comes from a thread of its own, while libraries are imported under variables."""

    class Losing(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            raise KeyError(name)

        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            return default

    monkeypatch.setattr("os.environ", Losing(MY_API_KEY="0123456789abcdef", TQDM_DISABLE="1"))
    assert redacted("0123456789abcdef") == "0123456789abcdef"

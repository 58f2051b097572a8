"""What is seen while a study runs: a table that fits the window on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lowregret.cli import progress as cli
from lowregret.errors import DeclinedError
from lowregret.plan.price import JUDGING, TRAINING, MethodPrice, Price
from lowregret.progress import watching as module
from lowregret.progress.watching import LiveProgress, watching
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.standing import GroupStanding
from lowregret.spec import FullFT, LoRA, TrialSpec
from lowregret.study.observer import Silent


def trial(number: int) -> TrialSpec:
    return TrialSpec(method=FullFT() if number % 2 else LoRA(rank=16), learning_rate=1e-4 * (number + 1), seed=number)


def ended(number: int) -> TrialRecord:
    spec = trial(number)
    return TrialRecord(
        id=spec.id,
        method=spec.method.name,
        learning_rate=spec.learning_rate,
        seed=spec.seed,
        status="finished",
        spec=spec,
        test_nll=1.5 + number,
        seconds=2.0,
    )


def watch(progress: LiveProgress, trials: int) -> None:
    """So many trials that ended, and one in its third step."""
    for number in range(trials):
        progress.trial_started(trial(number), number, trials + 4)
        progress.step(trial(number), 9, Metric(step=1, tokens=800, train_nll=3.25, seconds=0.5))
        progress.trial_ended(ended(number))
    progress.trial_started(trial(trials), trials, trials + 4)
    progress.step(trial(trials), 9, Metric(step=1, tokens=800, train_nll=3.25, seconds=0.5))
    progress.step(trial(trials), 9, Metric(step=3, tokens=2400, train_nll=2.125, test_nll=2.5, seconds=1.5))


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> tuple[LiveProgress, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=height, highlight=False)
    monkeypatch.setattr(module, "make_console", lambda **_: console)
    return LiveProgress(), screen


@given(trials=st.integers(0, 40), width=st.integers(60, 200), height=st.integers(12, 60))
def test_the_table_fits_the_window_and_shows_what_runs_now(trials: int, width: int, height: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        progress, _ = on_terminal(monkeypatch, width, height)
        watch(progress, trials)
        console = module.make_console()
        shown = console.render_lines(progress._now(), pad=False)
    lines = ["".join(segment.text for segment in line) for line in shown]
    assert len(lines) < height
    running = next(line for line in lines if ("3/9" if width < 72 else "running 3/9") in line)
    assert trial(trials).method.name in running
    assert "2.5000" in running
    assert any(line.startswith("step 3/9, training loss 2.1250") for line in lines)
    hidden = trials - sum("finished" in line for line in lines)
    assert any(line == f"… {hidden} earlier trials" for line in lines) == (hidden > 0)


@given(running=st.integers(2, 30), ended_before=st.integers(0, 30), height=st.integers(12, 60))
def test_trials_in_training_come_first_and_fit_the_window(running: int, ended_before: int, height: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        progress, _ = on_terminal(monkeypatch, 100, height)
        watch(progress, ended_before)
        for number in range(ended_before + 1, ended_before + running):
            progress.trial_started(trial(number), ended_before, ended_before + running)
            progress.step(trial(number), 9, Metric(step=2, tokens=1600, train_nll=3.0, seconds=1.0))
        console = module.make_console()
        lines = ["".join(part.text for part in line) for line in console.render_lines(progress._now(), pad=False)]
    assert len(lines) < height
    shown = sum("running" in line for line in lines)
    others = running - shown
    assert any(line == f"… {others} more in training" for line in lines) == (others > 0)
    assert shown >= min(running, 2)
    now = " ".join(line.strip() for line in lines)
    assert f"tokens/s in {running} trials" in now
    assert "left in this trial" not in now


def test_elsewhere_trials_in_training_together_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluations of each, and ten other lines in all: of the first, for all."""
    with LiveProgress() as progress:
        for number in (0, 2):
            progress.trial_started(trial(number), 0, 5)
        for step in range(1, 21):
            for number in (0, 2):
                test_nll = 2.0 if step == 10 else None
                metric = Metric(step=step, tokens=100 * step, train_nll=3.0, test_nll=test_nll, seconds=0.1 * step)
                progress.step(trial(number), 20, metric)
        progress.trial_ended(ended(0))
        progress.trial_ended(ended(2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "trial 1 of about 5: lora:16, learning rate 0.0001, seed 0",
        "trial 2 of about 5: lora:16, learning rate 0.0003, seed 2",
    ]
    assert sum("step " in line for line in lines) == 11
    assert "  lora:16 at 0.0003, seed 2, step 10/20, training loss 3.0000, held-out loss 2.0000" in lines[7]
    assert lines[7].endswith("1,000 tokens/s in 2 trials")
    assert lines[-2:] == [
        "  finished lora:16 at 0.0001, seed 0, held-out loss 1.5000, 2.0 s",
        "  finished, held-out loss 3.5000, 2.0 s",
    ]


def test_a_stop_leaves_every_trial_and_none_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, screen = on_terminal(monkeypatch, 80, 12)
    with progress:
        watch(progress, 30)
    last = screen.getvalue().rpartition("method")[2]  # the table that stays
    assert last.count("finished") == 30
    assert last.count("stopped") == 1
    assert "running" not in last


def test_one_training_shows_its_step_and_no_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _ = on_terminal(monkeypatch, 80, 24)
    progress.step(trial(0), 9, Metric(step=1, tokens=800, train_nll=3.25, seconds=0.5))
    lines = module.make_console().render_lines(progress._now(), pad=False)
    assert ["".join(segment.text for segment in line) for line in lines] == [
        "step 1/9, training loss 3.2500, 4 s left in this trial"
    ]


def test_elsewhere_it_says_plain_lines_of_any_length(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress() as progress:
        progress.say("word " * 60)
        watch(progress, 1)
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "word " * 60
    assert lines[1] == "trial 1 of about 5: lora:16, learning rate 0.0001, seed 0"
    assert lines[2].startswith("  finished, held-out loss 1.5000, 2.0 s")
    assert "held-out loss 2.5000, 1,600 tokens/s, 3 s left in this trial" in lines[-1]


@pytest.mark.parametrize(("quiet", "to_stderr"), [(True, False), (True, True), (False, True)])
def test_quiet_and_standard_error(capsys: pytest.CaptureFixture[str], quiet: bool, to_stderr: bool) -> None:
    with LiveProgress(quiet=quiet, to_stderr=to_stderr) as progress:
        watch(progress, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert bool(err) == (not quiet)


LORA = MethodPrice("lora:16", 4, 4.0, 100, (50, 100), ((TRAINING, 10.0), (JUDGING, 10.0)))


def train_some(progress: LiveProgress, seconds: float) -> None:
    """The first half of a trial of 100 steps."""
    one = trial(0)
    progress.trial_started(one, 0, 4)
    for step in (1, 25, 50, 51):
        loss = 2.0 if step == 50 else None
        progress.step(one, 100, Metric(step=step, tokens=step, test_nll=loss, seconds=seconds * step / 51))


def test_a_price_is_said_first_and_its_pace_once_the_first_steps_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveProgress() as progress:
        progress.priced(Price((LORA,), "a machine"))
        train_some(progress, 102.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "price: about 4 trials, 80 s on a machine"
    timed = [line for line in lines if line.startswith("timed: ")]
    assert timed == ["timed: about 12 min to go, by the first 49 steps; the plan said 80 s"]
    assert lines[-1].endswith(", about 12 min in the study")


def test_a_terminal_is_asked_about_a_long_job_and_may_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Price] = []

    def refuse(price: Price) -> None:
        asked.append(price)
        raise DeclinedError("no")

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=20, highlight=False)
    monkeypatch.setattr(module, "make_console", lambda **_: console)
    long = Price((replace(LORA, parts=((TRAINING, 5000.0),)),), "a machine")
    with LiveProgress(agree=refuse) as progress:
        progress.priced(Price((LORA,), "a machine"))
        assert not asked, "a short one is begun"
        with pytest.raises(DeclinedError):
            progress.priced(long)
    assert asked == [long]


def test_a_pipe_is_never_asked(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(price: Price) -> None:
        raise DeclinedError("no")

    with LiveProgress(agree=refuse) as progress:
        progress.priced(Price((replace(LORA, parts=((TRAINING, 5000.0),)),), "a machine"))
    assert "5.6 h" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "goes_on"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_only_yes_goes_on(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Typed(typed))
    price = Price((replace(LORA, parts=((TRAINING, 5000.0),)),), "a machine")
    agree = cli.live_progress(quiet=True, to_stderr=False, yes=False)._agree
    if typed[:1] in ("y", "Y"):
        agree(price)
    else:
        with pytest.raises(DeclinedError, match="nothing was trained"):
            agree(price)
    cli.live_progress(quiet=True, to_stderr=False, yes=True)._agree(price)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_function_shows_nothing_where_nobody_looks_on(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with watching(None, quiet=quiet) as watched:
        assert isinstance(watched, Silent)
        watched.say("a line")
    assert capsys.readouterr() == ("", "")
    mine = Silent()
    with watching(mine, quiet=True) as watched:
        assert watched is mine


def test_a_terminal_or_a_notebook_is_shown_what_a_function_does(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(module, "make_console", lambda **_: console)
    with watching(None, quiet=False) as watched:
        assert isinstance(watched, LiveProgress)
    with watching(None, quiet=True) as watched:
        assert isinstance(watched, Silent)


def test_at_60_columns_every_trial_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _ = on_terminal(monkeypatch, 60, 24)
    one = TrialSpec(method=LoRA(rank=16, targets=("attention",)), learning_rate=0.000625, seed=12)
    progress.trial_started(one, 0, 9)
    progress.step(one, 100_000, Metric(step=99_999, tokens=1, train_nll=1.0, test_nll=12.3456, seconds=1.0))
    lines = module.make_console().render_lines(progress._now(), pad=False)
    texts = ["".join(segment.text for segment in line) for line in lines]
    assert not any("…" in text for text in texts)
    assert texts[1].split() == ["lora:16:attention", "0.000625", "12", "99999/100000", "12.3456"]


def test_at_60_columns_groups_that_others_train_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _ = on_terminal(monkeypatch, 60, 24)
    record = TrialRecord.of(TrialSpec(method=LoRA(rank=16), learning_rate=0.0005, seed=0), status="running")
    last = {record.id: Metric(step=120, tokens=1, test_nll=0.9427, seconds=35.6)}
    progress.groups([GroupStanding("size-256.lora", 240, 25, (record,), last)])
    lines = module.make_console().render_lines(progress._now(), pad=False)
    assert "".join(part.text for part in lines[1]).split("  ")[:2] == ["size-256.lora", "lora:16 at 0.0005, seed 0"]
    assert "".join(part.text for part in lines[1]).split()[-2:] == ["120/240", "0.9427"]


def test_a_wide_table_names_the_question_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, _ = on_terminal(monkeypatch, 120, 24)
    groups = [GroupStanding("main.lora", 240, 25, label=f"{kind} main.lora") for kind in ("layers", "variants")]
    progress.groups(groups)
    lines = module.make_console().render_lines(progress._now(), pad=False)
    assert ["".join(part.text for part in line).split()[0] for line in lines[1:3]] == ["layers", "variants"]

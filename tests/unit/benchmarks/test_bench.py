"""The benchmarks' own arithmetic: what a step cannot do without, the page, and a stopped run that goes on."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "num_hidden_layers": 2,
    "vocab_size": 10,
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bench("work")` is benchmarks/bench/work.py, which is imported from the repository's root."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.bench.{name}")


@pytest.fixture
def work(bench: Any) -> ModuleType:
    module: ModuleType = bench("work")
    return module


@pytest.fixture
def shapes(work: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return work.read_shapes(tmp_path)


def contender(*answers: Mapping[str, Any], warmup: int = 1) -> dict[str, Any]:
    common = {"peak_bytes": 3e9, "loss": 2.0, "supervised": 100}
    return {"loaded_bytes": 1e9, "warmup": warmup, "answers": [{**common, **answer} for answer in answers]}


# --- multiply-adds --------------------------------------------------------------------------------------------------


def test_a_matrix_counts_what_the_post_counts(work: ModuleType) -> None:
    """N = 6, R = 2: 2·36 + 3·2·12 = 144 and 3·36 = 108, and the break-even rank is N/6."""
    assert work.lora_matrix(work.Matrix(6, 6), 2) == 144
    assert work.full_matrix(work.Matrix(6, 6)) == 108
    assert work.lora_matrix(work.Matrix(6, 6), 1) == 108


def test_nobody_needs_the_gradient_of_what_a_first_matrix_reads(work: ModuleType) -> None:
    """d_in 3, d_out 5, R = 2. Forward 15 + 2·8; backward Bᵀg 10, dB 10, dA 6; no 15 of Wᵀg, no 6 of Aᵀ(Bᵀg)."""
    assert work.lora_matrix(work.Matrix(3, 5, first=True), 2) == (15 + 16) + (10 + 10 + 6)
    assert work.full_matrix(work.Matrix(3, 5, first=True)) == 45


def test_the_shapes_of_a_config(work: ModuleType, shapes: Any) -> None:
    """Two layers of q 8→8, k and v 8→4, o 8→8, gate and up 8→16, down 16→8; the first three read the embedding."""
    layer = [(8, 8), (8, 4), (8, 4), (8, 8), (8, 16), (8, 16), (16, 8)]
    assert [(m.d_in, m.d_out) for m in shapes.matrices] == layer * 2
    assert [m.first for m in shapes.matrices] == [True] * 3 + [False] * 11
    assert (shapes.layers, shapes.attention, shapes.hidden, shapes.vocabulary) == (2, 8, 8, 10)


def test_a_step_by_hand(work: ModuleType, shapes: Any) -> None:
    """Rows of 3 and 2 tokens with 2 and 1 supervised; a layer's matrices hold 64+32+32+64+128·3 = 576 numbers."""
    rows = [work.Row(3, 2), work.Row(2, 1)]
    pairs = 6 + 3
    attention = 6 * pairs * 8 * 2
    assert work.attention(shapes, rows) == attention
    assert work.full_step(shapes, rows) == 5 * 3 * 2 * 576 + 3 * 3 * 80 + attention
    sums = 16 + 12 + 12 + 16 + 24 * 3  # d_in + d_out of a layer's seven
    saved = 64 + 32 + 32 + 3 * 8  # in q, k, v of the first layer, at rank 1
    assert work.lora_step(shapes, rows, 1) == 5 * (2 * 2 * 576 + 3 * 2 * sums - saved) + 2 * 3 * 80 + attention


def test_the_ratio_of_theory(work: ModuleType, shapes: Any) -> None:
    """By the plain formula rank 0 would be ⅔; the whole model's lies above it, as attention costs both the same."""
    assert work.plain_ratio(shapes, 1) == pytest.approx(2 / 3 + 128 / 576)
    rows = [work.Row(64, 64)]
    assert work.ratio(shapes, rows, 1) == work.lora_step(shapes, rows, 1) / work.full_step(shapes, rows)
    assert work.ratio(shapes, rows, 1) < work.ratio(shapes, rows, 2)


def test_the_share_of_the_peak(work: ModuleType) -> None:
    assert work.peak_share(1e9, 0.1, 40.0) == pytest.approx(0.5)


def test_a_base_of_another_build_is_refused(work: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"config\.json: model_type 'gpt2'"):
        work.read_shapes(tmp_path)


def test_a_row_is_used_up_to_its_last_supervised_prediction(bench: Any) -> None:
    """Token 3 is predicted by position 2, the third; what follows costs nothing."""
    rows = [{"completion_mask": [0, 0, 1, 1, 0, 0]}, {"completion_mask": [0, 1]}]
    (found,) = bench("figures").batches(rows, 2, 1)
    assert [(row.used, row.supervised) for row in found] == [(3, 2), (1, 1)]


# --- results --------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on(bench: Any, tmp_path: Path) -> None:
    results, file = bench("results").Results, tmp_path / "raw.json"
    results(file).keep("sft", {"source": "a"}, {"seconds": 1.0})
    results(file).keep("full", {"source": "a"}, {"seconds": 2.0})
    assert results(file).find("sft", {"source": "a"}) == {"seconds": 1.0}
    assert results(file).find("sft", {"source": "b"}) is None
    assert results(file, fresh=True).find("sft", {"source": "a"}) is None
    assert list(results(file).all()) == ["sft", "full"]
    assert [path.name for path in tmp_path.iterdir()] == ["raw.json"]


def test_damaged_results_are_named(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text("{")
    with pytest.raises(ValueError, match=r"raw\.json: is damaged.*--fresh"):
        bench("results").Results(tmp_path / "raw.json")


def test_the_warm_up_is_in_the_losses_and_not_in_the_times(bench: Any) -> None:
    results = bench("results")
    found = contender({"seconds": 9.0, "loss": 3.0}, {"seconds": 2.0}, {"seconds": 4.0}, {"seconds": 3.0})
    assert results.median(found) == 3.0
    assert results.median_rate(found, "supervised") == pytest.approx(100 / 3)
    assert results.losses(found) == [3.0, 2.0, 2.0, 2.0]
    assert results.losses(contender({"losses": {"a": 1.0, "b": 2.0}})) == [1.0, 2.0]


def test_unequal_work_is_no_small_difference(bench: Any) -> None:
    apart = bench("results").apart
    assert apart([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert apart([1.0], [1.0, 2.0]) == float("inf")
    assert apart([1.0, float("nan")], [1.0, 2.0]) == float("inf")
    assert apart([float("nan"), 1.0], [1.0, 1.0]) == float("inf")


# --- taking turns ---------------------------------------------------------------------------------------------------


def test_contenders_take_turns(bench: Any) -> None:
    """Each round begins with the next of them, so that none is always first."""
    asked: list[str] = []

    class Child:
        def __init__(self) -> None:
            self.facts = {"loaded_bytes": 1}

        def ask(self, name: str) -> dict[str, Any]:
            asked.append(name)
            return {"loss": 1.0}

    children = bench("children")
    contenders = [children.Contender(name, Child(), {"name": name}) for name in "abc"]
    found = children.take_turns(contenders, 1, 2)
    assert asked == [*"abc", *"bca", *"cab"]
    assert [len(each["answers"]) for each in found.values()] == [3, 3, 3]
    assert found["a"]["warmup"] == 1


def test_a_child_that_dies_is_named_with_its_last_words(bench: Any, tmp_path: Path) -> None:
    children = bench("children")
    launcher = children.Launcher(1, tmp_path)
    with (
        pytest.raises(children.ChildFailed, match=r"(?s)results:nothing.*AttributeError"),
        launcher.child("results:nothing"),
    ):
        pass


# --- the page -------------------------------------------------------------------------------------------------------


def test_a_goal_is_reached_or_missed(bench: Any) -> None:
    goal = bench("table").goal
    assert goal(2.5, 2.5) == "2.50× (wanted ≥ 2.5: reached)"
    assert goal(2.49, 2.5) == "2.49× (wanted ≥ 2.5: **missed**)"
    assert goal(0.45, 0.45, at_most=True) == "0.45× (wanted ≤ 0.45: reached)"
    assert goal(0.5, 0.65, unit="%") == "50 % (wanted ≥ 65 %: **missed**)"


def test_only_equal_work_counts(bench: Any) -> None:
    table = bench("table")
    one, near = contender({"loss": 2.0}), contender({"loss": 2.00005})
    assert "not the same work" not in table.same_work(one, near)
    assert "not the same work" in table.same_work(one, contender({"loss": 2.001}))


def test_a_figure_of_sft_on_the_page(bench: Any) -> None:
    """Ours takes 1 s for what takes TRL 3 s and the loop 2 s, with a third of TRL's memory, at 80 % of 100 GFLOP/s."""
    sft, table = bench("sft"), bench("table")
    raw = {
        "peaks": {"2048×2048×2048": 100.0, "other": 90.0},
        "rank": 16,
        "multiply_adds": [7, 40e9],
        "contenders": {
            sft.TRL: contender({"seconds": 9.0}, {"seconds": 3.0, "peak_bytes": 9e9}),
            sft.LOOP: contender({"seconds": 9.0}, {"seconds": 2.0}),
            sft.OURS: contender({"seconds": 9.0}, {"seconds": 1.0}),
        },
    }
    text = table.page({"cores": 2}, sft.lora_lines(raw), [*sft.LORA.notes(raw), "a note"])
    assert "3.00× (wanted ≥ 2.5: reached) TRL + PEFT, losses 0e+00 apart" in text
    assert "0.33× (wanted ≤ 0.45: reached) of its memory" in text
    assert "2.00× (wanted ≥ 1.8: reached) the loop by hand" in text
    assert "80 % (wanted ≥ 65 %: reached) of 100 GFLOP/s; TRL + PEFT 27 %" in text
    assert "| 1 | lowregret | 1 (1–1) | 100 supervised tokens | 3.00 GB | 2.00 GB | 2.0000 → 2.0000 |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in rows}) == 1, "a row has too few or too many cells"
    assert "- a note" in text


def test_memory_growth_counts_fifteen_policies_for_sixteen(bench: Any) -> None:
    """1,000 parameters hold 16 kB a policy: a growth of 15 × 16 kB is exactly what must be held."""
    one = {"peak_bytes": 10_000_000, "loaded_bytes": 0, "parameters": 1000}
    many = {**one, "peak_bytes": 10_000_000 + 15 * 16_000}
    verdict = bench("memory").lines({"policies": {"1": [one], "16": [many]}})[-1].verdict
    assert "1.00× (wanted ≤ 1.2: reached)" in verdict


def test_completions_are_compared_token_for_token(bench: Any) -> None:
    sampling = bench("sampling")
    ours, other = {"answers": [{"ids": [[1, 2], [3, 4]]}]}, {"answers": [{"ids": [[1, 2], [3, 5]]}]}
    names = (sampling.TOGETHER, sampling.SINGLE, sampling.APART, sampling.MIXED, sampling.ADAPTER, sampling.MERGED)
    found = {name: json.loads(json.dumps(other if name == sampling.MIXED else ours)) for name in names}
    assert sampling._agreement(found)[sampling.MIXED] == 1
    assert sampling._agreement.__doc__
    assert all("ids" not in each["answers"][0] for each in found.values())


def rl_answer(seconds: float, tokens: int = 1536, **more: float) -> dict[str, Any]:
    return {"seconds": seconds, "tokens": tokens, "sampling_seconds": seconds / 2, **more}


def rl_contender(*answers: Mapping[str, Any]) -> dict[str, Any]:
    own = [{"peak_bytes": 3e9, **answer} for answer in answers]
    return {"loaded_bytes": 1e9, "warmup": 1, "answers": own}


def test_a_step_by_reward_is_compared_round_by_round(bench: Any) -> None:
    """Rounds of 2 against 6 s, of 4 against 8 s and of 1 against 5 s: 3, 2 and 5 times, so 3 in the middle."""
    rl = bench("rl")
    ours = rl_contender(*[rl_answer(seconds, peak_bytes=1.5e9) for seconds in (9, 2, 4, 1)])
    theirs = rl_contender(*[rl_answer(seconds) for seconds in (9, 6, 8, 5)])
    many = rl_contender(*[rl_answer(seconds, 8 * 1536, sampling_seconds=1) for seconds in (9, 4, 4, 4)])
    each = rl_contender(*[rl_answer(seconds, 8 * 1536, sampling_seconds=4) for seconds in (9, 8, 8, 8)])
    work = rl.expected({"problems": 4, "group": 8, "max_tokens": 48}, 8)
    contenders = {rl.TRL: theirs, rl.ONE: ours, rl.TOGETHER: many, rl.APART: each}
    raw = {"contenders": contenders, "work": work, "prompt_tokens": [31, 40], "completion_tokens": 48}
    assert rl.ratio(theirs, ours) == 3
    assert rl.beside(ours) == 0.5e9
    assert rl.unequal_work(raw) == []
    lines = {line.contender: line.verdict for line in rl.lines(raw)}
    assert "3.00× (wanted ≥ 2: reached) TRL's steps per second; 0.50× (wanted ≤ 0.5: reached)" in lines[rl.ONE]
    assert "4.00× (wanted ≥ 3: reached) in sampling and 2.00× (wanted ≥ 1.8: reached) overall" in lines[rl.TOGETHER]
    assert "1536 completion tokens a policy and step, prompts of 31 to 40 tokens" in rl.notes(raw)[0]
    theirs["answers"][2]["tokens"] = 1535
    assert rl.unequal_work(raw) == [rl.TRL]
    assert "not the same work" in rl.lines(raw)[0].verdict


def test_the_rewards_of_the_bench_differ_within_a_group(bench: Any) -> None:
    rewards = {bench("rl_contenders").reward(f"text {number}") for number in range(50)}
    assert rewards == {0.0, 0.25, 0.5, 0.75, 1.0}


# --- the command line -----------------------------------------------------------------------------------------------


def test_figures_are_chosen_by_name(bench: Any) -> None:
    main = bench("__main__")
    assert [figure.name for figure in main.choose("rl")] == ["matmul", "rl-tiny-few", "rl-tiny", "rl-base"]
    names = [figure.name for figure in main.choose("sampling,pack")]
    assert names[0] == "matmul", "the peak belongs to every run"
    assert {"sampling", "pack-processes", "pack-4", "pack-base"} < set(names)
    assert "sft" not in names
    assert "demo" not in [figure.name for figure in main.choose(None)]
    with pytest.raises(ValueError, match=r"no figure 'sftt'\. Valid: matmul, settings, sft"):
        main.choose("sftt")


def test_a_missing_peer_is_an_error_that_says_what_to_do(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = bench("__main__")
    found = main.importlib.util.find_spec
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None if name == "trl" else found(name))
    assert main.main(["--only", "matmul"]) == 2
    assert "trl not installed. `make setup`" in capsys.readouterr().err


def test_without_a_base_its_figures_are_skipped(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = bench("__main__")
    monkeypatch.setattr(main.Bench, "need", lambda self, name: {})
    assert main.main(["--only", "sft,pack-4", "--out", str(tmp_path / "page.md")]) == 0
    errors = capsys.readouterr().err
    assert "sft: skipped, it needs --model and --data." in errors
    assert "pack-4: skipped" not in errors


def test_sources_of_another_kind_are_another_digest(bench: Any, tmp_path: Path) -> None:
    digest = bench("__main__").source_digest
    (tmp_path / "a.py").write_text("x = 1\n")
    first = digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert digest(tmp_path) != first
    assert digest(tmp_path) == digest(tmp_path)


def test_nothing_heavy_is_imported_by_the_runner() -> None:
    """Contenders load torch; the runner, which waits beside them, must not."""
    import subprocess

    code = "import benchmarks.bench.__main__, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_peers_rows_end_to_end_are_the_same_work(bench: Any, bases: ModuleType, attention: str) -> None:
    """The loss of rows that transformers tells apart by their positions is that of padded ones."""
    import torch

    model = bases.small_model("qwen3")
    model.set_attn_implementation(attention)
    draw = random.Random(0)
    rows = [
        {
            "input_ids": [draw.randrange(2, 64) for _ in range(length)],
            "completion_mask": [int(place >= length // 2) for place in range(length)],
        }
        for length in (9, 4, 14)
    ]
    peers = bench("peers")
    with torch.no_grad():
        losses = [float(model(**make(rows), use_cache=False).loss) for make in (peers.padded, peers.end_to_end)]
        alone = [model(**peers.padded([row]), use_cache=False).loss for row in rows]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    weighted = sum(float(loss) * sum(row["completion_mask"]) for loss, row in zip(alone, rows, strict=True))
    assert losses[1] == pytest.approx(weighted / sum(sum(row["completion_mask"]) for row in rows), abs=1e-5)


def test_the_fastest_setting_of_a_peer_is_kept(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bench("settings")
    slow = {"padded, sdpa": 13.3, "padded, eager": 15.0, "padding-free, sdpa": 17.3}
    asked = []

    class Launcher:
        @contextmanager
        def children(self, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
            yield wanted

    def turns(contenders: dict[str, Any], warmup: int, repeats: int) -> dict[str, Any]:
        asked.extend(contenders.values())
        return {name: {"warmup": 0, "answers": [{"seconds": slow[name]}]} for name in contenders}

    monkeypatch.setattr(settings, "take_turns", turns)
    found = settings.fastest(SimpleNamespace(launcher=Launcher(), repeats=5), lambda own: ("peers:trl", own))
    assert found == {"seconds": slow, "fastest": "padded, sdpa"}
    assert asked == [("peers:trl", own) for own in settings.SETTINGS.values()]
    assert "padding-free, sdpa 17.3 s; `padded, sdpa` is what stands" in settings.told("TRL", found)

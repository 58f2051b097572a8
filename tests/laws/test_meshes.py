"""Ranks that hold parts of each matrix, or some of the experts, train what one process does.

In float64, where another order of sums leaves less than 1e-12 of losses, gradients and weights; what float32 and
bfloat16 leave is stated beside. One start of two processes, and one of four, computes all cases (meshed.py).
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gloo import together
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.expert import cut_experts
from lowregret.engine.parallel.mesh import Axis, Ranks
from lowregret.engine.parallel.tensor import cut_matrices
from lowregret.errors import SpecError
from meshed import CASES, Found, Trained, base_of, engine_of, everything, train
from meshed_reading import READ, read
from sharded import batch_of

APART = {
    # Rounding of transformers' own float32 (norms, the router of DeepSeek-V3), and of products.
    "tensor: capped logits, float32": (1e-6, 1e-5),
    "tensor: 20 steps, float32": (2e-6, 1e-5),
    # Losses of 10 nats: one process that gets rows in another order is up to 9e-6 from itself (16 orders measured).
    "tensor: tiny, 20 steps, float32": (2e-5, 4e-5),
    "tensor: DoRA and PiSSA, float32": (1e-6, 1e-5),
    "replicate and shard: FullFT, float32": (1e-6, 1e-5),
    "expert: FullFT of Qwen3-MoE, float32": (1e-6, 1e-5),
    "replicate and tensor: FullFT, float32": (1e-6, 1e-5),
    "expert: DeepSeek-V3, float32": (1e-6, 1e-5),
    "tensor: bfloat16": (0.05, 0.05),
    "expert: bfloat16": (0.05, 0.05),
}
"""Largest difference of a loss, and of a weight, where it is not 1e-12."""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp("state") for name in CASES}


@pytest.fixture(scope="module")
def alone(states: dict[str, Path]) -> dict[str, Trained]:
    return {name: train(name, folder) for name, folder in states.items()}


COUNTED = (
    "tensor: three LoRAs",
    "tensor: activations computed twice",
    "tensor: DoRA and dropout",
    "expert: Mixtral, every convention",
)
BATCHES = {f"p{number}": batch_of(CASES[COUNTED[0]].case, number, 5) for number in range(3)}
HIDDEN, LAYERS = 16, 2


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of each base that is read."""
    folder = tmp_path_factory.mktemp("bases")
    for name in {base for base, _, _ in READ.values()}:
        base = base_of(name, double=False)
        base.model.save_pretrained(folder / name)
        base.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def groups(
    alone: Any, states: dict[str, Path], bases: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[list[str], list[Found]]]:
    """By the number of ranks, the cases, and what each rank has found."""
    found = {}
    for count in (2, 4):
        names = [name for name, case in CASES.items() if case.ranks == count]
        folder = tmp_path_factory.mktemp("ranks")
        counts = dict.fromkeys(COUNTED, BATCHES) if count == 2 else {}
        asked = [(name, states[name]) for name in names]
        reads = (bases, [name for name in READ if (" and " in name) == (count == 4)])
        found[count] = (names, together(count, "meshed", everything, folder, folder, asked, counts, reads))
    return found


@pytest.fixture(scope="module")
def two(groups: dict[int, tuple[list[str], list[Found]]]) -> list[Found]:
    return groups[2][1]


@pytest.fixture(scope="module")
def meshed(groups: dict[int, tuple[list[str], list[Found]]]) -> dict[str, list[Trained]]:
    """Of each case, what each rank has found."""
    return {
        name: [rank.trained[place] for rank in ranks]
        for names, ranks in groups.values()
        for place, name in enumerate(names)
    }


def apart(one: dict[str, Any], other: dict[str, Any]) -> Any:
    """The difference of each number."""
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return np.concatenate([(one[name] - other[name]).ravel() for name in one])


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a number."""
    return float(np.abs(apart(one, other)).max())


def typical(differences: Any) -> float:
    """The root of their mean square."""
    return float(np.sqrt(np.mean(np.square(differences))))


@pytest.mark.parametrize("name", CASES)
def test_every_rank_gets_the_same_answers(meshed: dict[str, list[Trained]], name: str) -> None:
    first, *others = meshed[name]
    for other in others:
        assert (first.losses, first.norms, first.held_out) == (other.losses, other.norms, other.held_out)
        assert first.sampled == other.sampled
        assert all(np.array_equal(a, b) for a, b in zip(first.logprobs, other.logprobs, strict=True))
        assert furthest(first.weights, other.weights) == 0


@pytest.mark.parametrize("name", CASES)
def test_ranks_in_parts_train_as_one_process(
    alone: dict[str, Trained], meshed: dict[str, list[Trained]], name: str
) -> None:
    one, found = alone[name], meshed[name][0]
    loss, weight = APART.get(name, (1e-12, 1e-12))
    np.testing.assert_allclose(found.losses, one.losses, rtol=0, atol=loss)
    np.testing.assert_allclose(found.norms, one.norms, rtol=10 * loss)
    assert furthest(one.gradients, found.gradients) < weight
    assert furthest(one.weights, found.weights) < weight, "moments included"
    for own, theirs in zip(found.logprobs, one.logprobs, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=10 * weight)
    for (own_sums, own_counts), (sums, counts) in zip(found.held_out, one.held_out, strict=True):
        np.testing.assert_allclose(own_sums, sums, rtol=0, atol=100 * weight)
        assert own_counts == counts
    assert found.sampled == one.sampled
    assert bool(found.sampled) is CASES[name].samples
    assert found.trainable == one.trainable
    assert found.path == one.path, "as fast a way is taken: its numbers were right"


def test_after_many_steps_ranks_are_as_near_as_one_process_with_another_order_of_sums(
    alone: dict[str, Trained], meshed: dict[str, list[Trained]], tmp_path: Path
) -> None:
    """Training grows the last bits of float32: one process that gets the same rows in another order is as far from
    itself as from ranks that add up matrices by halves. In float64 neither difference is there. Distances are roots
    of mean squares: the largest of many differences is one number that Adam's division happened to grow, and differs
    by a factor of 4 between orders and processors."""
    name = "tensor: tiny, 20 steps, float32"
    one, found = alone[name], meshed[name][0]
    orders = [train(name, tmp_path, shuffled=seed) for seed in range(1, 5)]
    losses, *others = [typical(np.subtract(one.losses, other.losses)) for other in (found, *orders)]
    assert 0 < losses <= 2 * max(others)
    weights, *others = [typical(apart(one.weights, other.weights)) for other in (found, *orders)]
    assert 0 < weights <= 2 * max(others)


@pytest.mark.parametrize("name", CASES)
def test_a_seed_is_the_same_adapter_on_any_number_of_ranks(
    alone: dict[str, Trained], meshed: dict[str, list[Trained]], name: str
) -> None:
    one, found = alone[name], meshed[name][0]
    if "DoRA" not in name:  # magnitudes are norms of rows, whose squares add up over ranks
        assert found.started == one.started, "drawn whole, saved whole: the same file to the bit"
    assert found.gone_on == one.gone_on, "what one process has saved, ranks load, save and export"
    assert bool(found.gone_on) is not CASES[name].double


@pytest.mark.parametrize("name", CASES)
def test_a_rank_holds_its_part_of_the_base(
    alone: dict[str, Trained], meshed: dict[str, list[Trained]], name: str
) -> None:
    case, whole = CASES[name], alone[name].here
    model: Any = base_of(case.case.base, double=False).model
    cut = 0.0
    if case.tensor > 1:
        parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj.weight", "up_proj.weight", "down_proj.weight")
        linear = [p.numel() for key, p in model.named_parameters() if any(part in key for part in parts)]
        cut += sum(linear) / 2
        if not model.config.tie_word_embeddings:  # else it is rows of the embedding
            cut += model.lm_head.weight.numel() / 2
    if case.expert > 1:
        cut += sum(p.numel() for key, p in model.named_parameters() if ".experts." in key) / 2
    for found in meshed[name]:
        assert found.here == pytest.approx(whole - cut, rel=0.02), "biases of what is rowwise are whole"


@pytest.mark.parametrize("name", READ)
def test_ranks_read_their_parts_of_a_base(
    groups: dict[int, tuple[list[str], list[Found]]], bases: Path, name: str
) -> None:
    """No rank builds the base whole: it reads what it holds, the same types and bytes."""
    one = read(name, bases, alone=True)
    for rank in groups[4 if " and " in name else 2][1]:
        found = rank.read[name]
        assert found.digests == one.digests
        assert found.held == pytest.approx(found.due, rel=0.02)
        assert found.held < 0.8 * one.held
        assert found.loss == pytest.approx(one.loss, abs=0.02 if READ[name][1] == "bfloat16" else 1e-5)


def test_what_a_pass_exchanges_is_what_is_said(two: list[Found]) -> None:
    tokens = sum(batch.tokens for batch in BATCHES.values())
    positions = sum(int(batch.supervised.sum()) for batch in BATCHES.values())
    regions, states = 2 * LAYERS, tokens * HIDDEN
    there = regions * states + 3 * positions + 1
    back = (regions - 1) * states + positions * HIDDEN
    norms = LAYERS * 2 * 2 * HIDDEN  # of o and down, of two policies
    for rank in two:
        for name, again in zip(COUNTED[:3], (0, (regions - LAYERS) * states, norms), strict=True):
            forward, backward, step = rank.exchanged[name]
            assert forward.keys() == backward.keys() == step.keys() == {"all_reduce"}
            assert sum(forward["all_reduce"]) == there + (norms if "DoRA" in name else 0)
            assert sum(backward["all_reduce"]) == there + back + again
        # Of a LoRA of rank r, whole: A of q, k, v, gate, up and unembedding, and B of o and down; and three norms.
        step = rank.exchanged[COUNTED[0]][2]
        of_layers = LAYERS * HIDDEN * (8 * 7 + 3 * 4 + 8 * 7)
        assert sum(step["all_reduce"]) == of_layers + HIDDEN * (8 + 8) + 3


def test_pairs_go_to_the_rank_of_their_expert_and_back(two: list[Found]) -> None:
    found = [rank.exchanged[COUNTED[3]] for rank in two]
    tokens, chosen, ranks, policies = sum(batch.tokens for batch in BATCHES.values()), 2, 2, 3
    pairs, told = LAYERS * chosen * tokens, ranks * LAYERS * ranks * policies
    there_and_back = pairs * (2 * HIDDEN + 2)
    assert sum(sum(rank[0]["all_to_all_single"]) for rank in found) == there_and_back + told
    both = there_and_back + pairs * (2 * HIDDEN + 1)
    assert sum(sum(rank[1]["all_to_all_single"]) for rank in found) == both + told
    assert not any("all_to_all_single" in rank[2] for rank in found), "a step exchanges no pairs"


def test_what_is_not_computed_in_parts_is_refused(two: list[Found]) -> None:
    for rank in two:
        full, again, mesh, adapters, dense = rank.refused
        assert "o_proj has a bias, which full fine-tuning with tensor=2 does not compute" in full
        assert "load the base again" in again
        assert "takes a multiple of 3 devices, and there are 2" in mesh
        assert "the adapter lora lies in parts" in adapters
        assert "no experts" in dense


@pytest.mark.parametrize(
    ("base", "ranks", "said"),
    [
        ("llama", 3, r"3 tensor ranks do not divide its attention heads .*Ask for tensor=1 or 2\."),
        ("llama", 4, r"do not divide its key/value heads .*4 attention heads, 2 key/value heads.*tensor=1 or 2\."),
        ("opt", 2, "transformers does not say how it is cut"),
        ("gpt2", 2, "transformers does not say how it is cut"),
        ("phi3", 2, "self_attn cannot be computed in parts: by transformers' plan a matrix of it is colwise_gather"),
        ("olmoe", 2, "cannot be computed in parts"),
    ],
)
def test_what_tensor_ranks_do_not_divide_is_told_with_what_works(base: str, ranks: int, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        cut_matrices(base_of(base, double=False).model, Axis(0, ranks))


def test_more_ranks_than_experts_are_told_with_what_works() -> None:
    with pytest.raises(SpecError, match=r"8 expert ranks do not divide the 4 experts .*expert=1 or 2 or 4\."):
        cut_experts(base_of("mixtral", double=False).model, Axis(0, 8))


def test_a_mesh_takes_as_many_devices_as_there_are() -> None:
    with pytest.raises(SpecError, match="a multiple of 2 devices, and there are 1"):
        Ranks.of_group("cpu", tensor=2)
    assert Ranks.of_group("cpu").alone


@pytest.mark.parametrize(("whole", "count"), [(8, 2), (65, 2), (7, 4), (3, 3)])
def test_parts_are_the_whole_once(whole: int, count: int) -> None:
    cuts = [Cut(Axis(rank, count), -1, whole) for rank in range(count)]
    numbers = torch.arange(2 * whole).view(2, whole)
    assert torch.equal(torch.cat([cut.own(numbers) for cut in cuts], 1), numbers)
    assert [cut.start for cut in cuts] == [0, *accumulate(cut.size for cut in cuts)][:-1]
    assert max(cut.size for cut in cuts) == cuts[0].largest


def test_an_engine_of_one_process_cuts_nothing() -> None:
    engine = engine_of(CASES["tensor: three LoRAs"], Ranks())
    assert engine.policies["p0"].parts.cuts == {}
    assert engine.policies["p0"].gradient_norm() is None

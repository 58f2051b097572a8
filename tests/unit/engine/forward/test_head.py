"""The head gives what float64 full logits give, for every chunk size, and never holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
)

from lowregret.engine.forward.head import head_transform, linear_cross_entropy, linear_logprobs
from lowregret.engine.losses import cross_entropy

POSITIONS, VOCABULARY, D, RANK = 13, 37, 8, 4
ONE_ROW, FOUR_ROWS, ALL = 1, 4 * VOCABULARY * 8, 2**30
NAMES = ("hidden", "weight", "bias", "u", "b")
TRANSFORMS = [(1.0, None), (0.25, None), (1.0, 3.0), (0.5, 2.0)]


def operands(dtype: torch.dtype, trains: str = " ".join(NAMES), seed: int = 0) -> dict[str, Tensor]:
    """Random inputs, of which those in `trains` require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "hidden": (POSITIONS, D),
        "weight": (VOCABULARY, D),
        "bias": (VOCABULARY,),
        "u": (POSITIONS, RANK),
        "b": (VOCABULARY, RANK),
    }
    found = {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in shapes.items()}
    for name in trains.split():
        found[name].requires_grad_()
    return found | {"targets": torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)}


def reference(x: dict[str, Tensor], scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """log p(target) by full logits."""
    logits = F.linear(x["hidden"], x["weight"], x.get("bias"))
    if "u" in x:
        logits = logits + x["u"] @ x["b"].t()
    logits = logits * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits.log_softmax(-1).gather(1, x["targets"][:, None])[:, 0]


def head(x: dict[str, Tensor], **options: Any) -> Tensor:
    update = (x["u"], x["b"]) if "u" in x else None
    return linear_logprobs(x["hidden"], x["weight"], x["targets"], bias=x.get("bias"), update=update, **options)


def head_loss(x: dict[str, Tensor], weights: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    update = (x["u"], x["b"]) if "u" in x else None
    return linear_cross_entropy(
        x["hidden"], x["weight"], x["targets"], weights, bias=x.get("bias"), update=update, **options
    )


def gradients(loss: Tensor, x: dict[str, Tensor]) -> dict[str, Tensor]:
    names = [name for name in NAMES if name in x and x[name].requires_grad]
    return dict(zip(names, torch.autograd.grad(loss, [x[name] for name in names]), strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (found[name].double() - gradient).norm() / gradient.norm()
        assert difference < tolerance, (name, float(difference))


class Allocations(TorchDispatchMode):
    """The bytes of every new storage, and the number of matrix products, while it is active."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.alive: list[Tensor] = []  # storages seen are kept, so that no address is given twice
        self.sizes: list[int] = []
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.products += func.__name__.split(".")[0] in ("mm", "addmm", "addmm_")
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.known.add(x.untyped_storage().data_ptr())
                self.alive.append(x)
                self.sizes.append(x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("chunk_bytes", [ONE_ROW, FOUR_ROWS, ALL])
@pytest.mark.parametrize(("scale", "softcap"), TRANSFORMS)
@pytest.mark.parametrize("trains", ["hidden", "hidden u", "hidden u b", "weight", "bias", " ".join(NAMES)])
def test_float32_equals_float64_full_logits(trains: str, scale: float, softcap: float | None, chunk_bytes: int) -> None:
    x, exact = operands(torch.float32, trains), operands(torch.float64, trains)
    for name in NAMES:
        exact[name].data = x[name].detach().double()
    g = torch.linspace(-1, 2, POSITIONS)
    found = head(x, scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
    expected = reference(exact, scale, softcap)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
    gradient = gradients((expected * g.double()).sum(), exact)
    assert_same(gradients((found * g).sum(), x), gradient, 2e-6)
    loss, logprobs = head_loss(x, -g, scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
    assert torch.equal(logprobs, found)
    assert torch.equal(loss, cross_entropy(found, -g))
    assert not logprobs.requires_grad
    assert_same(gradients(3 * loss, x), {name: 3 * value for name, value in gradient.items()}, 2e-6)


@pytest.mark.parametrize("chunk_bytes", [FOUR_ROWS, ALL])
@pytest.mark.parametrize(("scale", "softcap"), TRANSFORMS)
@pytest.mark.parametrize("trains", ["hidden u", " ".join(NAMES)])
def test_gradients_by_finite_differences(trains: str, scale: float, softcap: float | None, chunk_bytes: int) -> None:
    x = operands(torch.float64, trains)
    options = {"scale": scale, "softcap": softcap, "chunk_bytes": chunk_bytes}

    def function(*values: Tensor) -> Tensor:
        return head(dict(zip(NAMES, values, strict=True)) | {"targets": x["targets"]}, **options)

    assert gradcheck(function, tuple(x[name] for name in NAMES), fast_mode=True)


@given(st.integers(1, 5000), st.integers(0, POSITIONS), st.booleans(), st.sampled_from(TRANSFORMS))
def test_a_chunk_size_changes_nothing(
    chunk_bytes: int, positions: int, trained: bool, transform: tuple[float, float | None]
) -> None:
    scale, softcap = transform
    x = operands(torch.float64, " ".join(NAMES) if trained else "hidden u")
    cut = x | {name: x[name][:positions] for name in ("hidden", "u", "targets")}
    weights = torch.linspace(1, 2, POSITIONS, dtype=torch.float64)[:positions]
    whole = head(cut, scale=scale, softcap=softcap, chunk_bytes=ALL)
    parts = head(cut, scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
    loss, logprobs = head_loss(cut, weights, scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
    assert parts.shape == (positions,)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logprobs, whole, rtol=1e-12, atol=1e-12)
    expected = gradients(cross_entropy(whole, weights), x)
    for found in (gradients(cross_entropy(parts, weights), x), gradients(loss, x)):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


def test_any_loss_of_the_logprobs_gets_its_gradient() -> None:
    """The frozen path computes its derivative before the loss is known: it must hold for a nonlinear one as well."""
    for trains in ("hidden", "hidden weight"):
        x = operands(torch.float64, trains)
        ratio = [(head(x, chunk_bytes=FOUR_ROWS) + 3).exp().clamp(max=2), (reference(x) + 3).exp().clamp(max=2)]
        found, expected = (gradients((r * r).sum(), x) for r in ratio)
        assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("chunk_bytes", [FOUR_ROWS, ALL])
def test_a_tied_weight_gets_the_gradients_of_both_its_uses(chunk_bytes: int) -> None:
    x = operands(torch.float64, "weight")
    ids = torch.arange(POSITIONS) % 5
    found, expected = (
        torch.autograd.grad(f(x | {"hidden": F.embedding(ids, x["weight"]).tanh()}).sum(), x["weight"])[0]
        for f in (lambda y: head(y, chunk_bytes=chunk_bytes), reference)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("trains", ["hidden", " ".join(NAMES)])
@pytest.mark.parametrize("positions", [0, 1])
def test_few_positions(trains: str, positions: int) -> None:
    x = operands(torch.float64, trains)
    cut = x | {name: x[name][:positions] for name in ("hidden", "u", "targets")}
    for loss in (head(cut).sum(), -head_loss(cut, torch.ones(positions, dtype=torch.float64))[0]):
        found, expected = gradients(loss, x), gradients(reference(cut).sum(), x)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])


def test_a_sure_model_keeps_its_precision() -> None:
    """p(target) → 1: log p and the gradient are far below float32's step at the weight's size, and still right."""
    weight = torch.eye(6) * 1000
    hidden = torch.full((1, 6), 0.012).index_fill_(1, torch.tensor([2]), 0.024).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    target = torch.tensor([2])
    expected = torch.autograd.grad(reference({"hidden": exact, "weight": weight.double(), "targets": target}), exact)
    found = torch.autograd.grad(linear_logprobs(hidden, weight, target), hidden)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=2e-2, atol=0)


def test_large_logits_and_no_overflow() -> None:
    x = operands(torch.float32, "hidden")
    found = head(x, scale=1e4)
    assert found.isfinite().all()
    assert gradients(found.sum(), x)["hidden"].isfinite().all()


@pytest.mark.parametrize("trains", ["hidden", "hidden u b"])
def test_a_broken_position_leaves_the_others_to_the_bit(trains: str) -> None:
    x = operands(torch.float32, trains)
    clean = head(x, chunk_bytes=FOUR_ROWS)
    clean_gradient = gradients(clean.sum(), x)["hidden"]
    with torch.no_grad():
        x["hidden"][5] = float("nan")
    broken = head(x, chunk_bytes=FOUR_ROWS)
    others = torch.arange(POSITIONS) != 5
    assert broken[5].isnan()
    assert torch.equal(broken[others], clean[others])
    assert torch.equal(gradients(broken.sum(), x)["hidden"][others], clean_gradient[others])


@pytest.mark.parametrize("trains", ["hidden u", " ".join(NAMES)])
@pytest.mark.parametrize(("scale", "softcap"), TRANSFORMS)
@pytest.mark.parametrize("chunk_bytes", [FOUR_ROWS, ALL])
def test_bfloat16_autocast(trains: str, scale: float, softcap: float | None, chunk_bytes: int) -> None:
    """Products of bfloat16 numbers, the softmax in float32, gradients in the dtype of what they belong to."""
    x, exact = operands(torch.float32, trains), operands(torch.float64, trains)
    for name in NAMES:  # numbers that bfloat16 holds: what is left is the rounding of logits and p
        x[name].data = exact[name].data = exact[name].detach().bfloat16().double()
        x[name].data = x[name].data.float()
    x["weight"].data = x["weight"].data.bfloat16() if "weight" not in trains else x["weight"].data
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x, scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
        loss, _ = head_loss(x, torch.ones(POSITIONS), scale=scale, softcap=softcap, chunk_bytes=chunk_bytes)
    assert found.dtype is torch.float32
    expected = reference(exact, scale, softcap)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.125)  # bfloat16's step at 16: logits reach 30
    gradient = gradients(expected.sum(), exact)
    for found_gradient in (gradients(found.sum(), x), gradients(-loss, x)):
        assert all(value.dtype is torch.float32 for value in found_gradient.values())
        assert_same(found_gradient, gradient, 0.02)


def test_float64_stays_under_autocast() -> None:
    x = operands(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x)
    torch.testing.assert_close(found, reference(x))


def test_a_bfloat16_weight_that_trains_sums_its_chunks_in_float32() -> None:
    """2000 chunks of one position whose contributions bfloat16 would lose against the sum."""
    hidden = torch.ones(2000, 4, dtype=torch.bfloat16)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, requires_grad=True)
    logprobs = linear_logprobs(hidden, weight, torch.zeros(2000, dtype=torch.int64), chunk_bytes=1)
    (gradient,) = torch.autograd.grad(logprobs.sum(), weight)
    assert gradient.dtype is torch.bfloat16
    assert gradient[0].tolist() == [1504.0] * 4  # 2000 · ¾ = 1500, in the steps of 8 of bfloat16
    assert gradient[1].tolist() == [-500.0] * 4


LARGE = (512, 4096, 16)  # positions, vocabulary, d
CHUNK = 32 * LARGE[1] * 4


def large(trains: str) -> dict[str, Tensor]:
    positions, vocabulary, d = LARGE
    x = {
        "hidden": torch.randn(positions, d),
        "weight": torch.randn(vocabulary, d),
        "u": torch.randn(positions, RANK),
        "b": torch.randn(vocabulary, RANK),
    }
    for name in trains.split():
        x[name].requires_grad_()
    return x | {"targets": torch.randint(0, vocabulary, (positions,))}


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("trains", ["hidden", "hidden u b", "hidden weight u b", ""])
@pytest.mark.parametrize("function", [head, lambda x, **o: head_loss(x, torch.ones(LARGE[0]), **o)[0]])
def test_the_full_logits_never_exist(
    function: Callable[..., Tensor], trains: str, autocast: bool, softcap: float | None
) -> None:
    """The largest new tensor, forward and backward, is a chunk of logits or a gradient of the weight's size."""
    x = large(trains)
    with Allocations(*x.values()) as seen:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = function(x, softcap=softcap, chunk_bytes=CHUNK).sum()
        if trains:
            loss.backward()
    full = LARGE[0] * LARGE[1] * 4
    assert max(seen.sizes) <= CHUNK < full / 10
    buffers = sum(size for size in seen.sizes if size > CHUNK / 8)
    products = 2 if trains.endswith("b") else 1  # the backward pass makes buffers of its own
    of_weight = LARGE[1] * LARGE[2] * 4 if "weight" in trains else 0
    assert buffers <= products * CHUNK + of_weight or autocast  # which adds blocks of products and a copy of the weight


def test_no_temporary_of_the_weights_size_per_chunk() -> None:
    """Sixteen chunks, one buffer for their gradient: also where its dtype is not that of the products."""
    x = large("weight")
    for dtype in (torch.float32, torch.bfloat16):
        wide = torch.randn(LARGE[1], 512, requires_grad=True)
        hidden = torch.randn(LARGE[0], 512)
        with Allocations(wide, hidden, x["targets"]) as seen, torch.autocast("cpu", dtype, enabled=dtype != wide.dtype):
            linear_logprobs(hidden, wide, x["targets"], chunk_bytes=CHUNK).sum().backward()
        of_weights_size = [size for size in seen.sizes if size >= LARGE[1] * 512 * 4]
        assert len(of_weights_size) == 1, dtype


@pytest.mark.parametrize(
    ("function", "trains", "products"),
    [
        (head, "", 1),
        (head, "hidden", 2),
        (head, "hidden weight", 4),
        (lambda x, **o: head_loss(x, torch.ones(LARGE[0]), **o)[0], "hidden weight", 3),
    ],
)
def test_products_by_the_vocabulary(function: Callable[..., Tensor], trains: str, products: int) -> None:
    """Per chunk, forward and backward; one without gradients, whatever requires one."""
    x = large(trains)
    for name in ("u", "b"):
        del x[name]
    with Allocations() as seen:
        loss = function(x, chunk_bytes=CHUNK).sum()
        if trains:
            loss.backward()
    assert seen.products == products * LARGE[0] // 32
    with torch.no_grad(), Allocations() as seen:
        function(x, chunk_bytes=CHUNK)
    assert seen.products == LARGE[0] // 32


def test_nothing_is_kept_without_gradients() -> None:
    x = operands(torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        with torch.no_grad():
            assert not head(x).requires_grad
            assert not head_loss(x, torch.ones(POSITIONS))[0].requires_grad
        frozen = operands(torch.float32, "")
        assert not head(frozen).requires_grad
    assert kept == []
    with torch.no_grad():
        assert torch.equal(head(x), head(frozen))


def test_a_frozen_weight_keeps_no_more_than_one_hidden_state_a_position() -> None:
    x = large("hidden")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear_logprobs(x["hidden"], x["weight"], x["targets"], chunk_bytes=CHUNK)
    assert [tuple(t.shape) for t in kept] == [tuple(x["hidden"].shape)]


def test_the_loss_hands_its_gradients_over_once() -> None:
    x = operands(torch.float32)
    loss, _ = head_loss(x, torch.ones(POSITIONS))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_the_transformation_is_read_from_the_configuration() -> None:
    assert head_transform(LlamaConfig()) == (1.0, None)
    assert head_transform(Gemma2Config(final_logit_softcapping=30.0)) == (1.0, 30.0)
    assert head_transform(Gemma2Config(final_logit_softcapping=None)) == (1.0, None)
    assert head_transform(CohereConfig(logit_scale=0.0625)) == (0.0625, None)
    assert head_transform(GraniteConfig(logits_scaling=8.0)) == (0.125, None)
    assert head_transform(Gemma3Config(text_config={"final_logit_softcapping": 7.0})) == (1.0, 7.0)


SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Gemma2Config(**SIZES, final_logit_softcapping=0.5),
        CohereConfig(**SIZES, logit_scale=0.3),
        GraniteConfig(**SIZES, logits_scaling=0.2),
    ],
    ids=lambda config: str(config.model_type),
)
def test_real_bases_agree(config: PretrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    ids = torch.randint(3, 40, (1, 7))
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True)
        scale, softcap = head_transform(config)
        hidden, weight = output.hidden_states[-1][0, :-1], model.get_output_embeddings().weight
        found = linear_logprobs(hidden, weight, ids[0, 1:], scale=scale, softcap=softcap)
    expected = output.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(found, expected)

"""How devices are arranged: spelled and read back, and refused with the numbers that would work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.errors import SpecError
from lowregret.spec.mesh import Divisible, Mesh, require, require_devices

SIZES = st.integers(1, 64)
MESHES = st.builds(Mesh, replicate=SIZES, shard=SIZES, tensor=SIZES, expert=SIZES)
COUNTS = st.lists(st.sampled_from([1, 2, 4, 6, 8, 12, 32]), min_size=1, max_size=2)
BASES = st.builds(
    Divisible,
    st.just("a base"),
    heads=st.lists(st.sampled_from([8, 12, 32]), min_size=1, max_size=2),
    kv_heads=COUNTS,
    widths=st.lists(st.sampled_from([96, 1000, 1024]), max_size=2),
    experts=st.sampled_from([0, 1, 4, 6, 128]),
)
LLAMA = Divisible("Llama-3.1-8B", (32,), (8,), (14336,), 0)


@given(MESHES)
def test_what_is_printed_is_read_back(mesh: Mesh) -> None:
    assert Mesh.parse(str(mesh)) == mesh
    assert str(Mesh.parse(str(mesh))) == str(mesh)


@given(MESHES, st.randoms())
def test_the_order_and_spaces_do_not_matter(mesh: Mesh, random: object) -> None:
    parts = str(mesh).split(",")
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert Mesh.parse(" , ".join(part.replace("=", " = ") for part in parts)) == mesh


@given(MESHES)
def test_devices_are_the_product(mesh: Mesh) -> None:
    assert mesh.devices == mesh.data * mesh.tensor
    assert mesh.in_parts == (mesh.shard * mesh.tensor * mesh.expert > 1)
    require_devices(mesh, mesh.devices)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no dimension with its devices, such as fsdp=4,tensor=2."),
        ("fsdp4", "'fsdp4' is no dimension with its devices"),
        ("fsdp=4,", "'' is no dimension with its devices"),
        ("fdsp=4", "unknown dimension 'fdsp'. Did you mean 'fsdp'? Valid: expert, fsdp, replicate, tensor."),
        ("shard=4", "Valid: expert, fsdp, replicate, tensor."),
        ("fsdp=4,fsdp=2", "fsdp is given twice."),
        ("tensor=0", "tensor is '0'; a whole number of devices is needed, 1 to 100,000."),
        ("tensor=two", "tensor is 'two'"),
        ("tensor=-1", "tensor is '-1'"),
        ("tensor=2=2", "tensor is '2=2'"),
        ("expert=100001", "expert is '100001'"),
        ("expert=²", "expert is '²'"),
        (f"fsdp={'9' * 5000}", "fsdp is"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_key(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        Mesh.parse(text)


@given(st.text(alphabet="fsdp=,tenor 0123489", max_size=20))
def test_any_text_is_a_mesh_or_refused(text: str) -> None:
    with suppress(SpecError):
        assert Mesh.parse(str(Mesh.parse(text))) == Mesh.parse(text)


def offered(error: SpecError, key: str) -> Sequence[int]:
    found = re.search(rf"Use {key}=([\d, or]+)\.$", str(error))
    assert found, error
    return [int(number) for number in re.findall(r"\d+", found[1])]


@given(BASES, st.integers(1, 64), st.integers(1, 64))
def test_a_base_is_cut_where_its_counts_divide_and_else_the_error_offers_what_works(
    base: Divisible, tensor: int, expert: int
) -> None:
    counts = [*base.heads, *base.kv_heads, *base.widths]
    cuts = not any(count % tensor for count in counts)
    shares = expert == 1 or (base.experts > 0 and base.experts % expert == 0)
    mesh = Mesh(tensor=tensor, expert=expert)
    if cuts and shares:
        require(mesh, base)
        return
    with pytest.raises(SpecError) as raised:
        require(mesh, base)
    if not cuts:
        works = offered(raised.value, "tensor")
        assert works == [size for size in range(1, 33) if not any(count % size for count in counts)]
    elif not base.experts:
        assert "has no experts. Leave expert out." in str(raised.value)
    else:
        assert offered(raised.value, "expert") == [n for n in range(1, 129) if base.experts % n == 0]


@given(MESHES, st.integers(1, 10_000))
def test_a_mesh_of_another_number_of_devices_is_refused_with_one_that_fits(mesh: Mesh, devices: int) -> None:
    if mesh.devices == devices:
        return
    with pytest.raises(SpecError, match=f"Use --devices {mesh.devices}") as raised:
        require_devices(mesh, devices)
    rest = mesh.devices // mesh.shard
    offer = re.search(r"or --parallel (\S+)\.$", str(raised.value))
    assert bool(offer) == (devices % rest == 0)
    if offer and devices // rest <= 100_000:
        require_devices(Mesh.parse(offer[1]), devices)


def test_the_words() -> None:
    with pytest.raises(SpecError) as raised:
        require(Mesh(tensor=16), LLAMA)
    assert str(raised.value) == (
        "--parallel tensor=16: Llama-3.1-8B has 8 key/value heads, which so many devices do not divide. "
        "Use tensor=1, 2, 4 or 8."
    )
    with pytest.raises(SpecError) as raised:
        require_devices(Mesh(shard=4, tensor=2), 4)
    assert str(raised.value) == (
        "--parallel fsdp=4,tensor=2 takes 8 devices, and --devices is 4. Use --devices 8, or --parallel "
        "fsdp=2,tensor=2."
    )

"""What a method's own optimizer, or its step in the backward pass, cannot go with. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from lowregret.errors import SpecError
from lowregret.spec.base import build
from lowregret.spec.mesh import Mesh
from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.optimizer import DEFAULT_OPTIMIZER, OPTIMIZERS, AdamW, LoRAKind, OptimizerSpec, stepped_by


def kind_of(method: FullFT | LoRA, asked: type[OptimizerSpec] = AdamW) -> type[OptimizerSpec]:
    """What steps a method in a run whose optimizer is of that class."""
    return asked if method.optimizer is None else OPTIMIZERS[method.optimizer]


def steps_in_backward(method: FullFT | LoRA) -> bool:
    """Whether each weight is stepped within the backward pass."""
    return isinstance(method, FullFT) and method.in_backward


def fits_alone(method: FullFT | LoRA, devices: int) -> None:
    """ValueError where full fine-tuning so would have its weights in parts on several devices, and cannot."""
    if devices == 1 or not isinstance(method, FullFT):
        return
    able = [kind for kind, found in OPTIMIZERS.items() if found.IN_PARTS and kind != "adamw"]
    if method.in_backward:
        raise ValueError(f"{method.name}: the step in the backward pass is for one device. Use devices = 1, or full")
    if not kind_of(method).IN_PARTS:
        raise ValueError(
            f"{method.name} is for one device: several hold the weights in parts, which this optimizer does not step. "
            f"Use devices = 1, or one of full, {', '.join(f'full:{kind}' for kind in able)}"
        )


def fits_precision(method: FullFT | LoRA, dtype: str) -> None:
    """ValueError where weights are narrower than the products: they are of one type."""
    own = kind_of(method)
    if own.WEIGHTS == "float32" or dtype == own.WEIGHTS:
        return
    wide = [f"full:{kind}" for kind, found in OPTIMIZERS.items() if found.WEIGHTS == "float32" and kind != "adamw"]
    raise ValueError(
        f"{method.name}: its weights are {own.WEIGHTS} and products would be {dtype}. Use precision {own.WEIGHTS}, or "
        f"one of full, {', '.join(wide)}, whose weights are float32"
    )


def require_mesh(method: FullFT | LoRA, mesh: Mesh) -> None:
    """SpecError for a mesh that cuts what a method has whole: a quantised base, or matrices that are stepped whole."""
    kind = kind_of(method)
    if method.quantisation != "none" and mesh.in_parts:
        raise SpecError(
            f"{mesh} cuts the base, and that of {method.name} lies whole on each device: use "
            f"replicate={mesh.devices}, or leave parallel out."
        )
    if mesh.tensor * mesh.expert > 1 and not kind.ELEMENTWISE:
        raise SpecError(_stepped_whole(method, kind))


def _stepped_whole(method: FullFT | LoRA, kind: type[OptimizerSpec]) -> str:
    whole = "it lies in parts of each matrix, or of the experts"
    name = kind.model_fields["kind"].default
    return f"{method.name}: {name} steps whole matrices, and {whole}. Use fsdp or replicate, or AdamW."


def require_able(
    method: FullFT | LoRA,
    kind: type[OptimizerSpec],
    dtype: str = "float32",
    *,
    devices: int = 1,
    cut: bool = False,
) -> None:
    """SpecError for a method that is stepped by this kind and cannot be: of a LoRA, with narrow weights; of full
    fine-tuning, with products of another type, or on so many devices; of both, where weights are `cut` and the kind
    wants them whole."""
    name = str(kind.model_fields["kind"].default)
    if cut and not kind.ELEMENTWISE:
        raise SpecError(_stepped_whole(method, kind))
    if isinstance(method, LoRA):
        if kind.WEIGHTS != "float32":
            raise SpecError(f"{name} is for full fine-tuning: a LoRA takes {', '.join(get_args(LoRAKind))} or adamw.")
        return
    own = method
    if method.optimizer is None and name != DEFAULT_OPTIMIZER:
        own = build(FullFT, {**dict(method), "optimizer": name})
    try:
        fits_precision(own, dtype.removeprefix("torch."))
        fits_alone(own, devices)
    except ValueError as error:
        raise SpecError(f"{error}.") from None


def fits_one_pass(
    method: FullFT | LoRA, *, clip_norm: float | None, batch_size: int, micro_batch_size: int | None, rewards: bool
) -> None:
    """ValueError where a step in the backward pass would need what is known only after it."""
    if not steps_in_backward(method):
        return
    before = f"{method.name} steps each weight within the backward pass"
    later = method.name.replace(":in-backward", "")
    if rewards:
        raise ValueError(f"{before}, and with rewards a step may be several passes. Use {later}")
    if clip_norm is not None:
        raise ValueError(f"{before}, before the norm of all gradients is known: leave clip_norm out, or use {later}")
    if micro_batch_size is not None and micro_batch_size < batch_size:
        raise ValueError(
            f"{before}: a step is one pass, and micro_batch_size {micro_batch_size} would make it several. Leave it "
            f"out, use batch_size {micro_batch_size}, or {later}"
        )


def all_used(asked: OptimizerSpec, methods: Sequence[FullFT | LoRA]) -> None:
    """ValueError for a hyper-parameter that was given, and that no method's optimizer has."""
    if not methods:
        return
    used = set[str]().union(*(type(stepped_by(method.optimizer, asked)).model_fields for method in methods))
    for name, field in type(asked).model_fields.items():
        if name not in {*used, "kind"} and getattr(asked, name) != field.default:
            raise ValueError(f"{name} is of no use to {', '.join(method.name for method in methods)}. Leave it out")

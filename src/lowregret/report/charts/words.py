"""Numbers and methods as a reader would say them. Plain text: whoever puts it on a page escapes it."""

from __future__ import annotations

import math

from lowregret.analysis import numbers
from lowregret.plan.formatting import spelled
from lowregret.spec import FullFT, Method
from lowregret.spec.conventions import DEFAULT_CONVENTION
from lowregret.spec.method import DEFAULT_ALPHA, DEFAULT_TARGETS, short

MINUS = "−"


def rate(value: float) -> str:
    """A learning rate: `2e-4`, `2.83e-4`."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def nats(value: float) -> str:
    """A loss."""
    return numbers.nats(value).replace("-", MINUS)


def signed(value: float) -> str:
    """A difference of losses, with its sign."""
    return numbers.nats(value, sign=True).replace("-", MINUS)


def interval(ci: tuple[float, float]) -> str:
    """An interval of differences."""
    return f"{signed(ci[0])} to {signed(ci[1])}"


def share(fraction: float) -> str:
    """A fraction as a percentage, three significant digits: `0.5 %`."""
    return f"{fraction * 100:.3g} %"


def perplexity(nll: float) -> str:
    """What a loss in nats per token comes to as perplexity, exp(nll): `3.684`."""
    value = float(f"{math.exp(min(nll, 700.0)):.4g}")
    return f"{value:,.0f}" if 1e4 <= value < 1e7 else f"{value:.4g}"


def of_learned(fraction: float | None) -> str:
    """A regret as a share of what full fine-tuning learns, with its sign; nothing where there is none."""
    return "" if fraction is None else f"{fraction * 100:+.2g} % of what is learned".replace("-", MINUS)


def mid_sentence(label: str) -> str:
    """A method's label inside a sentence."""
    return label.replace("Full fine-tuning", "full fine-tuning")


_INITS = {"pissa": "PiSSA", "olora": "OLoRA", "orthogonal": "orthogonal init"}


def label(method: Method) -> str:
    """A method as a reader would say it, defaults left out; two methods of different names have different labels."""
    if isinstance(method, FullFT):
        own = spelled(method)
        return f"Full fine-tuning ({own})" if own else "Full fine-tuning"
    parts = [f"rank {method.rank}"]
    if method.targets != DEFAULT_TARGETS:
        parts.append(" + ".join(method.targets))
    parts += [
        said
        for differs, said in (
            (method.init != "uniform", _INITS.get(method.init, method.init)),
            (method.scaling == "alpha/sqrt(r)", "rsLoRA"),
            (method.dora, "DoRA"),
            (method.b_rate != 1, f"LoRA+ {short(method.b_rate)}"),
            (method.a_rate != 1, f"A's rate × {short(method.a_rate)}"),
            (method.init_scale != 1, f"initial A × {short(method.init_scale)}"),
            (method.alpha != DEFAULT_ALPHA, f"alpha {short(method.alpha)}"),
            (method.dropout != 0, f"dropout {short(method.dropout)}"),
            (method.convention != DEFAULT_CONVENTION, method.convention),
            (method.optimizer is not None, method.optimizer or ""),
            (method.quantisation != "none", f"base in {method.quantisation.upper()}"),
        )
        if differs
    ]
    return f"LoRA ({', '.join(parts)})"

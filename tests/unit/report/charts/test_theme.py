"""Every colour can be seen on both papers, and eight methods can be told apart by colour, by shape and by dashes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lowregret.report.charts.drawing import DASHES, POINTS
from lowregret.report.charts.theme import COLOURS, METHODS, RAMP, config, ramp

THEMES = (0, 1)
"""Light, dark: the places in a role's pair."""
TEXT = ("ink", "muted", "link", "good", "bad", *(f"ramp-{step}" for step in range(RAMP + 1)))
GROUND = ("paper", "panel")
# Machado, Oliveira and Fernandes (2009), table 1, severity 1: on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def linear(colour: str) -> np.ndarray:
    """sRGB's transfer function undone (IEC 61966-2-1)."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, contrast ratio."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson (2020), bottosson.github.io/posts/oklab."""
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", GROUND)
def test_what_is_drawn_has_three_to_one_and_what_is_written_four_and_a_half(theme: int, ground: str) -> None:
    paper = COLOURS[ground][theme]
    told = [role for role in COLOURS if role not in (*GROUND, "line", "grid")]
    assert set(TEXT) < set(told)
    low = {role: contrast(COLOURS[role][theme], paper) for role in told}
    assert {role: ratio for role, ratio in low.items() if ratio < (4.5 if role in TEXT else 3)} == {}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("sight", "least"), [("normal", 0.12), ("deuteranope", 0.1), ("protanope", 0.1)])
def test_eight_methods_have_eight_colours(theme: int, sight: str, least: float) -> None:
    """A just noticeable difference is about 0.02 in OKLab."""
    seen = [oklab(SIGHT[sight] @ linear(COLOURS[f"method-{index}"][theme])) for index in range(METHODS)]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > least


def test_eight_methods_have_eight_shapes_and_dashes() -> None:
    assert METHODS == len(set(POINTS)) == len({tuple(dash) for dash in DASHES}) == len(POINTS) == len(DASHES) == 8


@pytest.mark.parametrize("theme", THEMES)
def test_ranks_go_from_the_paper_to_the_ink(theme: int) -> None:
    lightness = [oklab(linear(COLOURS[f"ramp-{step}"][theme]))[0] for step in range(RAMP + 1)]
    assert lightness == sorted(lightness, reverse=theme == 0)
    apart = oklab(linear(COLOURS[f"ramp-{RAMP}"][theme])) - oklab(linear(COLOURS["ink"][theme]))
    assert np.linalg.norm(apart) > 0.12, "the highest rank is not full fine-tuning, which is in ink"


def test_a_place_on_the_ramp_is_a_style() -> None:
    assert (ramp(None), ramp(0.0), ramp(0.5), ramp(1.0)) == ("ink", "ramp-0", "ramp-10", "ramp-20")
    assert set(config("page")["style"]) >= {ramp(step / RAMP) for step in range(RAMP + 1)}
    assert config("dark")["style"]["ramp-20"]["color"] == COLOURS["ramp-20"][1]

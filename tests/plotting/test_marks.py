"""Colours and marks are told apart, by the colour-blind too, on white and on dark paper."""

import itertools

import numpy as np
import pytest

from gmm_dask.plotting.marks import PALETTE, STYLES, color_of, luminance, style_of, text_color

PAPERS = {"light": "#ffffff", "dark": "#14181c"}
# what is seen of linear RGB, at the full strength of the deficiency (Machado, Oliveira and Fernandes 2009, table 1)
SEEN = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def contrast(one, other):
    lower, higher = sorted([luminance(one), luminance(other)])
    return (higher + 0.05) / (lower + 0.05)


def oklab(color, seen):
    """Coordinates in OKLab (Ottosson 2020) of a colour as it is seen."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(lab) @ np.cbrt(np.array(cones) @ np.clip(np.array(seen) @ linear, 0.0, 1.0))


def test_contrast_of_known_colours():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_colours_stand_out_from_the_paper(paper):
    assert min(contrast(color, paper) for color in PALETTE) >= 3.0


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_colours_are_told_apart(seen):
    places = [oklab(color, seen) for color in PALETTE]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(places, 2)) >= 0.1


def test_numbers_are_read_on_their_colours():
    assert min(contrast(color, text_color(color)) for color in PALETTE) >= 4.5
    assert contrast("#ffffff", text_color("#ffffff")) >= 4.5


def test_components_look_different():
    marks = [(color_of(k), style_of(k)) for k in range(len(PALETTE) * len(STYLES))]
    assert len(set(marks)) == len(marks) == 28
    assert style_of(28) == style_of(0)

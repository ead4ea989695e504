"""One look for a score wherever it is drawn, that can be read on white and dark, by any eye and in grey."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gradunc_viz.explorer import css
from gradunc_viz.explorer.charts import look as page
from gradunc_viz.figures import score_style
from gradunc_viz.schema.entries.passes import PassesScore
from gradunc_viz.schema.scores import SCORES, Score, register
from gradunc_viz.style.palette import GROUPS
from gradunc_viz.style.scores import DASHES, score_look, score_title, units_label, units_text

OTHERS = (
    "pgn_oh_p0.7", "pgn_uni_p3_paper", "pgn_exp_p3", "label_oh_p0.7", "feature_p3", "pgn2_uni_p0.7", "entropy_T1.5",
    "margin_T2", "energy_T0.5", "gen_g0.5", "gen_g0.1_m10", "knn_k10", "odin_T10_e0.002", "rank:entropy+pgn_oh_p2",
    "logistic:entropy+pgn_oh_p2", "ext:mine", "ext:yours", "own_gini",
)  # fmt: skip
"""Scores of parameters that nobody listed, and those that are imported, combined or a user's own."""

P = (0.1, 0.3, 0.5, 1, 2)
PARTS = (
    *(f"label_{label}_p{p}" for label in ("oh", "uni", "exp") for p in P),
    *(f"feature_p{p}" for p in P),
    *(f"pgn2_{label}_p{p}" for label in ("oh", "uni") for p in P),
    *(f"pgn_{label}_p{p}_{of}" for of in ("embedding", "decoder") for label in ("oh", "uni") for p in P),
)
"""Factors of the paper's norms, and those of other layers: known by a pattern alone."""


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """A user's own score, of units that nobody knows."""
    register(Score("own_gini", "own", -1, "per $ mille", "sum_c pi_c^2", r"$\sum_c \pi_c^2$", "me", compute="x:y"))
    yield
    del SCORES["own_gini"]


# Machado, Oliveira and Fernandes 2009, full severity
EYES = {
    "normal": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]),
}


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(color: str, eye: str) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = xyz @ np.clip(EYES[eye] @ linear(color), 0, 1) / [0.9505, 1, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one: str, other: str) -> float:
    """Distance in CIELAB for whom it is smallest."""
    return min(float(np.linalg.norm(lab(one, eye) - lab(other, eye))) for eye in EYES)


def pages() -> list[str]:
    """What charts lie on: the light page, as paper, and the dark page."""
    return [found for theme in (css._LIGHT, css._DARK) for found in re.findall(r"--page: (#\w{6})", theme)]


def names() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*SCORES, *PARTS, *OTHERS)))


def test_page_and_paper_draw_a_score_alike() -> None:
    for name in names():
        look, drawn, printed = score_look(name), page.line_style(name), score_style(name)
        assert look.color == drawn["color"] == printed["color"], name
        on_page = [] if drawn["line_dash"] == "solid" else [int(n) for n in drawn["line_dash"].split()]
        on_paper = [] if printed["linestyle"] == "-" else list(printed["linestyle"][1])
        assert on_page == [page.LINE_WIDTH * n for n in on_paper] == [page.LINE_WIDTH * n for n in DASHES[look.dash]]
        assert printed["marker"] == look.marker
        assert (printed["markerfacecolor"] == "white") == look.hollow
        assert score_look(name) == look


def test_colours_stand_out_from_white_and_from_dark() -> None:
    backgrounds = pages()
    assert backgrounds[0] == "#ffffff"
    assert len(backgrounds) == 2
    colors = {**{name: score_look(name).color for name in names()}, **GROUPS}
    for name, color in colors.items():
        for background in backgrounds:
            assert contrast(color, background) >= 3, (name, color, background)


def test_scores_are_apart_for_every_eye_and_in_grey() -> None:
    looks = {name: score_look(name) for name in (*SCORES, *PARTS) if name not in OTHERS}
    for (one, a), (other, b) in itertools.combinations(looks.items(), 2):
        assert (a.dash, a.marker, a.hollow) != (b.dash, b.marker, b.hollow), (one, other)
        # on the page there are no markers: colour or dash tells
        assert a.dash != b.dash or apart(a.color, b.color) > 20, (one, other)
    for name in OTHERS:  # no score is taken for a known one
        own = score_look(name)
        assert all((own.dash, own.marker, own.hollow) != (b.dash, b.marker, b.hollow) for b in looks.values()), name
        assert all((own.dash, own.color) != (b.dash, b.color) for b in looks.values()), name


def test_colour_and_dash_tell_families() -> None:
    assert all(any(score_look(name).color == score_look(f"pgn_oh_p{p}").color for p in P) for name in PARTS)
    for name in ("pgn_exp_p{}", "label_oh_p{}", "feature_p{}", "pgn2_uni_p{}", "pgn_oh_p{}_decoder"):
        assert len({score_look(name.format(p)).dash for p in (*P, 0.7, 3)}) == 1, name
        for p in (*P, 0.7, 3):  # of any p
            one, norm = score_look(name.format(p)), score_look(f"pgn_oh_p{p}")
            assert (one.color, one.marker) == (norm.color, norm.marker), (name, p)
    for name, p in (("gradnorm", 1), ("expgrad", 1), ("fisher", 2)):
        assert score_look(name).color == score_look(f"pgn_oh_p{p}").color
    passes = [(name, entry) for name, entry in SCORES.items() if isinstance(entry, PassesScore)]
    assert len(passes) == 18
    for (one, a), (other, b) in itertools.combinations(passes, 2):
        assert (score_look(one).dash == score_look(other).dash) == (a.kind == b.kind)
        assert (score_look(one).color == score_look(other).color) == (a.statistic == b.statistic)
    for name in ("entropy_T1.5", "gen_g0.5", "knn_k10", "odin_T10_e0.002"):
        known = score_look(name.partition("_")[0])
        assert score_look(name).color == known.color
        assert score_look(name).dash != known.dash


def test_outcomes_are_apart_for_every_eye_and_in_grey() -> None:
    for low, high in (("right", "wrong"), ("normal", "anomaly")):
        assert apart(GROUPS[low], GROUPS[high]) > 40
        assert contrast(GROUPS[low], GROUPS[high]) > 1.4


def test_words_of_every_score() -> None:
    for name in names():
        assert units_text(name)
        assert score_title(name)
    assert (units_text("msp"), units_text("ext:mine"), units_text("pgn_oh_p1")) == ("0 to 1", "as given", "log2")
    assert (units_label("msp"), units_label("ext:mine"), units_label("pgn_oh_p1")) == ("", "", r"$\log_2$")
    assert (units_text("own_gini"), units_label("own_gini")) == ("per $ mille", r"per \$ mille")

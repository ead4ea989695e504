"""A score that no kernel knows goes wherever the others go."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.schema import scores as registry
from gradunc_viz.schema.errors import CacheMismatchError, GraduncError, NonFiniteError, UnknownScoreError
from gradunc_viz.schema.scores import Score, lookup, recall, register
from gradunc_viz.scores.maps import score_maps
from gradunc_viz.scores.needs import HeadOutput

SCORES = ("mine_gini", "pgn_oh_p1", "mine_steep", "entropy", "mine_norm")


@pytest.fixture
def registered(monkeypatch):
    """Scores of one's own for one test."""
    monkeypatch.setattr(registry, "SCORES", dict(registry.SCORES))

    @gv.register_score(
        "mine_gini", orientation=+1, units="1", formula="1 - sum_c pi_c^2", title=r"Gini $G$", source="me"
    )
    def gini(logits, features):
        return 1 - logits.softmax(1).square().sum(1)

    @gv.register_score("mine_steep", orientation=-1, formula="phi_1 - phi_0", at="pixel", units="logit", family="logit")
    def steep(logits):
        return logits[:, 1] - logits[:, 0]

    @gv.register_score("mine_norm", orientation=-1, formula="log2 ||psi||", units="log2")
    def norm(logits, features):
        return features.norm(dim=1).log2()

    return gini


@pytest.fixture
def cache(registered, tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set)
    return gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores=SCORES, progress=False)


def expected(net: TinyNet, image: np.ndarray, name: str) -> torch.Tensor:
    """The score by the formula, oriented."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    features = F.softplus(net.body(x))
    logits = net.classifier(features)
    resized = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
    if name == "mine_steep":
        return -(resized[:, 1] - resized[:, 0])[0]
    if name == "mine_norm":
        norm = features.norm(dim=1, keepdim=True)
        return -F.interpolate(norm, x.shape[-2:], mode="bilinear", align_corners=False).log2()[0, 0]
    gini = 1 - logits.softmax(1).square().sum(1, keepdim=True)
    return F.interpolate(gini, x.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize(("name", "atol"), [("mine_gini", 1e-6), ("mine_steep", 0.02), ("mine_norm", 2**-9)])
def test_its_maps_are_those_of_the_formula(cache, tiny_set, name, atol):
    net = TinyNet().eval()
    for frame in gv.open_frames(tiny_set):
        with torch.no_grad():
            wanted = expected(net, frame.image, name)
        found = gv.score(cache[frame.id], name)
        np.testing.assert_allclose(found, wanted, atol=atol, rtol=2e-3)
        assert found.attrs["units"] == lookup(name).units


def test_every_way_gives_the_same(cache, tiny_set):
    frame = gv.open_frames(tiny_set)[0]
    net = TinyNet().eval()
    image = gv.score_image(net, frame.image, scores=SCORES)
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255
    model = gv.ScoredModel(net, SCORES, example=x)
    with torch.no_grad():
        _, fast = model(x)
    _, differentiable = model(x)
    for place, name in enumerate(SCORES):
        cached = gv.score(cache[frame.id], name).values
        np.testing.assert_allclose(image[name], cached, atol=0.02, rtol=2e-3)
        np.testing.assert_allclose(fast[0, place], image[name], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(differentiable[0, place].detach(), image[name], atol=1e-4, rtol=1e-4)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x)[1], fast, atol=1e-4, rtol=1e-4)


def test_it_is_evaluated_tabulated_and_drawn(cache, tmp_path):
    result = gv.evaluate(cache, "error", bootstrap=5)
    assert set(result["score"].values) == set(SCORES)
    assert result["auroc"].notnull().all()
    assert "Gini" in gv.tables.evaluation_table(result).to_latex()
    for draw in (gv.figures.roc, gv.figures.distributions, gv.figures.metric_bars):
        gv.figures.save(draw(cache, scores=["mine_gini", "entropy"], task="error"), tmp_path / "figure.svg")
    gv.figures.save(gv.figures.panel(cache, columns=("image", *SCORES)), tmp_path / "panel.png")


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")  # bokeh
def test_it_is_explored(cache):
    from gradunc_viz.explorer.state.state import ExplorerState

    state = ExplorerState([cache])
    for name in SCORES:
        state.score = name
        assert state.values.shape == state.frame.size
        assert state.message == ""
    explorer = gv.explore(cache)
    for tab in ("overview", "frames", "curves", "classes", "failures"):
        explorer.state.tab = tab
    explorer.state.score = "mine_gini"


def test_a_cache_opens_where_the_function_is_not(cache, monkeypatch):
    known = {name: score for name, score in registry.SCORES.items() if not name.startswith("mine")}
    monkeypatch.setattr(registry, "SCORES", known)
    opened = gv.open_cache(cache.path)
    assert set(gv.evaluate(opened, "error", bootstrap=0)["score"].values) == set(SCORES)
    assert gv.score(opened[0], "mine_steep").shape == opened[0]["prediction"].shape
    assert lookup("mine_norm").is_log2
    assert (lookup("mine_gini").title, lookup("mine_steep").orientation) == (r"Gini $G$", -1)
    with pytest.raises(UnknownScoreError, match="'mine_gini' cannot be computed: no function of it is registered"):
        gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["mine_gini"])


def test_another_formula_under_its_name_is_another_score(cache, tiny_set, monkeypatch):
    frames = gv.open_frames(tiny_set)
    gv.compute(TinyNet().eval(), frames, cache.path, scores=SCORES, progress=False)  # resumed
    monkeypatch.delitem(registry.SCORES, "mine_gini")

    @gv.register_score("mine_gini", orientation=+1, formula="1 - sum_c pi_c^2", title=r"Gini $G$", source="me")
    def gini(logits, features):
        return 2 - logits.softmax(1).square().sum(1)

    with pytest.raises(CacheMismatchError, match=r"own_scores\.mine_gini was"):
        gv.compute(TinyNet().eval(), frames, cache.path, scores=SCORES, progress=False)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda logits, features: logits, r"score 'bad' returned \(1, 4, 16, 16\); expected \(1, 16, 16\)"),
        (lambda logits, features: 3.0, "score 'bad' returned float; expected"),
        (lambda logits, features: logits[:, 0] / 0, "values of score 'bad' are NaN or infinite"),
        (lambda logits, features: logits.nonsense, "score 'bad' failed .AttributeError: .*nonsense"),
        (lambda logits: logits[:, 0], "score 'bad' failed .TypeError"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(registered, function, says):
    gv.register_score("bad", orientation=1, formula="?")(function)
    with pytest.raises(GraduncError, match=says):
        gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["bad"])
    assert issubclass(NonFiniteError, GraduncError)


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("entropy", {}, "score 'entropy' is registered already"),
        ("pgn_oh_p0.7", {}, "score 'pgn_oh_p0.7' is registered already"),
        ("a b", {}, "score 'a b': expected a name of letters"),
        ("x", {"orientation": 0}, r"score 'x': orientation is 0; expected \+1 or -1"),
        ("x", {"at": "tail"}, "score 'x': at is 'tail'; expected 'head' or 'pixel'"),
        ("x", {"lattice": "odd"}, "score 'x': lattice is 'odd'"),
    ],
)
def test_what_cannot_be_registered(registered, name, fields, says):
    whole = {"name": name, "family": "own", "orientation": 1, "units": "1", "formula": "", "title": "", "source": ""}
    with pytest.raises(GraduncError, match=says):
        register(Score(**(whole | fields), compute=lambda logits: logits[:, 0]))


def test_needs_that_nothing_meets_are_told(registered):
    register(Score("deep", "own", 1, "1", "", "", "", needs=frozenset({"logits", "moon"}), compute=lambda x: x[:, 0]))
    with pytest.raises(
        UnknownScoreError, match="score 'deep' needs moon; a forward pass provides features, input_grad, logits"
    ):
        gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["deep"])


def test_without_norms_features_are_not_read(registered):
    features = torch.full((1, 6, 4, 4), torch.nan)
    head = HeadOutput(torch.randn(1, 4, 4, 4), features, nn.Conv2d(6, 4, 1))
    assert score_maps(head, (8, 8), ["entropy", "mine_steep"]).oriented.isfinite().all()
    assert score_maps(replace(head, features=None), (8, 8), ["entropy"]).oriented.isfinite().all()
    for name in ("pgn_oh_p1", "mine_gini"):
        with pytest.raises(NonFiniteError, match="96 of 96 features"):
            score_maps(head, (8, 8), [name])


def test_a_notebook_may_say_it_again(registered):
    def gini(logits, features):
        return logits[:, 0]

    gini.__module__, gini.__qualname__ = "__main__", "gini"
    gv.register_score("again", orientation=1, formula="first")(gini)
    gv.register_score("again", orientation=-1, formula="second")(gini)
    assert lookup("again").formula == "second"
    gini.__qualname__ = "another"
    with pytest.raises(GraduncError, match="'again' is registered already"):
        gv.register_score("again", orientation=1, formula="third")(lambda logits, features: logits[:, 0])


def test_recalling_changes_nothing_that_is_known(registered):
    before = lookup("mine_gini")
    recall({"name": "mine_gini", "orientation": -1})
    assert lookup("mine_gini") is before


def test_packages_bring_scores(registered, monkeypatch):
    class Point:
        @staticmethod
        def load():
            return Score("from_package", "own", 1, "1", "", "", "", compute=lambda logits: logits[:, 0])

    class Broken:
        name, value = "broken", "nowhere:score"

        @staticmethod
        def load():
            raise ImportError("no such thing")

    points = {"gradunc_viz.scores": [Broken(), Point()]}
    registry._load_entry_points.cache_clear()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points[group])
    with pytest.warns(UserWarning, match="broken = nowhere:score cannot be loaded .ImportError: no such thing"):
        assert lookup("from_package").family == "own"
    registry._load_entry_points.cache_clear()

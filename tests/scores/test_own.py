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
    with pytest.raises(UnknownScoreError, match="score 'deep' needs moon; a forward pass provides features, "):
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


def _sparse(logits, features):
    return logits[:, 0].to_sparse()


def _in_place(logits, features):
    logits -= logits.amax(1, keepdim=True)
    return logits[:, 0]


def _features_in_place(logits, features):
    features.mul_(2)
    return features[:, 0]


def _leaving(logits, features):
    raise SystemExit(3)


def _multiline(logits, features):
    raise RuntimeError("\n  what\nmore")


def _of_ours(logits, features):
    raise gv.GraduncError("no frame 'x'")


@pytest.mark.parametrize("at", ["head", "pixel"])
@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda logits, features: logits[:, 0] * 1j, "returned torch.complex64 numbers"),
        (_sparse, "returned torch.float32 numbers, torch.sparse_coo; expected a dense tensor of real numbers"),
        (lambda logits, features: logits[:, 0].to("meta"), "returned a meta tensor; expected a dense"),
        (lambda logits, features: logits[:, 0].numpy(), "returned ndarray; expected"),
        (lambda logits, features: None, "returned NoneType; expected"),
        (lambda logits, features: logits[:, 0, :-1], "returned .*; expected"),
        (lambda logits, features: logits[0, 0], "returned .*; expected"),
        (
            lambda logits, features: logits[:, 0].double() * 0 + 1e300,
            "NaN or infinite as float32, such as 1e.300 at y = 0",
        ),
        (
            lambda logits, features: logits[:, 0].log(),
            "values of score 'bad' are NaN or infinite as float32, such as nan",
        ),
        (_in_place, "changed the logits or features in place|Inplace update to inference tensor"),
        (_leaving, r"score 'bad' failed \(SystemExit: 3\)"),
        (_multiline, r"score 'bad' failed \(RuntimeError: what\)"),
        (_of_ours, r"score 'bad' failed \(GraduncError: no frame 'x'\)"),
        (lambda logits, features: 1 / 0, r"score 'bad' failed \(ZeroDivisionError"),
    ],
)
def test_what_a_function_does_wrong_names_score_and_frame(registered, tiny_set, tmp_path, at, function, says):
    given = function if at == "head" else lambda logits: function(logits, None)
    gv.register_score("bad", orientation=1, formula="?", at=at)(given)
    frames = gv.open_frames(tiny_set)
    with pytest.raises(GraduncError, match=says) as told:
        gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores=["entropy", "bad"], progress=False)
    assert "frame 'f00'" in str(told.value)
    assert "score 'bad'" in str(told.value)
    assert "\n" not in str(told.value)


def test_features_that_a_function_changes_are_told(registered, tiny_set, tmp_path):
    gv.register_score("bad", orientation=1, formula="?")(_features_in_place)
    with pytest.raises(GraduncError, match="score 'bad' changed the logits or features in place"):
        gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), tmp_path / "c", scores=["bad"], progress=False)


@pytest.mark.parametrize("upper", ["1", "log C"])
@pytest.mark.parametrize("scale", [-0.1, 3.0])
def test_values_beyond_what_a_score_says_of_itself_are_told(registered, upper, scale):
    @gv.register_score("bad", orientation=1, formula="?", at="pixel", upper=upper)
    def bad(logits):
        return torch.full_like(logits[:, 0], scale)

    with pytest.raises(GraduncError, match=rf"score 'bad' returned values from {scale:g} .*as it has upper='{upper}'"):
        gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["bad"])


@pytest.mark.parametrize(
    "kind",
    [
        lambda values: values > values.mean(),
        lambda values: (values * 10).int(),
        lambda values: values.double(),
        lambda values: values.half(),
        lambda values: values.requires_grad_(),
    ],
)
@pytest.mark.parametrize("at", ["head", "pixel"])
def test_numbers_of_any_kind_are_taken(registered, kind, at):
    def of(logits, features=None):
        return kind(logits[:, 0].clone())

    gv.register_score("kind", orientation=1, formula="?", at=at)(of)
    found = gv.score_image(TinyNet().eval(), np.zeros((32, 32, 3), "u1"), scores=["kind"])["kind"]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_a_function_may_take_gradients_of_its_own(registered):
    @gv.register_score("graded", orientation=1, formula="d sum phi^2 / d phi_0")
    def graded(logits, features):
        with torch.enable_grad():
            own = logits.clone().requires_grad_()
            (grad,) = torch.autograd.grad(own.square().sum(), own)
        return grad[:, 0] / 2 - logits[:, 0]

    assert (gv.score_image(TinyNet().eval(), np.zeros((32, 32, 3), "u1"), scores=["graded"])["graded"] == 0).all()


def test_memory_that_runs_out_stays_an_error_of_the_device(registered):
    from gradunc_viz.schema.errors import DeviceError

    @gv.register_score("large", orientation=1, formula="?")
    def large(logits, features):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceError, match="score 'large' of frame"):  # so that smaller batches are tried
        gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["large"])


def test_a_score_turned_round_spreads_over_its_bins(registered, tiny_set, tmp_path):
    """Small probabilities are uncertain: counts by class tell them apart, as they do large ones."""
    gv.register_score("sure", orientation=-1, formula="max_c pi_c", at="pixel", upper="1")(
        lambda logits: logits.softmax(1).amax(1)
    )
    cache = gv.compute(
        TinyNet().eval(), gv.open_frames(tiny_set), tmp_path / "cache", scores=["sure", "msp"], progress=False
    )
    by_class = gv.evaluate(cache, "error", by="class", bootstrap=0).isel(cache=0)
    for name in ("auroc", "auprc"):
        np.testing.assert_allclose(by_class[name].sel(score="sure"), by_class[name].sel(score="msp"), atol=2e-3)
    ece = gv.metrics.score_calibration(cache)["ece"].isel(cache=0)
    assert float(ece.sel(score="sure")) == pytest.approx(float(ece.sel(score="msp")), abs=0.01)


SCORE_FILE = """
import gradunc_viz as gv

@gv.register_score("of_file", orientation=1, formula="?", at="pixel")
def of_file(logits):
    {body}
"""


def test_a_score_file_is_told_alike(registered, tiny_set, tmp_path, capsys):
    from gradunc_viz.cli.main import main

    command = ["compute", "--model", "demo", "--data", str(tiny_set), "--scores", "of_file", "--quiet"]
    for number, (body, says) in enumerate(
        (
            ("return logits[:, :2]", "frame 'f00': score 'of_file' returned (1, 2, 48, 64); expected (1, 48, 64)"),
            ("return logits[:, 0] / 0", "values of score 'of_file' are NaN or infinite"),
            ("return nonsense", "frame 'f00': score 'of_file' failed (NameError: name 'nonsense' is not defined)"),
        )
    ):
        file = tmp_path / f"bad{number}.py"
        file.write_text(SCORE_FILE.format(body=body))
        registry.SCORES.pop("of_file", None)
        assert main([*command, "--out", str(tmp_path / "cache"), "--score-file", str(file)]) == 1
        told = capsys.readouterr().err
        assert says in told
        assert len([line for line in told.splitlines() if line.startswith("gradunc: error")]) == 1
    good = tmp_path / "good.py"
    good.write_text(SCORE_FILE.format(body="return logits[:, 0]"))
    registry.SCORES.pop("of_file")
    assert main([*command, "--out", str(tmp_path / "cache"), "--score-file", str(good), "--limit", "1"]) == 0
    registry.SCORES.pop("of_file")
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "cache")]) == 1  # resumed without the file
    assert "score 'of_file'" in (told := capsys.readouterr().err)
    assert "--score-file" in told
    gv.open_cache(tmp_path / "cache")  # describes it
    assert main([*command, "--out", str(tmp_path / "cache")]) == 1
    assert "no function of it is registered here; scores of your own come with --score-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"orientation": 0}, "score 'from_package': orientation is 0"),
        ({"upper": "2"}, "score 'from_package': upper is '2'; expected '1', 'log C' or ''"),
    ],
)
def test_a_package_with_a_bad_score_hinders_nobody(registered, monkeypatch, found, says):
    class Point:
        @staticmethod
        def load():
            fields = {"family": "own", "orientation": 1, "units": "1", "formula": "", "title": "", "source": ""}
            return Score("from_package", **(fields | found), compute=lambda logits: logits[:, 0])

    registry._load_entry_points.cache_clear()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    with pytest.warns(UserWarning, match=says), pytest.raises(UnknownScoreError, match="unknown score 'moon'"):
        lookup("moon")
    registry._load_entry_points.cache_clear()


def test_a_package_whose_function_is_missing_is_told(registered):
    for path in ("nowhere:score", "gradunc_viz.scores.softmax:nothing", "gradunc_viz"):
        registry.SCORES["lost"] = Score("lost", "own", 1, "1", "", "", "", compute=path)
        with pytest.raises(UnknownScoreError, match=f"^score 'lost' cannot be computed: its function '{path}' cannot"):
            gv.score_image(TinyNet(), np.zeros((32, 32, 3), "u1"), scores=["lost"])


def test_what_a_score_costs_is_told_in_words():
    def needing(*needs, **fields):
        return Score("x", "own", 1, "1", "", "", "", needs=frozenset(needs), **fields).cost

    assert lookup("entropy").cost == lookup("pgn_oh_p1").cost == "none beyond the forward pass"
    assert needing("logits", "layer:body.3", "void", "hidden") == "none beyond the forward pass"
    assert needing("features", "fit") == "a fit on in-distribution frames"
    assert needing("passes:mcd8") == "8 forward passes"
    assert needing("passes") == "several forward passes"
    assert needing("input_grad", "fit") == "a fit on in-distribution frames and a backward and another forward pass"
    assert needing("moon") == "whatever 'moon' takes"
    assert lookup("ext:a").cost == "none: computed elsewhere"
    assert lookup("rank:entropy+msp").cost == "that of entropy and msp"
    assert "none beyond the forward pass" in lookup("entropy")._repr_html_()

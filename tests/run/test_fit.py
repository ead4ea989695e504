"""frames -> network -> drawn pixels -> fit -> cache."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import EmpiricalCovariance
from tiny import TinyNet, write_set
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main as cli
from gradunc_viz.datasets.catalog import data_path
from gradunc_viz.explorer.state.state import ExplorerState
from gradunc_viz.schema import scores as registry
from gradunc_viz.schema.errors import (
    CacheMismatchError,
    FitError,
    FrameError,
    HeadError,
    ModelError,
    NonFiniteError,
    SettingsError,
)
from gradunc_viz.schema.scores import Score, register

SCORES = "mahalanobis,mahalanobis_rel,knn_k5,vim,neco,sml,sml_bs_ds,gradorth"


def balanced(seed: int = 0) -> TinyNet:
    """Predicts every class on noise."""
    net = TinyNet(seed).eval()
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.classifier.bias -= net(noise).mean((0, 2, 3))
    return net


def fitted(folder: Path, net: nn.Module | None = None, part: slice = slice(0, 2), **options: object) -> gv.Fit:
    given = {"scores": SCORES, "pixels": 400, "progress": False, **options}
    return gv.fit(net or balanced(), gv.open_frames(folder)[part], **given)


@pytest.fixture(scope="module")
def fit(tiny_set: Path) -> gv.Fit:
    return fitted(tiny_set)


def assert_close(one: gv.Fit, two: gv.Fit) -> None:
    assert one.scores == two.scores
    for score, state in one.states.items():
        for name, part in state.items():
            if name not in ("directions", "outside", "whitening"):  # whose signs are free
                torch.testing.assert_close(two.states[score][name], part, rtol=1e-3, atol=1e-3)


def test_order_and_batch_make_no_difference(tiny_set: Path, fit: gv.Fit) -> None:
    frames = gv.open_frames(tiny_set)
    options = {"scores": SCORES, "pixels": 400, "progress": False}
    assert gv.fit(balanced(), frames[:2], **options).digest == fit.digest
    assert gv.fit(balanced(), list(frames[:2])[::-1], **options).digest == fit.digest
    assert_close(gv.fit(balanced(), frames[:2], batch=3, **options), fit)
    four, batched = (gv.fit(balanced(), frames, batch=batch, **options) for batch in (1, 2))
    assert_close(batched, four)
    assert four.provenance["pixels"] == 400
    assert gv.fit(balanced(), frames[:2], seed=1, **options).digest != fit.digest


def test_pixels_of_the_frames_are_what_is_fitted(tiny_set: Path) -> None:
    """With all pixels drawn, the state is that of plain numpy on all of them."""
    frames = gv.open_frames(tiny_set)[:1]
    net = balanced()
    fit = fitted(tiny_set, net, slice(0, 1), scores="mahalanobis,sml", pixels=10**6, by="label")
    frame = frames[0]
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        features = F.softplus(net.body(x))
        logits = net.classifier(features)[0].double().permute(1, 2, 0).reshape(-1, 4).numpy()
    psi = features[0].double().permute(1, 2, 0).reshape(-1, 6).numpy()
    label, anomaly = (mask[1::2, 1::2].ravel() for mask in (frame.label, frame.anomaly))
    kept = (label != 255) & (anomaly == 0)
    assert fit.provenance["pixels"] == kept.sum()
    means = np.stack([psi[kept & (label == c)].mean(0) for c in range(4)])
    within = EmpiricalCovariance(assume_centered=True).fit(psi[kept] - means[label[kept]])
    state = {name: part.double().numpy() for name, part in fit.states["mahalanobis"].items()}
    np.testing.assert_allclose(state["whitening"].T @ state["whitening"], within.precision_, rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(state["mean"], psi[kept].mean(0), rtol=1e-5)
    largest, predicted = logits[kept].max(1), logits[kept].argmax(1)
    for c in np.unique(predicted):
        np.testing.assert_allclose(fit.states["sml"]["mean"][c], largest[predicted == c].mean(), rtol=1e-4)


def test_a_fit_in_cache_table_and_page(tiny_set: Path, fit: gv.Fit, tmp_path: Path, capsys) -> None:
    file = fit.save(tmp_path / "fit.safetensors")
    frames = gv.open_frames(tiny_set)[2:]
    cache = gv.compute(balanced(), frames, tmp_path / "cache", scores=f"{SCORES},entropy", fit=file, progress=False)
    assert cache.key["fit"] == {**fit.summary}
    evaluation = gv.evaluate(cache, bootstrap=0)
    assert np.isfinite(evaluation["auroc"].values).all()
    state = ExplorerState(cache, score="vim")
    assert np.isfinite(state.limits("vim")).all()
    assert cli(["info", str(tmp_path / "cache")]) == 0
    assert "400 pixels of 2 frames, by prediction, features of head, seed 0" in capsys.readouterr().out
    one = gv.score_image(balanced(), frames[0].image, scores="vim,sml", fit=fit)
    again = gv.score(cache["f02"], "vim")
    np.testing.assert_allclose(one["vim"].values, again.values, rtol=2e-3, atol=2e-3)


def test_the_fit_decides(tiny_set: Path, fit: gv.Fit, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)[2:]
    gv.compute(balanced(), frames, tmp_path / "cache", scores="vim", fit=fit, progress=False)
    gv.compute(balanced(), frames, tmp_path / "cache", scores="vim", fit=fitted(tiny_set), progress=False)
    other = fitted(tiny_set, seed=1)
    with pytest.raises(CacheMismatchError, match=r"fit\.digest was"):
        gv.compute(balanced(), frames, tmp_path / "cache", scores="vim", fit=other, progress=False)
    gv.compute(balanced(), frames, tmp_path / "plain", scores="msp", progress=False)
    with pytest.warns(UserWarning, match="a fit of mahalanobis.* was given, but no score needs it"):
        gv.compute(balanced(), frames, tmp_path / "plain", scores="msp", fit=fit, progress=False)


def test_features_of_another_layer(tiny_set: Path, tmp_path: Path) -> None:
    scores = "mahalanobis,knn_k5,neco,sml"
    fit = fitted(tiny_set, scores=scores, features="layer:body")
    frames = gv.open_frames(tiny_set)[2:]
    cache = gv.compute(
        balanced(), frames, tmp_path / "cache", scores=f"{scores},pgn_oh_p1", fit=fit, batch=2, progress=False
    )
    net = balanced()
    x = torch.from_numpy(frames[0].image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        psi = net.body(x)[0]
    v = fit.states["neco"]["directions"]
    ratio = (v @ psi.flatten(1)).norm(dim=0) / psi.flatten(1).norm(dim=0)
    head = cache["f02"]["head_score"].sel(score_head="neco").values
    np.testing.assert_allclose(head.ravel(), -ratio.numpy(), atol=1e-4)
    with pytest.raises(FitError, match="'vim' needs the head's kernel"):
        fitted(tiny_set, scores="vim", features="layer:body")
    with pytest.raises(ModelError, match="layer 'bod': TinyNet has no layer of this name; did you mean 'body'"):
        fitted(tiny_set, scores="knn", features="layer:bod")


# --------------------------------------------------------------------------------------------------------------------
# networks that end in other ways


class Ending(nn.Module):
    """A backbone with an end of one's choice."""

    def __init__(self, head: nn.Module, end=lambda net, x: net.head(x)) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head, self.other = nn.Conv2d(3, 6, 3, stride=2, padding=1), head, nn.Conv2d(6, 5, 1)
            for part in (self.body, head, self.other):
                nn.init.normal_(part.weight, std=0.5)
        self.end = end

    def forward(self, x):
        return self.end(self, self.body(x).tanh())


def of_rows(net, x):
    rows = net.head(x.flatten(2).transpose(1, 2))
    return rows.transpose(1, 2).unflatten(2, x.shape[2:])


ENDS = {
    "3 x 3": Ending(nn.Conv2d(6, 5, 3, padding=1)),
    "strided": Ending(nn.Conv2d(6, 5, 3, stride=2, padding=1)),
    "transposed": Ending(nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)),
    "linear": Ending(nn.Linear(6, 5), of_rows),
    "sigmoid": Ending(nn.Conv2d(6, 1, 1)),
    "shifted": Ending(nn.Conv2d(6, 5, 1), lambda net, x: 2 * net.head(x) + 1),
}


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("unlabelled") / "set", 3, labels=False)


@pytest.mark.filterwarnings("ignore:score '")  # classes that are never predicted
@pytest.mark.parametrize("end", ENDS)
def test_networks_that_end_in_other_ways(end: str, unlabelled: Path) -> None:
    network = gv.Network(ENDS[end], drop_channels=[] if end == "sigmoid" else [3])
    fit = fitted(unlabelled, network, scores="fitted")
    image = gv.open_frames(unlabelled)[2].image
    maps = gv.score_image(network, image, scores="fitted", fit=fit)
    n_classes = fit.provenance["n_classes"]
    assert n_classes == (2 if end == "sigmoid" else 4)
    assert all(np.isfinite(maps[name].values).all() and maps[name].values.std() > 0 for name in fit.scores)
    with torch.no_grad():
        psi = network.net.body(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).tanh()
        z = fit.states["mahalanobis"]["whitening"] @ (psi[0].flatten(1) - fit.states["mahalanobis"]["mean"][:, None])
    distance = torch.cdist(z.T, fit.states["mahalanobis"]["class_means"]).square().amin(1).view(psi.shape[2:])
    with torch.no_grad():
        grid = network.infer(torch.zeros(1, 3, *image.shape[:2])).logits.shape[2:]
    at_head = F.interpolate(distance[None, None], tuple(grid), mode="bilinear")
    whole = F.interpolate(at_head, image.shape[:2], mode="bilinear")[0, 0]
    np.testing.assert_allclose(maps["mahalanobis"].values, whole.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.filterwarnings("ignore:score '")
def test_a_network_of_several_heads_is_asked_for_one(unlabelled: Path) -> None:
    net = Ending(nn.Conv2d(6, 5, 1), lambda net, x: net.head(x) + net.other(x.relu()))
    with pytest.raises(HeadError, match="made by several heads, 'head', 'other': name one of them as head"):
        fitted(unlabelled, net, scores="knn_k5")
    fit = fitted(unlabelled, net, scores="sml")  # which needs logits alone
    assert fit.provenance["dimensions"] == 0
    gv.score_image(net, gv.open_frames(unlabelled)[2].image, scores="sml", fit=fit)


# --------------------------------------------------------------------------------------------------------------------
# what does not belong together


def test_a_score_without_its_fit(tiny_set: Path, fit: gv.Fit, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)[2:]
    with pytest.raises(FitError, match=r"scores 'vim', 'sml': a fit is needed, and none was given"):
        gv.compute(balanced(), frames, tmp_path / "cache", scores="vim,sml,msp", progress=False)
    with pytest.raises(FitError, match="score 'vim': a fit is needed"):
        gv.score_image(balanced(), frames[0].image, scores="vim")
    with pytest.raises(FitError, match="score 'vim' needs a fit, which a ScoredModel takes none of"):
        gv.ScoredModel(balanced(), "vim")
    with pytest.raises(FitError, match=r"score 'knn': not in the fit, which is of mahalanobis, .*; fit again with it"):
        gv.compute(balanced(), frames, tmp_path / "cache", scores="knn", fit=fit, progress=False)
    assert not (tmp_path / "cache").exists()


def test_a_fit_of_another_network(tiny_set: Path, fit: gv.Fit, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)[2:]

    def compute(net: object, **options: object) -> None:
        gv.compute(net, frames, tmp_path / "cache", scores="vim", fit=fit, progress=False, **options)

    with pytest.raises(FitError, match="is of another network, 'TinyNet', than 'TinyNet': it had weights"):
        compute(balanced(1))
    with pytest.raises(FitError, match=r"left out channels \[\], now \[3\]"):
        compute(gv.Network(balanced(), drop_channels=[3]))
    with pytest.raises(FitError, match=r"normalisation null, now"):
        compute(gv.Network(balanced(), normalize="imagenet"))
    with pytest.raises(FitError, match=r"head 'classifier', but the network has 'body'"):
        compute(gv.Network(balanced(), head="body"))
    with pytest.warns(UserWarning, match=r"made with input_size None, and is used with \(32, 32\)"):
        compute(balanced(), input_size=(32, 32))
    named = fitted(tiny_set, gv.Network(balanced(), classes="abcd"), scores="vim")
    gv.score_image(balanced(), frames[0].image, scores="vim", fit=named)
    with pytest.raises(FitError, match="classes"):
        gv.score_image(gv.Network(balanced(), classes="abdc"), frames[0].image, scores="vim", fit=named)


def test_frames_that_were_fitted_on_are_named(tiny_set: Path, fit: gv.Fit, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)
    with pytest.warns(UserWarning, match=r"fitted on 1 of the frames that they are computed of \(frame f01\)"):
        gv.compute(balanced(), frames[1:3], tmp_path / "cache", scores="sml", fit=fit, progress=False)
    other = tmp_path / "renamed"
    other.mkdir()
    Image.fromarray(frames[0].image).save(other / "elsewhere.tif")  # the same pixels in another file
    with pytest.warns(UserWarning, match="frame elsewhere"):
        gv.compute(balanced(), gv.open_frames(other), tmp_path / "again", scores="sml", fit=fit, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "vim,msp"}, "score 'msp' is not fitted"),
        ({"pixels": 0}, "pixels is 0; expected a whole number of 1 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"by": "class"}, "by is 'class'; expected 'prediction' or 'label'"),
        ({"features": "body"}, "features is 'body'; expected 'head' or 'layer:NAME'"),
        ({"features": "layer:"}, "features is 'layer:'"),
    ],
)
def test_what_makes_no_sense(tiny_set: Path, options: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fitted(tiny_set, **options)


class Blind(TinyNet):
    """NaN in the features of dark images."""

    def forward(self, x):
        features = F.softplus(self.body(x))
        features = torch.where(x.mean() < 0.2, features * torch.nan, features)
        return F.interpolate(self.classifier(features), x.shape[-2:], mode="bilinear")


def test_frames_that_cannot_be_fitted_on(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    with pytest.raises(FrameError, match="no frames to fit on"):
        gv.fit(balanced(), [], scores="knn")
    with pytest.raises(FrameError, match="frame 'f00': given more than once"):
        gv.fit(balanced(), [gv.open_frames(folder)[0]] * 2, scores="knn")
    Image.fromarray(np.zeros((48, 64, 3), "u1")).save(folder / "images/f00.png")
    with pytest.raises(NonFiniteError, match=r"frame 'f00': .* features are NaN"):
        fitted(folder, Blind(), slice(0, 3))
    with pytest.warns(UserWarning, match="1 frames were skipped: frame 'f00'"):
        fit = fitted(folder, Blind(), slice(0, 3), scores="knn_k3", on_error="skip")
    assert set(fit.provenance["frames"]) == {"f01", "f02"}
    for label in folder.glob("labels/*"):
        Image.fromarray(np.full(np.asarray(Image.open(label)).shape, 255, "u1")).save(label)
    with pytest.raises(FitError, match="no pixel can be drawn of frames f00, f01, f02: all are ignored"):
        fitted(folder, None, slice(0, 3))
    (folder / "labels/f01.png").unlink()
    with pytest.raises(FrameError, match="frame 'f01' has no label; expected one, as by is 'label'"):
        fitted(folder, None, slice(1, 3), by="label")


def test_more_pixels_than_any_memory_holds(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradunc_viz.run.fit._MOST_BYTES", 4000)
    with pytest.raises(
        FitError, match="400 pixels of 6 features and 4 classes take 0 GB; expected 100 pixels or fewer"
    ):
        fitted(tiny_set)


# --------------------------------------------------------------------------------------------------------------------
# one's own, and the command line


class Nearest:
    """Distance to the mean."""

    def fit(self, pixels):
        return {"mean": pixels.features.mean(0)}

    def __call__(self, run, state):
        return (run.features - state["mean"][:, None, None]).norm(dim=1)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SCORES", dict(registry.SCORES))
    needs = frozenset({"features", "fit"})
    register(Score("mine", "fitted", +1, "1", "||psi - mu||", "mine", "me", "head", needs=needs, compute=Nearest()))


@pytest.mark.usefixtures("own")
def test_a_fitted_score_of_ones_own(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mine" in gv.lookup("mine").name
    assert "mine" in registry.resolve_scores("fitted")
    assert "mine" not in registry.resolve_scores("all")
    fit = fitted(tiny_set, scores="mine")
    cache = gv.compute(
        balanced(), gv.open_frames(tiny_set)[2:], tmp_path / "c", scores="mine,msp", fit=fit, progress=False
    )
    assert np.isfinite(gv.evaluate(cache, bootstrap=0)["auroc"].values).all()

    class Other(Nearest):
        def fit(self, pixels):
            raise ValueError("what now")

    monkeypatch.setitem(registry.SCORES, "mine", replace(gv.lookup("mine"), compute=Other()))
    with pytest.raises(FitError, match=r"score 'mine' could not be fitted \(ValueError: what now\)"):
        fitted(tiny_set, scores="mine")
    with pytest.raises(FitError, match="score 'mine': another function now than when it was fitted"):
        gv.score_image(balanced(), gv.open_frames(tiny_set)[2].image, scores="mine", fit=fit)


@pytest.mark.slow
def test_the_command_line_on_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, folder = tmp_path / "fit.safetensors", tmp_path / "cache", str(data_path("demo"))
    common = ["--model", "demo", "--data", folder, "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # frames that were fitted on
        assert cli(["fit", *common, "--scores", "fitted", "--out", str(file), "--pixels", "1000", "--limit", "2"]) == 0
        assert "fitted mahalanobis, " in capsys.readouterr().out
        scores = "fitted,entropy,pgn_oh_p1"
        assert cli(["compute", *common, "--fit", str(file), "--scores", scores, "--out", str(out), "--limit", "3"]) == 0
    assert cli(["evaluate", str(out), "--quiet", "--bootstrap", "0"]) == 0
    assert cli(["info", str(out)]) == 0
    assert "1000 pixels of 2 frames" in capsys.readouterr().out
    assert cli(["compute", *common, "--scores", "vim", "--out", str(tmp_path / "other")]) == 1
    assert "score 'vim': a fit is needed, and none was given" in capsys.readouterr().err
    assert cli(["fit", *common, "--scores", "vim", "--out", str(tmp_path / "absent/fit")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "notes").write_text("mine")
    assert cli(["fit", *common, "--scores", "vim", "--out", str(tmp_path / "notes")]) == 1
    assert (tmp_path / "notes").read_text() == "mine"

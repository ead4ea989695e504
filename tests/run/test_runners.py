from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.explorer import Explorer
from gradunc_viz.run.settings import cache_key
from gradunc_viz.schema.errors import CacheMismatchError, HeadError, ModelError, SettingsError, UnknownScoreError
from gradunc_viz.store.frame import probabilities_at

IMAGE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), "u1")


class DropNet(TinyNet):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.drop = nn.Dropout2d(0.3)

    def forward(self, x):
        logits = self.classifier(self.drop(F.softplus(self.body(x))))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def members(*seeds):
    return [gv.Network(TinyNet(seed).eval(), name=f"net {seed}") for seed in seeds]


KINDS = {
    "mcd": (lambda: DropNet().eval(), {}),
    "ens": (lambda: members(0, 1, 2), {}),
    "tta": (lambda: TinyNet().eval(), {"scales": (1, 0.5)}),
}
OTHERS = "msp,entropy,margin"


@pytest.fixture(scope="session", params=list(KINDS))
def several(request, tiny_set, tmp_path_factory):
    """A cache of each kind of passes, with what made it."""
    model, options = KINDS[request.param]
    norms = "" if request.param == "tta" else ",pgn_oh_p1,pgn_uni_p0.5"
    scores = f"{request.param},{OTHERS}{norms}"
    out = tmp_path_factory.mktemp("passes") / request.param
    frames = gv.open_frames(tiny_set)
    return request.param, gv.compute(model(), frames, out, scores=scores, progress=False, **options), frames, scores


def test_maps_of_a_run_are_of_the_mean_prediction(several):
    word, cache, frames, _ = several
    for frame in frames:
        dataset = cache[frame.id]
        gv.validate(dataset)
        assert "logits" not in dataset
        assert str({"mcd": "8 of MC dropout", "ens": "3 of an ensemble"}.get(word, "4 of")) in dataset.attrs["passes"]
        for name in ("entropy", "msp"):
            np.testing.assert_array_equal(gv.score(dataset, f"{word}_{name}"), gv.score(dataset, name))
        apart = gv.score(dataset, f"{word}_entropy") - gv.score(dataset, f"{word}_expected_entropy")
        np.testing.assert_allclose(gv.score(dataset, f"{word}_mutual_information"), apart.clip(0), atol=2e-3)


def test_the_mean_of_members_is_that_of_each_alone(tiny_set, several):
    word, cache, frames, _ = several
    if word != "ens":
        return
    frame = frames[1]
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None] / 255
    p = []
    for one in members(0, 1, 2):
        with torch.no_grad():
            logits = one.net.classifier(F.softplus(one.net.body(x)))
        p.append(F.interpolate(logits, frame.size, mode="bilinear").softmax(1)[0].double())
    mean, dataset = torch.stack(p).mean(0), cache[frame.id]
    np.testing.assert_array_equal(dataset["prediction"], mean.argmax(0))
    np.testing.assert_allclose(gv.score(dataset, "ens_variance"), torch.stack(p).var(0, correction=0).sum(0), atol=5e-4)
    np.testing.assert_allclose(gv.score(dataset, "margin"), 1 - mean.topk(2, 0)[0].diff(dim=0).abs()[0], atol=5e-4)


# Panel 1.9 calls pandas in a way that pandas 3.1 announces to remove
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_everything_that_reads_a_cache_does_without_logits(several):
    word, cache, frames, _ = several
    assert set(gv.evaluate(cache, task="error")["score"].values) == set(cache.scores)
    assert np.isfinite(gv.evaluate(cache, task="anomaly")["auroc"]).all()
    assert np.isfinite(gv.calibration(cache)["ece"]).all()
    gv.sparsification(cache)
    gv.segmentation(cache)
    segments = gv.segment_statistics(cache, scores=[f"{word}_variance"])
    assert len(segments)
    gv.figures.panel(cache, [frames.ids[0]], columns=["image", "error", f"{word}_entropy", "msp"])
    gv.figures.roc(cache)
    desk = Explorer([cache], view="tab=frames").desk
    assert desk.frames.panes.all[0].map.source.data
    with pytest.raises(gv.GraduncError, match="no logits"):
        probabilities_at(cache[frames.ids[0]], 0, 0)
    assert main(["info", str(cache.path)]) == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_that_is_resumed_gives_the_same_values(several, tmp_path, batch):
    word, cache, frames, scores = several
    model, options = KINDS[word]
    for limit in (1, None):
        again = gv.compute(
            model(), frames, tmp_path / "c", scores=scores, limit=limit, batch=batch, progress=False, **options
        )
    for frame in frames:
        for name in ("prediction", "head_score", "pixel_score"):
            if name in cache[frame.id]:
                np.testing.assert_array_equal(again[frame.id][name], cache[frame.id][name])


def test_another_seed_or_order_of_members(several, tmp_path):
    word, cache, frames, scores = several
    if word == "ens":
        shutil.copytree(cache.path, tmp_path / "c")
        gv.compute(members(2, 0, 1), frames, tmp_path / "c", scores=scores, progress=False)
        with pytest.raises(CacheMismatchError):
            gv.compute(members(0, 1), frames, tmp_path / "c", scores=scores, progress=False)
    if word == "mcd":
        for changed in ({"seed": 1}, {"passes": 3}, {"dropout": ["drop"]}):
            with pytest.raises(CacheMismatchError):
                gv.compute(DropNet().eval(), frames, cache.path, scores=scores, progress=False, **changed)


def test_only_what_matters_is_in_the_key():
    network = gv.load_model(DropNet())
    plain = cache_key(network, gv.Settings(scores="msp"), ["a"])
    assert plain == cache_key(network, gv.Settings(scores="msp", passes=3, seed=1, flips=False), ["a"])
    assert not {"passes", "dropout", "seed", "flips", "scales"} & plain["settings"].keys()
    dropped = cache_key(network, gv.Settings(scores="mcd_msp", scales=(1, 2)), ["a"])["settings"]
    assert {"passes", "dropout", "seed"} < dropped.keys()
    assert "scales" not in dropped
    assert {"flips", "scales"} < cache_key(network, gv.Settings(scores="tta_msp"), ["a"])["settings"].keys()


def test_one_image():
    found = gv.score_image(members(0, 1), IMAGE, scores="ens_variance,msp,pgn_oh_p2")
    assert found.attrs["network"] == "net 0 + net 1"
    assert float(found["ens_variance"].max()) > 0
    one, other = (gv.score_image(DropNet().eval(), IMAGE, scores="mcd", passes=3) for _ in range(2))
    assert one.equals(other)
    single = gv.score_image(members(0), IMAGE, scores="energy")  # a list of one is one network
    assert np.isfinite(single["energy"]).all()


@pytest.mark.parametrize(
    ("model", "scores", "kind", "text"),
    [
        (lambda: TinyNet(), "mcd_msp", ModelError, r"score 'mcd_msp': TinyNet has no dropout layer"),
        (lambda: members(3), "ens", SettingsError, "score 'ens_entropy' needs an ensemble, .*; there is one: net 3"),
        (list, "ens", ModelError, "an empty list of networks"),
        (lambda: members(0, 1), "mcd_msp", SettingsError, r"'mcd_msp' needs passes of MC dropout, and 2 networks"),
        (lambda: members(0, 1), "tta_msp", SettingsError, r"'tta_msp' needs passes of test-time augmentation, and 2"),
        (lambda: members(0, 1), "energy", UnknownScoreError, "'energy' is one of a single forward pass"),
        (lambda: members(0, 1), "pgn_oh_p1_paper", UnknownScoreError, "'pgn_oh_p1_paper' is defined for one forward"),
        (lambda: DropNet(), "mcd_msp,max_logit", UnknownScoreError, "'max_logit' is one of a single forward pass"),
    ],
)
def test_what_does_not_go_together(model, scores, kind, text):
    with pytest.raises(kind, match=text):
        gv.score_image(model(), IMAGE, scores=scores)


def test_grids_that_differ_are_told_with_the_score():
    with pytest.raises(
        HeadError, match=r"score 'pgn_oh_p1': gradient norms .* heads of one grid; these have 12x16 and 6x8"
    ):
        gv.score_image(TinyNet().eval(), IMAGE, scores="tta_msp,pgn_oh_p1", scales=(1, 0.5))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"scores": "mcd_msp,tta_msp"}, "'mcd_msp' needs passes of MC dropout and 'tta_msp' of test-time augmentation"),
        ({"passes": 1}, "passes is 1; expected a whole number of 2 or more"),
        ({"passes": True}, "passes is True"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"dropout": []}, r"dropout is \[\]; expected names of layers"),
        ({"scales": (1, 1)}, r"scales is \(1, 1\); expected different positive numbers"),
        ({"scales": (0,)}, "scales is"),
        ({"scales": (float("inf"),)}, "scales is"),
        ({"scales": "1,2"}, "scales is '1,2'"),
    ],
)
def test_settings_that_make_no_sense(settings, text):
    with pytest.raises(SettingsError, match=text):
        gv.Settings(**settings)


def test_settings_that_make_no_difference():
    with pytest.warns(UserWarning, match="passes=4 makes no difference: no score of MC dropout"):
        gv.score_image(TinyNet().eval(), IMAGE, scores="msp", passes=4)
    with pytest.warns(UserWarning, match=r"scales=\(1.0, 2.0\) makes no difference: no score of test-time"):
        gv.score_image(TinyNet().eval(), IMAGE, scores="msp", scales=(1, 2))


NETS = """
import sys
from torch import nn

def net(path):
    import torch
    made = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(5, 4, 1))
    made.load_state_dict(torch.load(path))
    return made.eval()
"""


@pytest.fixture
def command_line(tiny_set, tmp_path):
    """Runs compute on a file with two weights."""
    (tmp_path / "nets.py").write_text(NETS)
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(5, 4, 1)).state_dict()
        torch.save(state, tmp_path / f"w{seed}.pth")

    def run(*options, out="c"):
        given = [str(option).replace("@", f"{tmp_path}/") for option in options]
        return main(["compute", "--data", str(tiny_set), "--out", str(tmp_path / out), "--quiet", *given])

    return run


def test_several_weights_of_one_model_and_several_models(command_line, tmp_path, capsys):
    weights = ("--weights", "@w0.pth", "--weights", "@w1.pth")
    assert command_line("--model", "@nets.py:net", *weights, "--scores", "ens,msp") == 0
    cache = gv.open_cache(tmp_path / "c")
    assert [one["name"].rpartition(":")[2] for one in cache.key["network"]["members"]] == [
        "net (w0.pth)",
        "net (w1.pth)",
    ]
    models = ("--model", "@nets.py:net", "--model", "@nets.py:net")
    assert command_line(*models, *weights, "--scores", "ens,msp") == 0  # the same networks: the cache is resumed
    assert command_line(*models, "--weights", "@w0.pth", "--scores", "ens") == 1
    assert "2 times --model and 1 times --weights; expected as many, or one model" in capsys.readouterr().err
    assert command_line("--model", "@nets.py:net", "--weights", "@w0.pth", "--scores", "ens", out="d") == 1
    assert "score 'ens_entropy' needs an ensemble, two networks or more; there is one" in capsys.readouterr().err


def test_options_of_passes(command_line, tmp_path, capsys):
    one = ("--model", "@nets.py:net", "--weights", "@w0.pth")
    options = ("--passes", "3", "--dropout-layers", "1", "--seed", "4")
    assert command_line(*one, "--scores", "mcd_variance", *options) == 0
    settings = gv.open_cache(tmp_path / "c").key["settings"]
    assert (settings["passes"], settings["dropout"], settings["seed"]) == (3, ["1"], 4)
    assert command_line(*one, "--scores", "tta_msp", "--scales", "0.5,1", "--no-flips", out="t") == 0
    settings = gv.open_cache(tmp_path / "t").key["settings"]
    assert (settings["scales"], settings["flips"]) == ([0.5, 1.0], False)
    capsys.readouterr()
    assert command_line(*one, "--scores", "mcd_msp", "--dropout-layers", "nose", out="n") == 1
    assert "score 'mcd_msp': " in capsys.readouterr().err

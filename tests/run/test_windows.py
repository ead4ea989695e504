"""What a network says of an image in windows is what it says of the whole, and strips of an image make the frame."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from PIL import Image
from tiny import TinyNet, write_set
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.networks.preprocessing import Preprocessing
from gradunc_viz.run import striped, windows
from gradunc_viz.run.assemble import frame_dataset
from gradunc_viz.run.decode import DecodedFrame
from gradunc_viz.run.settings import Settings, cache_key
from gradunc_viz.schema.errors import CacheMismatchError, FrameError, GraduncError, ModelError, SettingsError
from gradunc_viz.schema.scores import Score, register
from gradunc_viz.scores.maps import ScoreOptions, Scorer
from gradunc_viz.scores.needs import HeadOutput

WIDE = 16  # pixels beside a place that `StridedNet` looks at, and more
ALL = ("pgn_oh_p0.5", "pgn_uni_p0.1", "pgn_oh_p1_paper", "gradnorm", "msp", "entropy", "max_logit")


class StridedNet(nn.Module):
    """Five classes; logits at a quarter of the size of the image, of what lies within 11 pixels."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
            self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
            self.third = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Conv2d(8, classes, 1)
            nn.init.normal_(self.head.weight, std=3)

    def features(self, x: Tensor) -> Tensor:
        return F.softplus(self.third(F.softplus(self.second(F.softplus(self.first(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear", align_corners=False)


class SumNet(StridedNet):
    """Logits that are no output of one head: a tail."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.features(x))
        return F.interpolate(logits * torch.tanh(logits), x.shape[-2:], mode="bilinear", align_corners=True)


def picture(height: int = 96, width: int = 132, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), "u1")


def same(one: xr.Dataset, other: xr.Dataset, atol: float = 2e-5) -> None:
    assert list(one.data_vars) == list(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_allclose(other[name].values, one[name].values, rtol=1e-5, atol=atol, err_msg=str(name))


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (StridedNet(), {}),
        (StridedNet(), {"batch": 3, "align_corners": True, "bias": True}),
        (gv.Network(StridedNet(), drop_channels=(2,)), {}),
        (gv.Network(StridedNet(classes=1), threshold=0.3), {"scores": ("pgn_oh_p1", "msp")}),
        (SumNet(), {"scores": ("pgn_oh_p0.5", "pgn_uni_p1", "entropy"), "batch": 2}),
        (StridedNet(), {"scores": ("pgn2_oh_p1", "msp")}),
    ],
    ids=["plain", "batch", "void channel", "one logit", "tail", "layer before"],
)
def test_no_seam_where_the_margin_is_what_the_network_looks_at(net, options, monkeypatch):
    scores = options.pop("scores", ALL)
    net.eval()
    monkeypatch.setattr(striped, "_PIXELS", 700)
    whole = gv.score_image(net, picture(), scores=scores, **options)
    in_windows = gv.score_image(net, picture(), scores=scores, tile=(68, 64), overlap=4 * WIDE - 12, **options)
    same(whole, in_windows)


class UNet(nn.Module):
    """Logits of the image's size, made with a layer whose stride is 32; of inputs that are multiples of it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.down = nn.ModuleList(nn.Conv2d(8, 8, 2, stride=2) for _ in range(5))
            self.up = nn.ModuleList(nn.ConvTranspose2d(8, 8, 2, stride=2) for _ in range(5))
            self.head = nn.Conv2d(8, 5, 1)
            nn.init.normal_(self.head.weight, std=3)
            for layer in (*self.down, *self.up):
                nn.init.normal_(layer.weight, std=0.3)
        self.inputs: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs += [tuple(x.shape[2:])] * len(x)
        maps = [F.softplus(self.stem(x))]
        for layer in self.down:
            maps.append(F.softplus(layer(maps[-1])))
        y = maps.pop()
        for layer, skip in zip(self.up, reversed(maps), strict=True):
            y = layer(y) + skip
        return self.head(y)


@pytest.mark.parametrize("step", [32, 1])
def test_no_seam_where_a_layer_is_coarser_than_the_logits(step, monkeypatch):
    monkeypatch.setattr("gradunc_viz.networks.tiled._STEP", step)
    net, image, scores = UNet().eval(), picture(288, 352), ("pgn_oh_p1", "entropy")
    whole = gv.score_image(net, image, scores=scores)
    found = gv.score_image(net, image, scores=scores, tile=192, overlap=128)
    if step == 32:
        same(whole, found, atol=1e-4)
    else:  # windows that begin every 48 pixels down, and every 53 across
        assert np.abs(found["entropy"].values - whole["entropy"].values).max() > 1e-2


def test_an_image_that_a_network_does_not_take_whole_differs_at_its_end_alone():
    net, image, scores = UNet().eval(), picture(288, 352), ("pgn_oh_p1", "entropy")
    whole = gv.score_image(net, image, scores=scores)
    inner = {"y": slice(0, 256), "x": slice(0, 320)}  # before the last cells of 32
    found = gv.score_image(net, image[:270, :330], scores=scores, tile=192, overlap=128)
    assert found.sizes == {"y": 270, "x": 330}
    same(whole.isel(inner), found.isel(inner), atol=1e-4)


def test_windows_end_where_an_image_does_that_is_no_whole_number_of_cells():
    net = StridedNet().eval()
    whole = gv.score_image(net, picture(97, 131), scores=ALL)
    same(whole, gv.score_image(net, picture(97, 131), scores=ALL, tile=64, overlap=48))
    wide = picture(45, 131)
    whole = gv.score_image(net, wide, scores=ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradunc_viz.networks.tiled.LARGE", 2000)
        patch.setattr("gradunc_viz.networks.tiled._SIDE", 64)
        same(whole, gv.score_image(net, wide, scores=ALL, tile="auto", overlap=0.75))


def test_what_the_network_saw_of_a_narrow_image_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("gradunc_viz.networks.tiled.LARGE", 2000)
    monkeypatch.setattr("gradunc_viz.networks.tiled._SIDE", 64)
    for name, net, size in (("cut", StridedNet(classes=4), [45, 64]), ("whole", UNet(), [64, 64])):
        frames = gv.open_frames(write_set(tmp_path / name / "s", 1, ((45, 131),), labels=False))
        frame = gv.compute(net.eval(), frames, tmp_path / name / "c", scores="msp", tile="auto", progress=False)["f00"]
        assert frame.attrs["input_size"] == size
        assert frame.attrs["windows"] == f"4 of {size[0]}x64"


def test_a_network_of_one_size_does_not_see_a_narrow_image(monkeypatch):
    class One(StridedNet):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-2:] != (64, 64):
                raise ValueError("64 x 64 alone")
            return super().forward(x)

    monkeypatch.setattr("gradunc_viz.networks.tiled.LARGE", 2000)
    net = gv.Network(One().eval(), preprocessing=Preprocessing(size=(64, 64)))
    with pytest.raises(ModelError, match=r"an input of 32x64 .*see --tile or --input-size, 64x64 would do"):
        gv.score_image(net, picture(30, 131), scores="msp", tile="auto")
    # one that is no narrower is seen, its last rows and columns repeated
    assert gv.score_image(net, picture(70, 131), scores="msp", tile="auto").sizes == {"y": 70, "x": 131}


def test_every_window_is_seen_once():
    net, image = UNet().eval(), picture(128, 192)
    network = gv.Network(net)
    gv.score_image(network, image, scores="msp", tile=64, batch=4)  # finds the head
    net.inputs.clear()
    gv.score_image(network, image, scores="msp", tile=64, batch=4)
    assert net.inputs == [(64, 64)] * 3 * 5


class FixedNet(StridedNet):
    """Logits of 48 x 48, whatever the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.features(x), (48, 48), mode="bilinear", align_corners=False)
        return F.interpolate(self.head(y), x.shape[-2:], mode="bilinear", align_corners=False)


def test_windows_are_multiples_of_an_output_that_has_one_size(monkeypatch):
    net = FixedNet().eval()
    with pytest.raises(ModelError, match=r"32 / 48 is no whole number.* another --tile, such as 48 pixels"):
        gv.score_image(net, picture(), scores="msp", tile=32)
    monkeypatch.setattr("gradunc_viz.networks.tiled.LARGE", 1000)
    monkeypatch.setattr("gradunc_viz.networks.tiled._SIDE", 64)
    found = gv.score_image(net, picture(), scores=ALL, tile="auto")
    same(found, gv.score_image(net, picture(), scores=ALL, tile=48))
    with pytest.raises(ModelError, match="such as 48 pixels, of a larger image"):
        gv.score_image(net, picture(20, 132), scores="msp", tile="auto")


def test_fitted_scores_and_ones_own_of_windows(tmp_path):
    net, frames = StridedNet().eval(), gv.open_frames(write_set(tmp_path / "s", 2, ((48, 64),), labels=False))
    scores = ("mahalanobis", "vim", "sml", "sml_bs")
    with warnings.catch_warnings(action="ignore"):  # few classes are predicted
        fit = gv.fit(net, frames, scores=scores, pixels=500, progress=False)
    whole = gv.score_image(net, picture(), scores=scores, fit=fit)
    same(whole, gv.score_image(net, picture(), scores=scores, fit=fit, tile=64, overlap=48), atol=1e-3)


# ----------------------------------------------------------------------------------------------------------------------
# strips

SUMS = ("brier_sum", "brier_bin_sum", "confidence_sum", "nll_sum", "score_mean")


@pytest.mark.parametrize("size", [(48, 64), (12, 16), (45, 61)])
@pytest.mark.parametrize(("given", "align_corners"), [("label", True), ("both", False), ("none", True)])
def test_a_frame_of_strips_is_the_frame(size, align_corners, given, monkeypatch, tmp_path):
    monkeypatch.setattr(striped, "_PIXELS", 5 * size[1])
    generator, scores = np.random.default_rng(0), (*ALL, "kl_uniform", "msp_T1000")
    head = HeadOutput(
        torch.from_numpy(4 * generator.normal(size=(1, 5, 12, 16)).astype("f4")),
        torch.from_numpy(generator.normal(size=(1, 6, 12, 16)).astype("f4")),
        nn.Conv2d(6, 5, 1),
        align_corners=align_corners,
    )
    frame = DecodedFrame(
        "f",
        generator.integers(0, 256, (*size, 3), "u1"),
        label=generator.choice(np.array([0, 1, 2, 3, 4, 255], "u1"), size) if given in ("label", "both") else None,
        anomaly=generator.choice(np.array([0, 1, 255], "u1"), size) if given in ("anomaly", "both") else None,
    )
    scorer = Scorer(scores, "cpu")
    classes, options = [f"c{k}" for k in range(5)], ScoreOptions(scores, align_corners)
    expected = frame_dataset(frame, scorer(head, size, frame.label), options, classes, {})
    for folder in (None, tmp_path):
        strips = striped.StripedScorer(scorer, head, size, (12, 16), frame.label, "f", folder)
        at_head = scorer.at_the_head(head)
        for rows in (slice(0, 1), slice(1, 7), slice(7, 12)):
            strips.put(head.logits[0, :, rows], at_head[:, rows])
        found = frame_dataset(frame, strips.image, options, classes, {})
        gv.validate(found)
        for name in SUMS:
            if name in expected:
                np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-6, err_msg=name)
        present = [name for name in SUMS if name in expected]
        found, whole = found.load().drop_vars(present), expected.drop_vars(present)
        if size == (12, 16):  # where norms and scores of a whole image come of one pass, which rounds otherwise
            cells = [name for name in whole.variables if str(name).startswith("cell")]
            xr.testing.assert_allclose(found.drop_vars(cells), whole.drop_vars(cells), rtol=1e-5)
        else:
            xr.testing.assert_identical(found, whole)
        assert not os.listdir(tmp_path)


def test_logits_that_are_large_late_keep_their_size(monkeypatch):
    head = HeadOutput(torch.ones(1, 2, 4, 3), None, nn.Conv2d(1, 2, 1))
    head.logits[0, 1, 3, 2] = 1e6
    strips = striped.StripedScorer(Scorer(("msp",), "cpu"), head, (4, 3), (4, 3), None, "f")
    for row in range(4):
        strips.put(head.logits[0, :, row : row + 1], head.logits[0, :0, row : row + 1])
    assert strips.image.logits.dtype == np.float32
    np.testing.assert_array_equal(strips.image.logits.rows(slice(0, 4)), head.logits[0].numpy())


@pytest.fixture
def centred():
    name = "centred_test"
    register(
        Score(
            name,
            family="softmax",
            orientation=+1,
            units="1",
            formula="",
            title=name,
            source="",
            compute=lambda logits: logits[:, 0] - logits[:, 0].mean((1, 2), keepdim=True),
        )
    )
    yield name
    from gradunc_viz.schema.scores import SCORES as REGISTRY

    REGISTRY.pop(name, None)


def test_a_score_of_all_pixels_is_not_computed_of_strips(monkeypatch, centred):
    net = StridedNet().eval()
    same(
        gv.score_image(net, picture(), scores=centred),
        gv.score_image(net, picture(), scores=centred, tile=64, overlap=48),
    )
    monkeypatch.setattr(striped, "_PIXELS", 700)
    with pytest.raises(GraduncError, match=f"{centred!r} of a pixel depends on logits of others.*--input-size"):
        gv.score_image(net, picture(), scores=centred, tile=64, overlap=48)


# ----------------------------------------------------------------------------------------------------------------------
# runs


@pytest.fixture
def geotiff(tmp_path):
    """A folder with one tiled image of four bands of 16 bits, and its labels."""
    for name in ("images", "labels", "anomalies"):
        (tmp_path / "set" / name).mkdir(parents=True)
    generator = np.random.default_rng(1)
    image = generator.integers(0, 65536, (160, 208, 4)).astype("u2")
    tifffile.imwrite(
        tmp_path / "set/images/a.tif", image, tile=(64, 64), photometric="minisblack", planarconfig="contig"
    )
    for name, ids in (("labels", [0, 1, 2, 3, 4, 255]), ("anomalies", [0, 1])):
        Image.fromarray(generator.choice(np.array(ids, "u1"), (160, 208))).save(tmp_path / f"set/{name}/a.png")
    (tmp_path / "net.py").write_text(
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_windows import StridedNet\n\n\ndef net():\n    return StridedNet(4).eval()\n"
    )
    return tmp_path


def command(folder, out, *more):
    files = ["--model", f"{folder / 'net.py'}:net", "--data", str(folder / "set"), "--out", str(folder / out)]
    return main(["compute", *files, "--quiet", "--scores", ",".join(ALL), *more])


@pytest.mark.parametrize("large", [False, True])
def test_a_tiled_geotiff_from_the_command_line(geotiff, large, monkeypatch, capsys):
    if large:
        monkeypatch.setattr(windows, "LARGE", 1000)
        monkeypatch.setattr(striped, "_PIXELS", 5000)
        monkeypatch.setattr("gradunc_viz.store.zarr_group._CHUNK", 20_000)
        monkeypatch.setattr("gradunc_viz.store.group._AT_ONCE", 0)
    assert command(geotiff, "whole") == 0
    assert command(geotiff, "tiled", "--tile", "64x96", "--overlap", "48", "--batch", "2") == 0
    assert not [name for name in os.listdir(geotiff) if name.startswith(".")]
    whole, tiled = (gv.open_cache(geotiff / name) for name in ("whole", "tiled"))
    one, other = whole["a"].load(), tiled["a"].load()
    assert other.attrs["input_size"] == [64, 96]
    assert other.attrs["windows"] == "35 of 64x96"
    for name in ("prediction", "confusion", "label", "anomaly", "image", "thumbnail"):
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
    for name, atol in (("logits", 2e-2), ("head_score", 2**-8), ("pixel_score", 2e-3), ("score_quantile", 1e-4)):
        np.testing.assert_allclose(one[name].values, other[name].values, atol=atol, err_msg=name)
    by_task = [gv.evaluate([whole, tiled], task, bootstrap=0) for task in ("error", "anomaly")]
    for result in by_task:
        np.testing.assert_allclose(*result["auroc"].values, atol=1e-4)
    assert command(geotiff, "tiled", "--tile", "64x96", "--overlap", "48") == 0  # resumed
    assert "1 were there already" in capsys.readouterr().out
    assert command(geotiff, "tiled") == 1
    assert "tile was 64,96, now None" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--tile", "512"), ("frame 'a'", "512x512", "160x208", "too high and too wide")),
        (("--tile", "0"), ("--tile", "'0' is no size of windows")),
        (("--tile", "own"), ("'own' is no size of windows",)),
        (("--tile", "64x"), ("'64x' is no size of windows",)),
        (("--tile", "64", "--overlap", "64"), ("overlap is 64 pixels", "64x64", "fewer than 64")),
        (("--tile", "64", "--overlap", "0"), ("overlap is 0", "between 0 and 1")),
        (("--tile", "64", "--overlap", "-1"), ("overlap is -1.0", "between 0 and 1")),
        (("--tile", "64", "--overlap", "much"), ("--overlap", "'much' is no overlap")),
        (("--tile", "66"), ("66x66", "17x17", "no whole number", "such as 64")),
        (("--tile", "64", "--overlap", "62"), ("62 pixels leaves nothing", "60 or fewer")),
    ],
)
def test_windows_that_cannot_be_are_told_in_one_line(geotiff, given, words, capsys):
    with suppress(SystemExit):
        assert command(geotiff, "out", *given) == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in text for word in words), text


def test_a_frame_that_is_too_small_is_skipped(tmp_path):
    frames = gv.open_frames(write_set(tmp_path / "s", 3, ((48, 64), (24, 64))))
    with pytest.warns(UserWarning, match="1 frames were skipped: frame 'f01': windows of 32x32 are larger"):
        cache = gv.compute(
            StridedNet(classes=4).eval(), frames, tmp_path / "c", scores="msp", tile=32, on_error="skip", progress=False
        )
    assert cache.ids == ("f00", "f02")


def test_large_images_alone_are_seen_in_windows_automatically(tmp_path, monkeypatch):
    for module in ("gradunc_viz.networks.tiled", "gradunc_viz.run.windows"):
        monkeypatch.setattr(f"{module}.LARGE", 48 * 64)
    monkeypatch.setattr("gradunc_viz.networks.tiled._SIDE", 64)
    frames = gv.open_frames(write_set(tmp_path / "s", 4, ((48, 64), (80, 96))))
    net = StridedNet(classes=4).eval()
    cache = gv.compute(net, frames, tmp_path / "c", scores=ALL, tile="auto", overlap=0.7, progress=False)
    plain = gv.compute(net, frames, tmp_path / "p", scores=ALL, progress=False)
    seen = {frame_id: cache[frame_id].attrs.get("windows") for frame_id in cache.ids}
    assert seen == {"f00": None, "f01": "6 of 64x64", "f02": None, "f03": "6 of 64x64"}
    xr.testing.assert_identical(cache["f00"].load(), plain["f00"].load())
    np.testing.assert_array_equal(cache["f01"]["prediction"].values, plain["f01"]["prediction"].values)


# ----------------------------------------------------------------------------------------------------------------------
# what does not go with windows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": "odin"}, "score 'odin' needs input_grad of the whole image"),
        ({"scores": "tta_msp"}, r"tile is \(32, 32\), and score 'tta_msp' needs several passes"),
        ({"scores": "mcd_msp"}, "score 'mcd_msp' needs several passes"),
    ],
)
def test_scores_of_whole_images_are_refused(changes, words):
    with pytest.raises(SettingsError, match=words):
        gv.score_image(StridedNet().eval(), picture(), tile=32, **changes)


def test_whatever_else_takes_whole_images_says_so(tmp_path):
    net, frames = StridedNet(classes=4).eval(), gv.open_frames(write_set(tmp_path / "s", 2))
    void = gv.Network(net, drop_channels=(3,))
    for tried, words in (
        (lambda: gv.fit(net, frames, scores="vim", tile=32, progress=False), "scores are fitted on whole images"),
        (lambda: gv.calibrate(net, frames, tile=32, progress=False), "logits are calibrated on whole images"),
        (lambda: gv.score_image(void, picture(), scores="void", tile=32), "score 'void' needs void"),
        (lambda: gv.score_image([net, TinyNet(1)], picture(), scores="msp", tile=32), "2 networks make several passes"),
    ):
        with pytest.raises(SettingsError, match=words):
            tried()
    with pytest.warns(UserWarning, match="overlap=0.5 makes no difference"):
        gv.score_image(net, picture(), scores="msp", overlap=0.5)


def test_windows_decide_and_nothing_changes_without_them():
    network = gv.Network(StridedNet().eval())
    plain = cache_key(network, Settings(), ("a",))["settings"]
    assert "tile" not in plain
    assert "overlap" not in plain
    key = cache_key(network, Settings(tile=64, overlap=8), ("a",))["settings"]
    assert (key["tile"], key["overlap"]) == ((64, 64), 8)


def test_a_network_that_answers_windows_differently_is_told():
    class Odd(StridedNet):
        def forward(self, x: Tensor) -> Tensor:
            cut = 4 if float(x[0, 0, 0, 0]) > 0.5 else 0
            return self.head(self.features(x[..., : x.shape[-1] - cut]))

    image = picture()
    image[0, 0], image[:, 40:] = 0, 255
    with pytest.raises(ModelError, match="the head's output is 16x15 in one window and 16x16 in another"):
        gv.score_image(Odd().eval(), image, scores="msp", tile=64)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "LARGE", 1000)
    frames = gv.open_frames(write_set(tmp_path / "s", 1, ((48, 64),)))

    class Full:
        def close(self):
            pass

        def __getattr__(self, name):
            def fails(*_):
                raise OSError(28, "No space left on device")

            return fails

    monkeypatch.setattr("gradunc_viz.run.planes.tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(GraduncError, match="the disk is full"):
        gv.compute(StridedNet(classes=4).eval(), frames, tmp_path / "c", scores="msp", tile=32, progress=False)


def test_resuming_with_other_windows_is_refused(tmp_path):
    net, frames = StridedNet(classes=4).eval(), gv.open_frames(write_set(tmp_path / "s", 1, ((48, 64),)))
    gv.compute(net, frames, tmp_path / "c", scores="msp", tile=32, progress=False)
    with pytest.raises(CacheMismatchError, match=r"overlap was 0\.25, now 16"):
        gv.compute(net, frames, tmp_path / "c", scores="msp", tile=32, overlap=16, progress=False)
    with pytest.raises(FrameError, match="larger than the image"):
        gv.compute(net, frames, tmp_path / "d", scores="msp", tile=(32, 100), progress=False)

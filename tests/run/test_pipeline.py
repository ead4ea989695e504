"""A run over frames, whatever holds them and whatever gives the maps."""

from __future__ import annotations

import json
import os
from itertools import islice

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from tiny import SCORES, TinyNet, write_set
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.exchange.imports import ImportSettings
from gradunc_viz.networks.head import Head
from gradunc_viz.networks.runner import Inference, Runner
from gradunc_viz.run.compute import compute_report
from gradunc_viz.run.network_maps import NetworkMaps
from gradunc_viz.run.pipeline import Pipeline, chosen_frames
from gradunc_viz.run.report import Report
from gradunc_viz.run.settings import Settings, cache_key
from gradunc_viz.schema.errors import CacheMismatchError, FrameError, ModelError, NonFiniteError, SchemaError
from gradunc_viz.store.writer import CacheWriter
from gradunc_viz.style.palette import class_colors

# ----------------------------------------------------------------------------------------------------------
# what holds the frames

CONTAINERS = {
    "set": lambda frames: frames,
    "slice": lambda frames: frames[:2],
    "list": list,
    "some": lambda frames: [frame for frame in frames if frame.id != "f02"],
    "backwards": lambda frames: tuple(reversed(frames)),
    "generator": lambda frames: (frame for frame in frames if frame.id > "f00"),
    "iterator": lambda frames: islice(frames, 3),
    "single": lambda frames: frames["f03"],
}


@pytest.mark.parametrize("names", [list(CONTAINERS), [*CONTAINERS][::-1]], ids=["set first", "single first"])
def test_a_cache_is_resumed_whatever_holds_the_frames(names, tiny_cache, tiny_set, tmp_path):
    net, frames = TinyNet().eval(), gv.open_frames(tiny_set)
    seen: set[str] = set()
    for name in names:
        chosen = CONTAINERS[name](frames)
        ids = {chosen.id} if isinstance(chosen, gv.Frame) else {frame.id for frame in CONTAINERS[name](frames)}
        report = compute_report(net, chosen, tmp_path / "c", scores=SCORES, progress=False)
        assert (set(report.existing), set(report.computed)) == (ids & seen, ids - seen), name
        seen |= ids
    cache = gv.open_cache(tmp_path / "c")
    assert cache.key == tiny_cache.key
    assert cache.ids == tiny_cache.ids
    for frame_id in cache.ids:
        xr.testing.assert_identical(cache[frame_id].load(), tiny_cache[frame_id].load())


def earlier(cache: gv.Cache) -> gv.Cache:
    """The cache as version 0.1 wrote it, with the layout of the frames in its key."""
    file = cache.path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["key"]["frames"] = {"layout": "folder"}
    del root["attributes"]["checksum"]
    file.write_text(json.dumps(root))
    return cache


@pytest.mark.parametrize("container", ["set", "list"])
def test_a_cache_of_an_earlier_version_is_resumed(container, tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set)
    maps = tmp_path / "maps"
    maps.mkdir()
    for frame in frames:
        np.save(maps / f"{frame.id}.npy", np.random.default_rng(0).random(frame.size))
    for make, out in (
        (lambda some: gv.compute(TinyNet().eval(), some, tmp_path / "c", scores="msp", progress=False), "c"),
        (lambda some: gv.import_maps(maps, some, tmp_path / "m", progress=False), "m"),
    ):
        earlier(make(frames[:2]))
        assert make(CONTAINERS[container](frames)).ids == ("f00", "f01", "f02", "f03"), out


def test_the_first_frames_of_what_may_have_no_end(tiny_set):
    frames = gv.open_frames(tiny_set)

    def endless():
        while True:
            yield from frames

    assert [frame.id for frame in chosen_frames(endless(), 6)] == ["f00", "f01", "f02", "f03", "f00", "f01"]
    assert chosen_frames(frames[2]) == (frames[2],)
    assert chosen_frames([]) == ()


def test_what_are_no_frames(tiny_set, tmp_path):
    with pytest.raises(FrameError, match=r"frames are the path '/.*'; expected gv\.open_frames"):
        gv.compute(TinyNet().eval(), str(tiny_set), tmp_path / "c")
    for other in ([(torch.zeros(3, 4, 4), None)], torch.zeros(2, 3, 4, 4), 3):
        with pytest.raises(FrameError, match=r"frames are .*; expected .* or gv\.frames_from\(data\)") as raised:
            gv.compute(TinyNet().eval(), other, tmp_path / "c")
        assert len(str(raised.value)) < 120
    assert not (tmp_path / "c").exists()


# ----------------------------------------------------------------------------------------------------------
# what gives the logits


class Flipped:
    """A runner from outside the package: the mean over an image and its mirror image."""

    def __init__(self, inner: Runner) -> None:
        self.inner, self.network, self.device, self.prepare = inner, inner.network, inner.device, inner.prepare

    def __call__(self, x: torch.Tensor, what: str) -> Head:
        head, mirrored = self.inner(x, what), self.inner(x.flip(-1), what)
        head.logits = (head.logits + mirrored.logits.flip(-1)) / 2
        return head


def test_another_runner_takes_the_place_of_the_network(tiny_net, tiny_set, tmp_path):
    frames, network = gv.open_frames(tiny_set), gv.load_model(tiny_net, classes=list("abcd"))
    settings, report = Settings(scores=SCORES, batch=2), Report()
    source = NetworkMaps(Flipped(Inference(network, torch.device("cpu"))), settings, network.classes, report.stages)
    key = cache_key(network, settings, network.classes)
    with CacheWriter(tmp_path / "c", key, network.classes, tuple(class_colors(4))) as writer:
        Pipeline(source, report).run(frames, writer, progress=False)
    assert report.computed == list(frames.ids)
    for frame in frames:
        x = torch.from_numpy(frame.image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            one, other = (tiny_net.classifier(F.softplus(tiny_net.body(image))) for image in (x, x.flip(-1)))
        cached = gv.open_cache(tmp_path / "c")[frame.id]
        np.testing.assert_allclose(cached["logits"], (one + other.flip(-1))[0] / 2, rtol=2e-3, atol=2e-3)


# ----------------------------------------------------------------------------------------------------------
# a run that fails before its first frame


class Picky(TinyNet):
    def forward(self, x):
        if x.shape[-2:] == (48, 64) and bool((x != 0).any()):
            raise ValueError("not this one")
        return super().forward(x)


class Stopped(TinyNet):
    def forward(self, x):
        if bool((x != 0).any()):
            raise KeyboardInterrupt
        return super().forward(x)


def broken_image(folder):
    (folder / "images" / "f00.png").write_bytes(b"no image")
    return TinyNet()


def unknown_class(folder):
    Image.new("L", (64, 48), 9).save(folder / "labels" / "f00.png")
    return TinyNet()


def no_name(folder):
    for part in ("images", "labels", "anomalies"):
        (folder / part / "f00.png").rename(folder / part / "__f00.png")
    return TinyNet()


class Blind(TinyNet):
    def forward(self, x):
        return super().forward(torch.where((x != 0).any(), torch.nan, x))


FAILURES = {
    "a damaged image": (broken_image, FrameError),
    "a label that is no class": (unknown_class, FrameError),
    "a name that cannot be": (no_name, (FrameError, SchemaError)),
    "a size the network cannot take": (lambda _: Picky(), ModelError),
    "numbers that are not finite": (lambda _: Blind(), NonFiniteError),
    "the user": (lambda _: Stopped(), KeyboardInterrupt),
}


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty folder"])
@pytest.mark.parametrize("name", FAILURES)
def test_nothing_stays_of_a_run_that_fails_before_its_first_frame(name, there, own_set, tmp_path):
    make, error = FAILURES[name]
    net, out = make(own_set).eval(), tmp_path / "c"
    if there:
        out.mkdir()
    with pytest.raises(error):
        gv.compute(net, gv.open_frames(own_set), out, scores="msp", progress=False)
    assert not out.exists() or not list(out.iterdir())
    assert not list(tmp_path.glob(".c*"))
    other = gv.open_frames(write_set(tmp_path / "other", 2))
    assert len(gv.compute(TinyNet().eval(), other, out, scores="entropy", images=False, progress=False)) == 2


def test_a_run_that_left_every_frame_out_does_not_refuse_the_next(own_set, tmp_path):
    for image in (own_set / "images").iterdir():
        image.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="4 frames were skipped"):
        cache = gv.compute(
            TinyNet(), gv.open_frames(own_set), tmp_path / "c", scores="msp", on_error="skip", progress=False
        )
    assert len(cache) == 0
    other = gv.open_frames(write_set(tmp_path / "other", 2))
    assert len(gv.compute(TinyNet().eval(), other, tmp_path / "c", scores="entropy", bias=True, progress=False)) == 2


def test_a_relative_cache_stays_where_it_was(own_set, tmp_path, monkeypatch):
    class Wandering(TinyNet):
        def forward(self, x):
            os.chdir("/")
            return super().forward(x)

    monkeypatch.chdir(tmp_path)
    cache = gv.compute(Wandering().eval(), gv.open_frames("set"), "c", scores="msp", progress=False)
    assert os.getcwd() == "/"
    assert len(cache) == 4 == len(gv.open_cache(tmp_path / "c"))
    assert cache.summary.sizes["frame"] == cache.reopened().summary.sizes["frame"] == 4
    assert gv.evaluate(cache, "error", bootstrap=0).sizes["score"] == 1
    (tmp_path / "maps").mkdir()
    (tmp_path / "ids").mkdir()
    for name, frame in cache.items():
        np.save(tmp_path / f"maps/{name}.npy", gv.score(frame, "msp").values)
        Image.fromarray(frame["prediction"].values).save(tmp_path / f"ids/{name}.png")
    monkeypatch.chdir(tmp_path)
    settings = ImportSettings(predictions="ids", classes=tuple("abcd"))
    maps = gv.read_submission("maps")
    monkeypatch.chdir("/")
    assert len(maps["f00"]) == 48
    imported = gv.import_maps(tmp_path / "maps", gv.open_frames(own_set), tmp_path / "i", settings, progress=False)
    assert len(imported) == 4


def test_frames_before_the_one_that_fails_stay(own_set, tmp_path):
    (own_set / "images" / "f01.png").write_bytes(b"no image")
    with pytest.raises(FrameError):
        gv.compute(TinyNet().eval(), gv.open_frames(own_set), tmp_path / "c", scores="msp", batch=1, progress=False)
    assert gv.open_cache(tmp_path / "c").ids == ("f00",)


def test_an_empty_cache_that_was_there_before_stays(own_set, tmp_path):
    frames = gv.open_frames(own_set)
    gv.compute(TinyNet().eval(), [], tmp_path / "c", scores="msp", progress=False)
    (own_set / "images" / "f00.png").write_bytes(b"no image")
    with pytest.raises(FrameError):
        gv.compute(TinyNet().eval(), frames, tmp_path / "c", scores="msp", progress=False)
    assert len(gv.open_cache(tmp_path / "c")) == 0


def test_an_import_that_fails_before_its_first_frame(tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set)
    (tmp_path / "maps").mkdir()
    for frame in frames:
        np.save(tmp_path / "maps" / f"{frame.id}.npy", np.zeros(frame.size[::-1]))
    with pytest.raises(FrameError, match="is it transposed"):
        gv.import_maps(tmp_path / "maps", frames, tmp_path / "c", progress=False)
    for frame in frames:
        np.save(tmp_path / "maps" / f"{frame.id}.npy", np.zeros(frame.size))
    assert len(gv.import_maps(tmp_path / "maps", frames, tmp_path / "c", orientation=-1, progress=False)) == 4


# ----------------------------------------------------------------------------------------------------------
# what the network gets back, and what is read of it


class Steps(nn.Module):
    """A head that never looks at every other feature; those are not finite."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 6, 3, padding=1)
            self.classifier = nn.Conv2d(6, 4, 1, stride=2)

    def forward(self, x):
        features = self.body(x)
        features = torch.where(torch.arange(x.shape[-1]) % 2 == 1, torch.nan, features)
        return F.interpolate(self.classifier(features), x.shape[-2:], mode="bilinear")


@pytest.mark.parametrize("batch", [1, 2])
def test_features_are_looked_at_only_where_a_score_needs_them(batch, tmp_path):
    frames = gv.open_frames(write_set(tmp_path / "set", 2, ((24, 32),)))
    cache = gv.compute(Steps().eval(), frames, tmp_path / "c", scores="msp,energy", batch=batch, progress=False)
    assert np.isfinite(cache[0]["pixel_score"]).all()
    assert np.isfinite(gv.score_image(Steps().eval(), frames[0].image, scores="msp")["msp"]).all()
    for scores in ("pgn_oh_p1", "msp,pgn_uni_p0.5"):
        with pytest.raises(NonFiniteError, match="features are NaN"):
            gv.compute(Steps().eval(), frames, tmp_path / "d", scores=scores, batch=batch, progress=False)


def state_of(net: nn.Module):
    tensors = net.state_dict(keep_vars=True)
    return (
        {name: (id(t), t.data_ptr(), t.stride(), t.dtype, t.device) for name, t in tensors.items()},
        [module.training for module in net.modules()],
    )


@pytest.fixture
def fake_device(monkeypatch):
    """Moving a network to the run's device casts it to double, which every machine can do."""
    moves = []

    def to(self, device):
        moves.append(device)
        return self.double()

    monkeypatch.setattr(gv.Network, "to", to)
    monkeypatch.setattr(gv.Network, "prepare", lambda self, rgb: rgb.double())
    return moves


@pytest.mark.parametrize("wrapped", [False, True], ids=["module", "Network"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"channels_last": True}])
def test_the_network_comes_back_as_it_was_given(wrapped, training, options, own_set, tmp_path, fake_device):
    net = TinyNet().train(training)
    net.classifier.train(not training)
    before, given = state_of(net), gv.load_model(net) if wrapped else net
    frames = gv.open_frames(own_set)
    gv.compute(given, frames[:1], tmp_path / "c", scores=SCORES, progress=False, **options)
    assert state_of(net) == before
    gv.score_image(given, frames[0].image, **options)
    assert state_of(net) == before
    assert len(fake_device) == 2
    (own_set / "images" / "f01.png").write_bytes(b"no image")
    for error, change in ((FrameError, {}), (CacheMismatchError, {"scores": "msp"})):
        with pytest.raises(error):
            gv.compute(given, frames, tmp_path / "c", **{"scores": SCORES, "progress": False, **options, **change})
        assert state_of(net) == before

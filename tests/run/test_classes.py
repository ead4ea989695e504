"""Names and colours of classes, whatever holds the frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SCORES, TinyNet, write_set
from torch import nn

import gradunc_viz as gv
from gradunc_viz.run.classes import frame_classes
from gradunc_viz.run.compute import compute_report
from gradunc_viz.schema.errors import CacheMismatchError, FrameError, ModelError

COLORS = ((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0))


def with_names(folder, names="abcd"):
    table = [{"id": i, "name": name, "color": COLORS[i]} for i, name in enumerate(names)]
    (folder / "classes.json").write_text(json.dumps(table))
    return folder


def run(frames, out, **changes):
    return gv.compute(TinyNet().eval(), frames, out, scores=SCORES, progress=False, **changes)


def test_frames_know_their_classes_without_their_set(own_set):
    frames = gv.open_frames(with_names(own_set))
    assert frame_classes(list(frames)[1:]) == (tuple("abcd"), COLORS)
    assert frame_classes(()) == ((), ())


def test_frames_that_disagree_name_nothing(own_set, tmp_path):
    other = gv.open_frames(with_names(write_set(tmp_path / "other", 1), "efgh"))
    assert frame_classes([*gv.open_frames(with_names(own_set)), *other]) == ((), ())


def test_names_and_colours_are_those_of_the_whole_set(own_set, tmp_path):
    frames = gv.open_frames(with_names(own_set))
    cache = run([frames[1]], tmp_path / "c")
    assert (cache.classes, cache.colors) == (tuple("abcd"), COLORS)


def test_names_stay_those_of_a_cache_where_nobody_knows_better(own_set, tmp_path):
    """A list of frames once lost the names that its set knew: such a cache, and its set, go on together."""
    plain = gv.open_frames(own_set)
    numbered = run(plain[:1], tmp_path / "numbered")
    named = gv.open_frames(with_names(own_set))
    assert run(named[:2], numbered.path).classes == numbered.classes == tuple(f"class {i}" for i in range(4))
    cache = run(named[:1], tmp_path / "named")
    assert run(plain[:2], cache.path).classes == tuple("abcd")
    assert list(gv.open_cache(cache.path)["f01"]["class"].values) == list("abcd")


def test_other_names_are_refused(own_set, tmp_path):
    run(gv.open_frames(with_names(own_set))[:1], tmp_path / "c")
    with pytest.raises(CacheMismatchError, match=r"network\.classes was a,b,c,d, now e,f,g,h"):
        run(gv.open_frames(with_names(own_set, "efgh")), tmp_path / "c")
    with (
        pytest.warns(UserWarning, match="4 classes each, of which names 'e' / 'w', .* differ"),
        pytest.raises(CacheMismatchError, match=r"network\.classes was a,b,c,d, now w,x,y,z"),
    ):
        run(gv.open_frames(own_set), tmp_path / "c", classes=list("wxyz"))


# --- labels and predictions are numbered alike


class Colours(nn.Module):
    """Channel k is right where colour k of `palette` is: a network that never errs."""

    def __init__(self, palette):
        super().__init__()
        self.head = nn.Conv2d(3, len(palette), 1)
        points = torch.tensor(palette, dtype=torch.float32) / 255
        self.head.weight.data = 200 * points[:, :, None, None]
        self.head.bias.data = -100 * points.square().sum(1)

    def forward(self, x):
        return self.head(x)


PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def painted(folder, stored=lambda channel: channel, dtype="u1"):
    """A frame of the colours above, whose mask holds `stored` of each channel."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    channel = np.random.default_rng(0).integers(0, 4, (24, 32))
    Image.fromarray(np.array(PALETTE, "u1")[channel]).save(folder / "images/a.png")
    Image.fromarray(np.vectorize(stored)(channel).astype(dtype)).save(folder / "labels/a.png")
    return folder


def rated(cache):
    """Share of right pixels, and how many are labelled."""
    return 1 - float(cache.summary["error_rate"][0]), int(cache.summary["labelled_count"][0])


def scored(network, frames, out):
    return gv.compute(network, frames, out, scores="msp", progress=False)


@pytest.mark.parametrize("dropped", [(), (0,), (1,), (3,), (0, 2)])
def test_an_id_in_a_mask_is_a_channel(dropped, tmp_path):
    frames = gv.open_frames(painted(tmp_path / "set"))
    channel = frames[0].label
    cache = scored(gv.load_model(Colours(PALETTE), drop_channels=dropped), frames, tmp_path / "c")
    assert cache.classes == tuple(f"class {k}" for k in range(4) if k not in dropped)
    assert rated(cache) == (1, int((~np.isin(channel, dropped)).sum()))
    names = np.array(cache.classes)[cache[0]["prediction"].values]
    kept = ~np.isin(channel, dropped)
    np.testing.assert_array_equal(names[kept], np.char.add("class ", channel[kept].astype(str)))
    confusion = cache[0]["confusion"]
    assert list(confusion["label_class"].values) == list(cache.classes)
    assert np.trace(confusion.values) == kept.sum()


def test_ids_of_one_image_are_places_in_its_classes(tmp_path):
    frame = gv.open_frames(painted(tmp_path / "set"))[0]
    scores = gv.score_image(gv.load_model(Colours(PALETTE), drop_channels=[0]), frame.image, scores="msp")
    assert scores.attrs["classes"] == ["class 1", "class 2", "class 3"]
    kept = frame.label > 0
    np.testing.assert_array_equal(scores["prediction"].values[kept] + 1, frame.label[kept])


def test_a_mapping_leads_to_channels(tmp_path):
    folder = painted(tmp_path / "set", lambda channel: 10 * channel)
    frames = gv.open_frames(folder, labels={0: 0, 10: 1, 20: 2, 30: 3})
    assert rated(scored(gv.load_model(Colours(PALETTE), drop_channels=[0]), frames, tmp_path / "c"))[0] == 1


@pytest.mark.parametrize("names", [["void", "red", "green", "blue"], ["red", "green", "blue"]], ids=len)
def test_names_of_labels_may_leave_out_what_the_network_does(names, tmp_path):
    """A class file of all channels names these; one of the kept classes names ids counted among them."""
    whole = len(names) == 4
    folder = painted(tmp_path / "set", lambda channel: channel if whole else (channel - 1) % 256)
    (folder / "classes.json").write_text(json.dumps(names))
    cache = scored(gv.load_model(Colours(PALETTE), drop_channels=[0]), gv.open_frames(folder), tmp_path / "c")
    assert cache.classes == ("red", "green", "blue")
    assert rated(cache)[0] == 1


def test_labels_are_mapped_by_the_names_of_classes(tmp_path):
    order = [2, 0, 3, 1]
    folder = painted(tmp_path / "set", order.index)
    own = ["Black", "red", "deep_green", "blue"]
    (folder / "classes.json").write_text(json.dumps([own[i].lower().replace("_", " ") for i in order]))
    network = gv.load_model(Colours(PALETTE), classes=own)
    report = compute_report(network, gv.open_frames(folder), tmp_path / "c", scores="msp", progress=False)
    assert report.remarks == ["labels are mapped to the network's classes by their names"]
    cache = gv.open_cache(tmp_path / "c")
    assert cache.classes == tuple(own)
    assert rated(cache)[0] == 1


def test_what_is_void_by_name_is_ignored(tmp_path):
    folder = painted(tmp_path / "set", lambda channel: 4 if channel == 1 else channel)
    (folder / "classes.json").write_text('["black", "red", "green", "blue", "Void"]')
    network = gv.load_model(Colours(PALETTE), classes=["black", "red", "green", "blue"])
    right, labelled = rated(scored(network, gv.open_frames(folder), tmp_path / "c"))
    assert right == 1
    assert labelled == int((gv.open_frames(folder)[0].label != 4).sum())


def test_classes_that_the_network_has_not_are_refused(tmp_path):
    folder = painted(tmp_path / "set")
    (folder / "classes.json").write_text('["black", "red", "green", "blue"]')
    network = gv.load_model(Colours([*PALETTE, (255, 255, 255)]), classes=["black", "red", "green", "sea", "white"])
    with pytest.raises(FrameError, match=r"labels/a.png: labels are of 4 classes, .* none called 'blue'; .*--labels"):
        scored(network, gv.open_frames(folder), tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(FrameError, match=r"labels are of 4 classes .* tells 3 apart"):
        scored(Colours(PALETTE[:3]), gv.open_frames(folder), tmp_path / "c")


def test_fewer_names_than_channels_are_told(tmp_path):
    folder = painted(tmp_path / "set")
    (folder / "classes.json").write_text('["black", "red", "green", "blue"]')
    with pytest.warns(UserWarning, match="4 classes, but the network has 5 channels that nobody named"):
        cache = scored(Colours([*PALETTE, (255, 255, 255)]), gv.open_frames(folder), tmp_path / "c")
    assert rated(cache)[0] == 1
    (folder / "classes.json").write_text('["black", "red", "green"]')
    named = gv.load_model(Colours(PALETTE), classes=["black", "red", "green", "blue"])
    with pytest.raises(FrameError, match=r"mask holds id 3, expected ids 0\.\.2"):  # which has no name
        scored(named, gv.open_frames(folder), tmp_path / "d")


def test_camvid_and_a_network_of_cityscapes(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "valannot").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), "u1")).save(tmp_path / "val/a.png")
    Image.fromarray(np.full((24, 32), 3, "u1")).save(tmp_path / "valannot/a.png")
    with pytest.raises(FrameError, match=r"11 classes, of which the network has none called 'pavement', .*'bicyclist'"):
        scored(TinyNet(classes=19), gv.open_frames(tmp_path, "camvid"), tmp_path / "c")
    table = dict.fromkeys(range(12), 255) | {3: 0}
    cache = scored(TinyNet(classes=19), gv.open_frames(tmp_path, "camvid", labels=table), tmp_path / "c")
    assert cache.classes[0] == "road"
    assert np.unique(cache[0]["label"]) == [0]


class Reduced(gv.Network):
    reduce_labels = True


def test_ids_that_a_network_was_trained_on_less_one(tmp_path):
    """ADE20K: 0 is ignored, and id k + 1 is class k."""
    folder = painted(tmp_path / "set", lambda channel: 0 if channel == 2 else channel + 1)
    network = Reduced(Colours(PALETTE))
    report = compute_report(network, gv.open_frames(folder), tmp_path / "c", scores="msp", progress=False)
    assert "plus 1, and 0 is ignored" in report.remarks[0]
    labelled = int((gv.open_frames(folder)[0].label > 0).sum())
    assert rated(gv.open_cache(tmp_path / "c")) == (1, labelled)
    # who says what ids mean is believed
    mapped = gv.open_frames(folder, labels={0: 255, 1: 0, 2: 1, 4: 3})
    assert rated(scored(network, mapped, tmp_path / "mapped")) == (1, labelled)
    plain = painted(tmp_path / "plain")
    (plain / "classes.txt").write_text("black\nred\ngreen\nblue\n")
    assert rated(scored(network, gv.open_frames(plain), tmp_path / "named"))[0] == 1


def test_colours_of_the_networks_classes(tmp_path):
    folder = painted(tmp_path / "set")
    Image.open(folder / "images/a.png").save(folder / "labels/a.png")
    network = gv.load_model(Colours(PALETTE), classes=["black", "red", "green", "blue"])
    cache = gv.compute(network, gv.open_frames(folder), tmp_path / "c", scores="msp", colors=PALETTE, progress=False)
    assert rated(cache) == (1, 24 * 32)


@pytest.mark.parametrize("names", ["abc", "abcde", "aabc"])
@pytest.mark.parametrize("labels", [True, False])
def test_names_are_counted_before_the_network_sees_a_frame(names, labels, tmp_path):
    folder = write_set(tmp_path / "set", 1, labels=labels)
    expected = "repeat name 'a'" if names == "aabc" else f"{len(names)} class names for .*: expected 4, one per class"
    with pytest.raises(ModelError, match=expected):
        scored(gv.load_model(TinyNet(), classes=list(names)), gv.open_frames(folder), tmp_path / "c")
    given = "repeat name 'a'" if names == "aabc" else f"{len(names)} class names were given, but .* tells 4"
    with pytest.raises(ModelError, match=given):
        gv.compute(TinyNet(), gv.open_frames(folder), tmp_path / "c", scores="msp", classes=list(names), progress=False)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("n", [255, 256, 300])
def test_classes_of_any_number(n, tmp_path):
    folder = painted(tmp_path / "set", lambda channel: n - 1 - channel, "u2")
    shade = np.zeros((n, 3))
    shade[-4:] = PALETTE[::-1]
    shade[:-4] = -1000
    cache = scored(Colours(shade.tolist()), gv.open_frames(folder), tmp_path / "c")
    assert rated(cache) == ((1, 24 * 32))
    frame = cache[0]
    dtype = "u1" if n == 255 else "u2"
    assert frame["prediction"].dtype == frame["label"].dtype == dtype
    assert frame.attrs["ignore"] == np.iinfo(dtype).max
    label = Image.fromarray(np.full((24, 32), np.iinfo(dtype).max, dtype))
    label.save(folder / "labels/a.png")
    with pytest.warns(UserWarning, match="all pixels in the class labels of 1 frames are ignored"):
        assert rated(scored(Colours(shade.tolist()), gv.open_frames(folder), tmp_path / "d"))[1] == 0

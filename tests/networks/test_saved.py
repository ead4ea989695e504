"""Logits and features in files, in place of the network that made them."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import save_file
from tiny import SCORES, TinyNet, write_set
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.networks.network import network_input
from gradunc_viz.schema.errors import FrameError, GraduncError, HeadError, ModelError, SettingsError

Arrays = dict[str, np.ndarray]


def _npy(path: Path, arrays: Arrays) -> None:
    (array,) = arrays.values()
    np.save(path.with_suffix(".npy"), array)


def _zarr(path: Path, arrays: Arrays) -> None:
    group = zarr.open_group(str(path.with_suffix(".zarr")), mode="w")
    for name, array in arrays.items():
        group[name] = array


FORMS: dict[str, Callable[[Path, Arrays], None]] = {
    "npy": _npy,
    "npz": lambda path, arrays: np.savez(path.with_suffix(".npz"), **arrays),
    "safetensors": lambda path, arrays: save_file(
        {name: torch.from_numpy(array) for name, array in arrays.items()}, path.with_suffix(".safetensors")
    ),
    "zarr": _zarr,
}


def outputs(net: nn.Module, frame: gv.Frame) -> Arrays:
    """What enters and leaves the head of a network that is given the image as it is."""
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255
    head = gv.Network(net).infer(x)
    logits = head.logits if head.tail is None else head.tail.sources[0].output
    return {"logits": logits[0].numpy(), "features": head.features[0].numpy()}


def saved(net: nn.Module, frames: gv.Frames, folder: Path, form: str = "npz", *names: str) -> Path:
    """A folder of the outputs of a network, by default all of a frame in one file."""
    folder.mkdir(parents=True)
    for frame in frames:
        found = outputs(net, frame)
        FORMS[form](folder / frame.id, {name: found[name] for name in names or found})
    return folder


def same(cache: gv.Cache, other: gv.Cache) -> None:
    """Compare the frames of the second with those of the first."""
    assert set(other.ids) <= set(cache.ids)
    for frame_id in other.ids:
        assert set(cache[frame_id]) == set(other[frame_id])
        for name, values in cache[frame_id].items():
            np.testing.assert_array_equal(other[frame_id][name].values, values.values, err_msg=str(name))


@pytest.fixture(scope="module")
def frames(tiny_set: Path) -> gv.Frames:
    return gv.open_frames(tiny_set)


@pytest.fixture(scope="module")
def folder(frames: gv.Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits and features of all frames, each in a folder of its own; not to be changed."""
    root = tmp_path_factory.mktemp("saved")
    for name in ("logits", "features"):
        saved(TinyNet().eval(), frames, root / name, "npy", name)
    return root


# ---------------------------------------------------------------------------------------------------------------------
# values


def test_a_cache_is_that_of_the_network_itself(frames: gv.Frames, tiny_cache: gv.Cache, tmp_path: Path) -> None:
    one = frames[:1]
    logits = gv.SavedLogits(saved(TinyNet().eval(), one, tmp_path / "run7"), head={"kernel_size": 1})
    cache = gv.compute(logits, one, tmp_path / "cache", scores=SCORES, progress=False)
    same(tiny_cache, cache)
    assert cache.key["network"]["name"] == "run7"
    assert "run7: 4 channels of 1 frames" in repr(logits)


@pytest.mark.parametrize("form", ["safetensors", "zarr"])
def test_both_arrays_in_one_file(form: str, frames: gv.Frames, tmp_path: Path) -> None:
    files = gv.SavedLogits(saved(TinyNet().eval(), frames[:1], tmp_path / "saved", form), head={"kernel_size": 1})
    read = files.read("f00", frames["f00"].size, True)
    for values, own in zip(read, outputs(TinyNet().eval(), frames["f00"]).values(), strict=True):
        np.testing.assert_array_equal(values[0], own)


def test_the_command_resumes_and_notices_what_changed(
    frames: gv.Frames, folder: Path, tiny_set: Path, tiny_cache: gv.Cache, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(folder, tmp_path / "own")
    command = ["compute", "--logits", tmp_path / "own/logits", "--features", tmp_path / "own/features", "--kernel", "1"]
    command += ["--data", tiny_set, "--out", tmp_path / "cache", "--scores", ",".join(SCORES), "--quiet"]
    assert main([*map(str, command), "--limit", "1"]) == 0
    assert main([*map(str, command), "--limit", "2"]) == 0
    assert "computed 1 frames on cpu" in (said := capsys.readouterr().out)
    assert "1 were there already" in said
    same(tiny_cache, gv.open_cache(tmp_path / "cache"))
    assert main(["info", str(tmp_path / "cache")]) == 0
    assert re.search(r"network +logits \(weights", capsys.readouterr().out)
    assert main(["evaluate", str(tmp_path / "cache"), "--json"]) == 0
    file = tmp_path / "own/features/f01.npy"
    np.save(file, np.load(file) + 1)
    assert main([*map(str, command), "--limit", "2"]) == 1
    assert f"{file} and its labels have now" in capsys.readouterr().err


class Headed(nn.Module):
    """A body and a last layer whose logits are returned as they are."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 6, 3, stride=4), head

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.last(F.softplus(self.body(x))), x.shape[2:], mode="bilinear")


HEADS: dict[str, dict[str, Any]] = {
    "--kernel 3x5 --stride 2x1 --padding 1 --dilation 1x2": {
        "kernel_size": (3, 5), "stride": (2, 1), "padding": 1, "dilation": (1, 2)
    },
    "--kernel 3 --padding same --groups 2": {"kernel_size": 3, "padding": "same", "groups": 2},
    "--kernel 4 --stride 2 --padding 1 --transposed": {
        "kernel_size": 4, "stride": 2, "padding": 1, "transposed": True
    },
    "--kernel 3 --stride 2 --transposed": {"kernel_size": 3, "stride": 2, "output_padding": 1, "transposed": True},
}  # fmt: skip


@pytest.mark.parametrize("options", HEADS)
def test_norms_under_the_geometry_of_the_last_layer(options: str, frames: gv.Frames, tmp_path: Path) -> None:
    said = dict(HEADS[options])
    kind = nn.ConvTranspose2d if said.pop("transposed", False) else nn.Conv2d
    net = Headed(kind(6, 4, **said)).eval()
    folder = saved(net, frames[:1], tmp_path / "saved")
    own = gv.compute(net, frames[:1], tmp_path / "own", scores="pgn_oh_p1", bias=True, progress=False)
    command = ["compute", "--logits", folder, *options.split(), "--data", frames.path, "--out", tmp_path / "cache"]
    assert main([*map(str, command), "--scores", "pgn_oh_p1", "--bias", "--quiet", "--limit", "1"]) == 0
    same(own, gv.open_cache(tmp_path / "cache"))
    by_layer = gv.SavedLogits(folder, head=net.last)
    assert by_layer.geometry == gv.SavedLogits(folder, head=HEADS[options]).geometry


def test_without_features_there_are_scores_of_logits(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    logits = gv.SavedLogits(folder / "logits")
    with pytest.warns(UserWarning, match=r"scores pgn_oh_p0\.5, .*: left out of the default, as no features were giv"):
        cache = gv.compute(logits, frames, tmp_path / "default", limit=1, progress=False)
    assert cache.scores == tuple(name for name in gv.DEFAULT_SCORES if not name.startswith("pgn"))
    scores = ("label_oh_p1", "label_uni_p2", "msp", "energy", "max_logit")
    cache = gv.compute(logits, frames, tmp_path / "labels", scores=scores, limit=1, progress=False)
    own = gv.compute(TinyNet().eval(), frames, tmp_path / "own", scores=scores, limit=1, progress=False)
    same(own, cache)
    with pytest.raises(HeadError, match=r"score pgn_oh_p1: made of the features .* and no features were given"):
        gv.compute(logits, frames, tmp_path / "none", scores="msp,pgn_oh_p1", progress=False)
    with pytest.raises(HeadError, match="score knn: made of the features"):
        gv.fit(logits, frames, scores="knn", progress=False)


def test_images_of_any_number_of_channels(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    bands = np.random.default_rng(0).random((20, 28, 5), "f4")
    np.save(tmp_path / "set/f.npy", bands)
    (tmp_path / "logits").mkdir()
    np.save(tmp_path / "logits/f.npy", bands.transpose(2, 0, 1)[:, ::2, ::2])
    frames = gv.open_frames(tmp_path / "set")
    assert (
        len(gv.compute(gv.SavedLogits(tmp_path / "logits"), frames, tmp_path / "c", scores="msp", progress=False)) == 1
    )


def test_types_and_shapes_that_are_taken(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    whole = np.load(folder / "logits/f00.npy")
    kinds = {
        "f00": whole[None],
        "f01": np.asfortranarray(np.load(folder / "logits/f01.npy").astype(">f8")),
        "f02": np.load(folder / "logits/f02.npy").astype("f2"),
    }
    for frame_id, array in kinds.items():
        np.save(tmp_path / f"{frame_id}.npy", array)
    bfloat = torch.from_numpy(np.load(folder / "logits/f03.npy")).bfloat16()
    save_file({"anything": bfloat}, tmp_path / "f03.safetensors")
    read = gv.SavedLogits(tmp_path).read
    assert read("f01", frames["f01"].size, False)[0].is_contiguous()
    assert [read(frame.id, frame.size, False)[0].dtype for frame in frames] == [
        torch.float32, torch.float64, torch.float32, torch.float32
    ]  # fmt: skip
    torch.testing.assert_close(read("f00", frames["f00"].size, False)[0], torch.from_numpy(whole)[None])
    torch.testing.assert_close(read("f03", frames["f03"].size, False)[0][0], bfloat.float())


def test_one_group_of_all_frames_and_ids_with_folders(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 2)
    for name in ("images", "labels", "anomalies"):
        (root / name / "a").mkdir()
        (root / name / "f01.png").rename(root / name / "a" / "f01.png")
    frames = gv.open_frames(root)
    assert frames.ids == ("a__f01", "f00")
    net = TinyNet().eval()
    group = zarr.open_group(str(tmp_path / "all.zarr"), mode="w")
    for frame in frames:
        for name, array in outputs(net, frame).items():
            group[f"{frame.id.replace('__', '/')}/{name}"] = array
    files = gv.SavedLogits(tmp_path / "all.zarr", head={})
    for frame in frames:
        logits, features = files.read(frame.id, frame.size, True)
        np.testing.assert_array_equal(logits[0], outputs(net, frame)["logits"])
        np.testing.assert_array_equal(features[0], outputs(net, frame)["features"])
    (tmp_path / "npy/a").mkdir(parents=True)
    for frame in frames:
        np.save(tmp_path / "npy" / f"{frame.id.replace('__', '/')}.npy", outputs(net, frame)["logits"])
    gv.SavedLogits(tmp_path / "npy").check_frames(frames)


def test_probabilities_become_logits(frames: gv.Frames, tmp_path: Path) -> None:
    net = TinyNet().eval()
    tmp_path.joinpath("p").mkdir()
    for frame in frames:
        p = np.exp(outputs(net, frame)["logits"].astype("f8"))
        np.save(tmp_path / "p" / f"{frame.id}.npy", p / p.sum(0))
    files = gv.SavedLogits(tmp_path / "p", probabilities=True)
    for frame in frames:
        (read,) = files.read(frame.id, frame.size, False)
        own = torch.from_numpy(outputs(net, frame)["logits"])[None].double().log_softmax(1)
        torch.testing.assert_close(read, own)
    assert files.weights_digest() != gv.SavedLogits(tmp_path / "p").weights_digest()
    with pytest.raises(FrameError, match="add up to 1 over the channels, as probabilities do; expected logits, or --p"):
        gv.compute(gv.SavedLogits(tmp_path / "p"), frames, tmp_path / "no", scores="msp", progress=False)
    np.save(tmp_path / "p/f02.npy", np.full((4, 24, 32), 0.3))
    with pytest.raises(FrameError, match=r"f02\.npy: has values of 0\.3 to 0\.3 and sums over the channels of 1\.2"):
        files.read("f02", frames["f02"].size, False)
    np.save(tmp_path / "p/f02.npy", np.stack([np.zeros((24, 32)), np.ones((24, 32))] * 2) / 2)
    assert torch.isfinite(files.read("f02", frames["f02"].size, False)[0]).all()


def test_one_channel_has_a_threshold(tmp_path: Path) -> None:
    frames = gv.open_frames(write_set(tmp_path / "set", 1, labels=False, anomalies=False))
    net = Headed(nn.Conv2d(6, 1, 1)).eval()
    scores = ("msp", "entropy", "pgn_oh_p1", "pgn_uni_p2")
    own = gv.compute(gv.load_model(net, threshold=0.4), frames, tmp_path / "own", scores=scores, progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*all values of its one channel lie in")
        files = gv.SavedLogits(saved(net, frames, tmp_path / "saved"), head={"kernel_size": 1}, threshold=0.4)
        same(own, gv.compute(files, frames, tmp_path / "cache", scores=scores, progress=False))
        alone = gv.SavedLogits(saved(net, frames, tmp_path / "alone", "npz", "logits"))
        with pytest.raises(HeadError, match="made of the features"):
            gv.compute(alone, frames, tmp_path / "none", scores="pgn_oh_p1", progress=False)
    p = 1 / (1 + np.exp(-outputs(net, frames[0])["logits"]))
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p" / "f00.npy", p)
    with pytest.warns(UserWarning, match="one channel lie in .* taken for logits; of probabilities, --probabilities"):
        gv.SavedLogits(tmp_path / "p").read("f00", frames[0].size, False)
    (read,) = gv.SavedLogits(tmp_path / "p", probabilities=True).read("f00", frames[0].size, False)
    np.testing.assert_allclose(read[0], outputs(net, frames[0])["logits"], rtol=1e-4, atol=1e-5)


def test_channels_that_are_no_class_and_names(frames: gv.Frames, tmp_path: Path) -> None:
    net = TinyNet(classes=5).eval()
    folder = saved(net, frames, tmp_path / "saved")
    own = gv.load_model(net, drop_channels=[4], classes=["a", "b", "c", "d"])
    files = gv.SavedLogits(folder, head={}, drop_channels=[4], classes=["a", "b", "c", "d"])
    caches = [
        gv.compute(one, frames, tmp_path / f"cache{n}", scores="pgn_oh_p1,msp", limit=1, progress=False)
        for n, one in enumerate((own, files))
    ]
    same(*caches)
    assert caches[1].classes == ("a", "b", "c", "d")


def test_fitted_scores_of_one_folder_are_computed_of_another(frames: gv.Frames, tmp_path: Path, capsys: Any) -> None:
    net = TinyNet().eval()
    fit_on, scored = (saved(net, part, tmp_path / name) for name, part in {"a": frames[:2], "b": frames[2:]}.items())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "score 'mahalanobis'|.*belong to no frame")
        files = gv.SavedLogits(fit_on, head=net.classifier)
        fit = gv.fit(files, frames[:2], scores="vim,knn", pixels=300, progress=False)
        own = gv.fit(net, frames[:2], scores="vim,knn", pixels=300, progress=False)
        for score in ("vim", "knn"):
            for name, values in own.states[score].items():
                torch.testing.assert_close(fit.states[score][name], values)
        files = gv.SavedLogits(scored, head=net.classifier)
        cache = gv.compute(files, frames[2:3], tmp_path / "c", scores="vim,knn", fit=fit, progress=False)
    assert cache.scores == ("vim", "knn")
    with pytest.raises(GraduncError, match="made of the weights of the last layer, and those of Conv2d"):
        gv.fit(gv.SavedLogits(fit_on, head={}), frames[:2], scores="vim", pixels=300, progress=False)
    command = ["fit", "--logits", fit_on, "--kernel", "1", "--data", frames.path, "--limit", "2", "--scores", "knn"]
    assert main([*map(str, command), "--out", str(tmp_path / "knn.safetensors"), "--pixels", "300", "--quiet"]) == 0


# ---------------------------------------------------------------------------------------------------------------------
# what is told


def test_a_layer_of_1_x_1_is_assumed_aloud(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nobody said what layer .* a convolution of 1 x 1 is assumed"):
        files = gv.SavedLogits(folder / "logits", folder / "features")
    gv.compute(files, frames, tmp_path / "cache", scores="pgn_oh_p1", limit=1, progress=False)
    net = Headed(nn.Conv2d(6, 4, 3, stride=2)).eval()
    with pytest.warns(UserWarning, match="1 x 1 is assumed"):
        files = gv.SavedLogits(saved(net, frames, tmp_path / "saved"))
    with pytest.raises(FrameError, match=r"by the 1 x 1 convolution that is assumed, but .*; say what the layer is"):
        gv.compute(files, frames, tmp_path / "none", scores="pgn_oh_p1", progress=False)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _saved_again(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def again(path: Path) -> None:
        np.save(path, change(np.load(path)))

    return again


def _with_nan(array: np.ndarray) -> np.ndarray:
    array[1, 2, 3] = np.nan
    return array


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cut off": ("logits", _cut, "f01.npy: cannot be read as logits"),
    "cut off features": ("features", _cut, "f01.npy: cannot be read as features"),
    "absent": ("logits", Path.unlink, "3 of 4 frames have logits, but not frame 'f01'; expected f01.npy, .npz, .saf"),
    "absent features": ("features", Path.unlink, "3 of 4 frames have features, but not frame 'f01'"),
    "classes": ("logits", _saved_again(lambda x: x.argmax(0, keepdims=True)), "of type int64; expected float16"),
    "pickle": (
        "logits",
        lambda path: np.save(path, np.array([{"a": 1}], object), allow_pickle=True),
        "cannot be read as logits",
    ),
    "one map": ("logits", _saved_again(lambda x: x[0]), "expected (C, h, w), a channel for each class; maps of one sc"),
    "two frames": ("logits", _saved_again(lambda x: np.stack([x, x])), "(2, 4, 21, 29); expected (C, h, w), one frame"),
    "channels last": ("logits", _saved_again(lambda x: np.moveaxis(x, 0, -1)), "channels seem to be last, which np.mo"),
    "transposed": ("logits", _saved_again(lambda x: x.swapaxes(1, 2)), "the image is 41 x 57: are they transposed?"),
    "other channels": ("logits", _saved_again(lambda x: x[:3]), "logits have 3 channels, shape (3, 21, 29), and those"),
    "NaN": ("logits", _saved_again(_with_nan), "frame 'f01': 1 of 2436 logits are NaN or infinite"),
    "NaN in features": ("features", _saved_again(_with_nan), "frame 'f01': 1 of 3654 features are NaN or infinite"),
    "smaller features": (
        "features",
        _saved_again(lambda x: x[:, ::2]),
        "features of 11 x 29 make logits of 11 x 29 by Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1)), but those of",
    ),
    "fewer features": ("features", _saved_again(lambda x: x[1:]), "features have 5 channels, shape (5, 21, 29); expec"),
}


SKIPPED = ("absent features", "smaller features")
"""Of which it is also tried that the other frames are computed."""


@pytest.mark.filterwarnings("ignore:.*expected one size")  # told before, of all frames together
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line_and_left_out_if_asked(
    name: str, frames: gv.Frames, folder: Path, tmp_path: Path
) -> None:
    which, spoil, expected = BAD[name]
    shutil.copytree(folder, tmp_path / "own")
    spoil(tmp_path / "own" / which / "f01.npy")
    files = gv.SavedLogits(tmp_path / "own/logits", tmp_path / "own/features", head={"kernel_size": 1})
    with pytest.raises(GraduncError) as caught:
        gv.compute(files, frames, tmp_path / "cache", scores="pgn_oh_p1,msp", progress=False)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    if name in SKIPPED:
        with pytest.warns(UserWarning, match="1 frames were skipped"):
            cache = gv.compute(
                files, frames, tmp_path / "cache", scores="pgn_oh_p1,msp", on_error="skip", progress=False
            )
        assert cache.ids == ("f00", "f02", "f03")


def test_the_first_file_may_be_the_bad_one(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "logits", tmp_path / "logits")
    _cut(tmp_path / "logits/f00.npy")
    files = gv.SavedLogits(tmp_path / "logits")
    with pytest.warns(UserWarning, match=r"1 frames were skipped: .*f00\.npy: cannot be read"):
        gv.compute(files, frames, tmp_path / "cache", scores="msp", on_error="skip", limit=2, progress=False)
    for file in (tmp_path / "logits").iterdir():
        _cut(file)
    with pytest.raises(FrameError, match=r"f00\.npy: cannot be read as logits"):
        gv.SavedLogits(tmp_path / "logits")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"drop_channels": (1.5,)}, r"drop_channels is \(1\.5,\); expected whole numbers of channels"),
        ({"drop_channels": 3}, "drop_channels is 3; expected whole numbers"),
        ({"drop_channels": "3"}, "drop_channels is '3'; expected whole numbers"),
        ({"drop_channels": (99,)}, r"f00\.npy: logits have shape .* cannot drop channel 99: logits has 4 channels"),
        ({"classes": ("a",)}, r"f00\.npy: .* 1 class names for logits: expected 4"),
        ({"classes": 3}, "classes is 3; expected a list of names"),
        ({"threshold": "a"}, "threshold is 'a'; expected a probability"),
        (
            {"features": "features", "head": "3x3"},
            r"head is '3x3'; expected a layer, or the arguments of torch\.nn\.Conv2d",
        ),
        ({"features": "features", "head": 3}, r"head is 3; expected a layer, or the arguments of torch\.nn\.Conv2d"),
        ({"features": 3}, "3 is no path; expected a folder of features files"),
        ({"logits": 3}, "3 is no path; expected a folder of logits files"),
    ],
)
def test_what_is_said_of_files_is_checked_at_once(folder: Path, given: dict[str, Any], problem: str) -> None:
    given = {"logits": folder / "logits", **given}
    if given.get("features") == "features":
        given["features"] = folder / "features"
    with pytest.raises(gv.GraduncError, match=problem) as raised:
        gv.SavedLogits(**given)
    assert "\n" not in str(raised.value)


def test_sizes_unlike_those_of_other_frames_are_told(frames: gv.Frames, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for frame in frames:
        height, width = frame.size
        crop = 2 if frame.id == "f02" else 0
        np.save(tmp_path / f"{frame.id}.npy", random.normal(size=(4, height // 2 - crop, width // 2)).astype("f4"))
    with pytest.warns(UserWarning, match=r"frame f02 with logits of 22 x 32, where others .*48 x 64 have 24 x 32"):
        gv.SavedLogits(tmp_path).check_frames(frames)
    for frame in frames:  # as of a network whose input is resized
        np.save(tmp_path / f"{frame.id}.npy", random.normal(size=(4, 16, 16)).astype("f4"))
    gv.SavedLogits(tmp_path).check_frames(frames)


def test_folders_that_do_not_fit(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    for path, expected in {
        tmp_path / "nowhere": "no such folder; expected a folder of logits files",
        frames.path: r"holds no logits; expected <frame id>\.npy, \.npz, \.safetensors or \.zarr",
    }.items():
        with pytest.raises(FrameError, match=expected):
            gv.SavedLogits(path)
    (tmp_path / "others").mkdir()
    shutil.copy(folder / "logits/f00.npy", tmp_path / "others/frame0.npy")
    with pytest.raises(FrameError, match=r"0 of 4 frames have logits, but not frames 'f00', .*first file is frame0"):
        gv.compute(gv.SavedLogits(tmp_path / "others"), frames, tmp_path / "c", scores="msp", on_error="skip")
    shutil.copytree(folder / "logits", tmp_path / "more")
    shutil.copy(folder / "logits/f00.npy", tmp_path / "more/frame0.npy")
    with pytest.warns(UserWarning, match=r"more: 1 of 5 logits files belong to no frame \(file frame0\.npy\)"):
        gv.SavedLogits(tmp_path / "more").check_frames(frames)
    for part, limit in ((frames, 1), (frames[:2], None), (frames[1:][:1], 1)):
        with pytest.warns(UserWarning, match=r"1 of 5 logits files belong to no frame \(file frame0\.npy\)"):
            gv.compute(
                gv.SavedLogits(tmp_path / "more"), part, tmp_path / "l", scores="msp", limit=limit, progress=False
            )
    gv.compute(gv.SavedLogits(tmp_path / "more"), frames[0], tmp_path / "l", scores="msp", progress=False)
    shutil.copytree(folder / "features", tmp_path / "features")
    (tmp_path / "features/f00.npy").unlink()
    (tmp_path / "more/frame0.npy").unlink()
    half = gv.SavedLogits(tmp_path / "more", tmp_path / "features", head={"kernel_size": 1})
    gv.compute(half, frames, tmp_path / "half", scores="msp", limit=1, progress=False)  # which needs no features
    np.savez(tmp_path / "more/f00.npz", np.zeros(3))
    with pytest.raises(FrameError, match=r"f00\.npy and .*f00\.npz: both are the logits file of 'f00', expected one"):
        gv.SavedLogits(tmp_path / "more")


def test_logits_are_no_features(folder: Path) -> None:
    with pytest.raises(ModelError, match="holds no features, which enter the last layer"):
        gv.SavedLogits(folder / "logits", folder / "logits", head={"kernel_size": 1})


def test_layouts_that_no_other_file_tells(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    for file in (folder / "logits").iterdir():
        np.save(tmp_path / "last" / file.name, np.moveaxis(np.load(file), 0, -1))
    files = gv.SavedLogits(tmp_path / "last")
    text = r"f00\.npy: logits have shape \(24, 32, 4\), expected \(C, h, w\)"
    with pytest.raises(FrameError, match=f"{text}, and the image is 48 x 64: channels seem to be last"):
        gv.compute(files, frames, tmp_path / "cache", scores="msp", progress=False)
    with pytest.raises(FrameError, match=f"{text} of 4 classes: channels seem to be last"):
        gv.compute(files, frames, tmp_path / "cache", scores="msp", progress=False, classes=list("abcd"))


def test_absent_chunks_are_no_zeros(frames: gv.Frames, tmp_path: Path) -> None:
    folder = saved(TinyNet().eval(), frames, tmp_path / "saved", "zarr")
    array = zarr.create_array(
        str(folder / "f01.zarr/logits"), shape=(4, 21, 29), chunks=(1, 21, 29), dtype="f4", overwrite=True
    )
    array[:3] = 1
    with pytest.raises(FrameError, match="1 of 4 chunks of logits are absent; expected all"):
        gv.SavedLogits(folder, head={}).read("f01", frames["f01"].size, False)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"kernel": 3}, "head has 'kernel'; expected some of kernel_size, stride"),
        ({"kernel_size": 0}, "kernel_size of the head is 0; expected a whole number of 1 or more, or two"),
        ({"kernel_size": 3.0}, "kernel_size of the head is 3.0; expected a whole"),
        ({"padding": -1}, "padding of the head is -1; expected a whole number of 0 or more, or two of them"),
        (
            {"kernel_size": (3, 3, 3)},
            "kernel_size of the head is (3, 3, 3); expected a whole number of 1 or more",
        ),
        ({"stride": [2]}, "stride of the head is [2]; expected a whole"),
        ({"dilation": ()}, "dilation of the head is (); expected a whole"),
        ({"groups": (2, 2)}, "groups of the head is (2, 2); expected a whole number of 1 or more"),
        (
            {"padding": "same", "transposed": True},
            "padding of the head, a transposed convolution, is 'same'; expected a whole number of 0 or more",
        ),
        ({"output_padding": (1, 1, 1), "transposed": True}, "output_padding of the head, a transposed convolution, is"),
        ({"output_padding": 1}, "no head of 6 features and 4 logits has {'output_padding': 1}"),
        ({"groups": 4}, "no head of 6 features and 4 logits has {'groups': 4}"),
        ({"padding": "sane"}, "no head of 6 features and 4 logits has"),
        (nn.Conv2d(8, 4, 1), "takes 8 channels and makes 4; expected 6, as features in"),
        (nn.ReLU(), "the last layer is a ReLU; expected Conv2d, ConvTranspose2d or Linear"),
    ],
)
def test_heads_that_are_none(head: Any, expected: str, folder: Path) -> None:
    with pytest.raises(HeadError) as caught:
        gv.SavedLogits(folder / "logits", folder / "features", head=head)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": "odin"}, "score 'odin' needs a network that can be run, not saved logits: derivatives by the netw"),
        ({"scores": "pgn2_oh_p1"}, "score 'pgn2_oh_p1' needs a network that can be run"),
        ({"scores": "mcd_entropy"}, "score 'mcd_entropy' needs a network that can be run, .*MC dropout"),
        ({"scores": "tta_entropy"}, "score 'tta_entropy' needs a network"),
        ({"input_size": (32, 32)}, r"input_size=\(32, 32\) is said of a network's input; saved logits have none"),
        ({"autocast": "bf16"}, "autocast='bf16' is said of a network's input"),
        ({"compile": True}, "compile=True is said of a network's input"),
        ({"channels_last": True}, "channels_last=True is said"),
    ],
)
def test_what_needs_a_network(changes: Any, expected: str, frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    files = gv.SavedLogits(folder / "logits", folder / "features", head={"kernel_size": 1})
    with pytest.raises(SettingsError, match=expected):
        gv.compute(files, frames, tmp_path / "cache", **{"scores": "msp", **changes})


def test_what_is_no_network(frames: gv.Frames, folder: Path, tmp_path: Path) -> None:
    files = gv.SavedLogits(folder / "logits")
    with pytest.raises(SettingsError, match="saved logits of 'logits' in an ensemble"):
        gv.compute([files, TinyNet().eval()], frames, tmp_path / "both", scores="msp")
    with pytest.raises(SettingsError, match="saved logits belong to frames, by their ids; expected 'compute'"):
        gv.score_image(files, frames[0].image_path)
    with pytest.raises(ModelError, match="no network that runs on images"):
        files(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ("--model demo --kernel 3", 1, "--kernel is said of saved logits: expected --logits DIR beside it"),
        ("--model demo --features {folder}/features", 1, "--features is said of saved logits"),
        ("--logits {folder}/logits --normalize imagenet", 1, "--normalize is said of a network that runs on images"),
        ("--logits {folder}/logits --head x", 1, "--head is said of a network"),
        ("--logits {folder}/logits --kernel 3", 1, "holds no features, which enter the last layer that was described"),
        ("--logits {folder}/logits --model demo", 2, "not allowed with argument"),
        ("--logits {folder}/logits --kernel 3x3x3", 2, "'3x3x3' is no size; expected such as 3 or 3x5"),
        ("--logits {folder}/logits --threshold 0.3 --scores msp", 1, "threshold=0.3 was given, but logits returns 4"),
        ("", 2, "one of the arguments --model --logits is required"),
    ],
)
def test_options_that_say_nothing_together(
    options: str, code: int, expected: str, folder: Path, tiny_set: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["compute", *options.format(folder=folder).split(), "--data", str(tiny_set), "--out", str(tmp_path / "c")]
    if code == 2:
        with pytest.raises(SystemExit):
            main(command)
    else:
        assert main([*command, "--quiet"]) == code
    assert expected in capsys.readouterr().err


def test_corners_are_aligned_if_asked(frames: gv.Frames, folder: Path, tmp_path: Path, tiny_set: Path) -> None:
    command = ["compute", "--logits", folder / "logits", "--data", tiny_set, "--scores", "msp", "--quiet"]
    assert main([*map(str, command), "--limit", "1", "--align-corners", "--out", str(tmp_path / "cache")]) == 0
    own = gv.compute(TinyNet().eval(), frames[:1], tmp_path / "own", scores="msp", align_corners=True, progress=False)
    same(own, gv.open_cache(tmp_path / "cache"))


@pytest.mark.real
def test_enet(real_data: Path, tmp_path: Path) -> None:
    frames = gv.open_frames(real_data / "dataset_AnomalyTrack", "smiyc")[:2]
    weights = real_data / "enet_cityscapes.pth"
    network = gv.load_model(f"{real_data / 'enet.py'}:load_enet", weights=weights, drop_channels=[19])
    (tmp_path / "saved").mkdir()
    for frame in frames:
        head = network.infer(network_input(frame.image, network, (256, 512)))
        arrays = {"logits": head.logits[0].numpy(), "features": head.features[0].numpy()}
        np.savez(tmp_path / f"saved/{frame.id}.npz", **arrays)
    settings = gv.Settings(scores=SCORES, input_size=(256, 512))
    own = gv.compute(network, frames, tmp_path / "own", settings, progress=False)
    files = gv.SavedLogits(tmp_path / "saved", head=head.layer, drop_channels=[19])
    same(own, gv.compute(files, frames, tmp_path / "cache", settings, input_size=None, progress=False))

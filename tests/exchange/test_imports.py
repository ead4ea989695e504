"""Maps of others in, submissions out: formats, ranking, exact numbers, and what is refused."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from exact import exact_metrics
from frame_files import unpacked
from PIL import Image
from scipy.stats import spearmanr

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.counts.pool import pool
from gradunc_viz.exchange.imports import import_maps_report
from gradunc_viz.exchange.map_files import MapFiles
from gradunc_viz.exchange.spread import HALF_LEVELS, IMPORT_BINS, bin_edges, half_map
from gradunc_viz.metrics.arrays.components import TRACKS, component_metrics
from gradunc_viz.metrics.objects import frame_components
from gradunc_viz.metrics.operating_point import reaches, read_at, threshold_counts
from gradunc_viz.schema.errors import (
    CacheError,
    CacheMismatchError,
    FrameError,
    GraduncError,
    NonFiniteError,
    SettingsError,
    UnknownScoreError,
)
from gradunc_viz.schema.scores import lookup, resolve_scores
from gradunc_viz.store.choice import Selection
from gradunc_viz.store.local import _LocalWriting

SIZE = (96, 128)
RESULTS = ("auroc", "auprc", "fpr95")


def write_frames(folder: Path, count: int = 3, size=SIZE, rate: float = 0.1) -> gv.Frames:
    """Frames with anomalies in patches, a part of them ignored."""
    random = np.random.default_rng(7)
    for name in ("images", "anomalies"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (*size, 3), "u1")).save(folder / f"images/g{i}.png")
        unknown = (random.random(size) < rate).astype("u1")
        unknown[random.random(size) < 0.1] = 255
        Image.fromarray(unknown).save(folder / f"anomalies/g{i}.png")
    return gv.open_frames(folder)


def write_maps(folder: Path, maps: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for frame, values in maps.items():
        np.save(folder / f"{frame}.npy", values)
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> gv.Frames:
    return write_frames(tmp_path_factory.mktemp("frames") / "set")


@pytest.fixture(scope="module")
def large_frames(tmp_path_factory) -> gv.Frames:
    """Enough pixels that 1e-4 is more than the order of a handful of them."""
    return write_frames(tmp_path_factory.mktemp("large") / "set", count=2, size=(400, 500))


@pytest.fixture
def maps(tmp_path, frames) -> Path:
    random = np.random.default_rng(3)
    return write_maps(tmp_path / "maps", {f.id: random.random(SIZE, "f4") for f in frames})


def quiet(maps_dir, frames, out, **options) -> gv.Cache:
    return gv.import_maps(maps_dir, frames, out, progress=False, **options)


def expected(frames, maps: dict[str, np.ndarray]) -> dict[str, float]:
    """Of the pixels, in the precision of the maps."""
    known = {f.id: f.anomaly != 255 for f in frames}
    truth = np.concatenate([f.anomaly[known[f.id]] == 1 for f in frames])
    values = np.concatenate([maps[f.id][known[f.id]] for f in frames])
    found = exact_metrics(values, truth)
    return {name: found[name] for name in RESULTS}


def found(cache: gv.Cache, **options) -> dict[str, float]:
    table = gv.evaluate(cache, "anomaly", bootstrap=0, **options)
    return {name: table[name].sel(pooling="pixels").values.item() for name in RESULTS}


# --------------------------------------------------------------------------------------------------------------------
# formats


def write_as(path: Path, values: np.ndarray, kind: str) -> None:
    if kind == "npy":
        np.save(path.with_suffix(".npy"), values)
    elif kind == "npz":
        np.savez_compressed(path.with_suffix(".npz"), values)
    elif kind == "npz-value":
        np.savez(path.with_suffix(".npz"), value=values, other=np.zeros(3))
    elif kind == "npz-single":
        np.savez(path.with_suffix(".npz"), heat=values)
    elif kind in ("hdf5", "h5"):
        with h5py.File(path.with_suffix(f".{kind}"), "w") as file:
            file.create_dataset("value" if kind == "hdf5" else "heat", data=values)
    else:
        Image.fromarray(values.astype("f4")).save(path.with_suffix(f".{kind}"), "TIFF")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("kind", ["npy", "npz", "npz-value", "npz-single", "hdf5", "h5", "tif", "tiff"])
def test_every_format_is_read_as_it_was_written(tmp_path, kind, dtype):
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(dtype)
    write_as(tmp_path / "a", values, kind)
    read = MapFiles(tmp_path)
    assert list(read) == ["a"]
    assert read["a"].dtype == ("f4" if kind.startswith("tif") else dtype)
    np.testing.assert_array_equal(read["a"], values.astype("f4") if kind.startswith("tif") else values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[0.5, -0.0, 3.0]]), "f4"),
        (np.array([[0.1, 0.5, 3.0]]), "f8"),
        (np.array([[1e-300, 1e300, 1e-46]]), "f8"),
        (np.array([[2**24, -(2**24)]]), "f4"),
        (np.array([[2**24 + 1, 0]]), "f8"),
        (np.array([[2**53, 7]], "u8"), "f8"),
        (np.array([[0.1, 2.0]], np.longdouble), "f8"),
    ],
)
def test_numbers_keep_what_tells_them_apart(tmp_path, values, dtype):
    np.save(tmp_path / "a.npy", values)
    read = MapFiles(tmp_path)["a"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


def test_ids_may_hold_dots_and_axes_of_one_are_dropped(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "v1.0_left.npy", values[None, None])
    np.save(tmp_path / "b.npy", values.astype("u1")[..., None])
    (tmp_path / "readme.txt").write_text("not a map")
    (tmp_path / ".hidden.npy").write_text("not a map")
    read = MapFiles(tmp_path)
    assert sorted(read) == ["b", "v1.0_left"]
    for found_map in read.values():
        np.testing.assert_array_equal(found_map, values.astype("f4"))


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        (np.zeros((2, 3, 4)), FrameError, r"shape \(2, 3, 4\)"),
        (np.zeros(3), FrameError, r"shape \(3,\)"),
        (np.zeros((0, 3)), FrameError, "expected one map"),
        (np.zeros((2, 3), "c8"), FrameError, "complex64"),
        (np.zeros((2, 3), "U1"), FrameError, "<U1"),
        (np.zeros((2, 3), bool), FrameError, "bool"),
        (np.full((2, 3), 2**53 + 1), FrameError, "2\\^53"),
        (np.array([[0, np.nan]]), NonFiniteError, "1 of 2 values"),
        (np.array([[0, np.inf]], "f4"), NonFiniteError, "1 of 2 values"),
        (np.array([[1, np.longdouble(1) + np.finfo(np.longdouble).eps]]), FrameError, "apart in float64"),
    ],
)
def test_wrong_maps_are_errors_that_name_the_file(tmp_path, frames, values, error, match):
    folder = write_maps(tmp_path / "maps", {frames[0].id: values})
    with pytest.raises(error, match=match) as caught:
        quiet(folder, frames[:1], tmp_path / "out")
    assert f"{frames[0].id}.npy" in str(caught.value)
    assert not (tmp_path / "out").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["npy", "npz", "raw"])
def test_pickled_objects_are_refused_and_never_run(tmp_path, kind):
    touched = tmp_path / "executed"
    array = np.array([[Bomb(touched)]], dtype=object)
    folder = tmp_path / "maps"
    folder.mkdir()
    if kind == "npy":
        np.save(folder / "a.npy", array, allow_pickle=True)
    elif kind == "npz":
        np.savez(folder / "a.npz", array)
    else:
        (folder / "a.npy").write_bytes(pickle.dumps(array))
    with pytest.raises(FrameError, match=r"a\.np[yz]: cannot be read"):
        MapFiles(folder)["a"]
    assert not touched.exists()


def test_headers_that_promise_too_much_are_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)})
    with pytest.raises(FrameError, match=r"a\.npy"):
        MapFiles(tmp_path)["a"]
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_dataset("value", shape=(2**16, 2**16), dtype="f4", chunks=(64, 64))
    with pytest.raises(FrameError, match=r"b\.hdf5: has shape"):
        MapFiles(tmp_path)["b"]


def test_hdf5_does_not_reach_into_other_files(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "maps").mkdir()
    with h5py.File(tmp_path / "elsewhere/secret.hdf5", "w") as file:
        file["value"] = np.zeros((2, 2))
    with h5py.File(tmp_path / "maps/a.hdf5", "w") as file:
        file["value"] = h5py.ExternalLink(str(tmp_path / "elsewhere/secret.hdf5"), "value")
    with pytest.raises(FrameError, match="holds 0 data sets"):
        MapFiles(tmp_path / "maps")["a"]
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "maps/b.hdf5", "w") as file:
        file.create_dataset("value", (2, 2), "f4", external=[(str(tmp_path / "raw"), 0, 16)])
    with pytest.raises(FrameError, match="in other files"):
        MapFiles(tmp_path / "maps")["b"]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.hdf5", "a.tif"])
def test_damaged_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(FrameError, match=name):
        MapFiles(tmp_path)["a"]


def test_a_photo_is_no_map(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(FrameError, match="mode RGB"):
        MapFiles(tmp_path)["a"]


def test_folders_without_maps_or_with_two_of_one_id(tmp_path, frames):
    with pytest.raises(FrameError, match="no such folder"):
        MapFiles(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FrameError, match="holds no score map"):
        quiet(tmp_path / "empty", frames, tmp_path / "out")
    two = write_maps(tmp_path / "two", {"g0": np.zeros(SIZE)})
    np.savez(two / "g0.npz", np.zeros(SIZE))
    with pytest.raises(FrameError, match=r"g0\.npy and .*g0\.npz"):
        MapFiles(two)
    other = write_maps(tmp_path / "other", {"h9": np.zeros(SIZE)})
    with pytest.raises(FrameError, match="first map is 'h9', the first frame 'g0'"):
        quiet(other, frames, tmp_path / "out")


# --------------------------------------------------------------------------------------------------------------------
# import

RANDOM = np.random.default_rng(11)

FEW = {"abs": 2e-3}  # the tiny frames hold 10,000 pixels: the order of a handful inside one bin shows


def shifted(noise: np.ndarray, anomaly: np.ndarray) -> np.ndarray:
    return noise + 1.2 * (anomaly == 1)


DISTRIBUTIONS = {
    "uniform": lambda a, r: 0.7 * r.random(a.shape) + 0.3 * (a == 1) * r.random(a.shape),
    "saturated": lambda a, r: 1 / (1 + np.exp(-7 * shifted(r.normal(size=a.shape), a))),
    "heavy-tailed": lambda a, r: shifted(r.standard_cauchy(a.shape), a),
    "log-uniform": lambda a, r: 10.0 ** (r.uniform(-30, 29, a.shape) + 9 * (a == 1) * r.random(a.shape)),
    "+-1e30": lambda a, r: shifted(r.normal(size=a.shape), a) * np.where(r.random(a.shape) < 0.01, 1e30, 1),
    "near 1": lambda a, r: 1 - 10.0 ** (-r.uniform(5, 14, a.shape) - 1.5 * (a == 1)),
    "near 0": lambda a, r: 10.0 ** (r.uniform(-300, -50, a.shape) + 30 * (a == 1)),
    "beyond float32": lambda a, r: shifted(r.normal(size=a.shape), a) * 1e300,
    "large offset": lambda a, r: 1e7 + shifted(r.normal(size=a.shape), a),
    "large integers": lambda a, r: 2**40 + np.int64(200 * shifted(r.normal(size=a.shape), a)),
    "offset": lambda a, r: 1000 + 1e-2 * shifted(r.normal(size=a.shape), a),
    "subnormal": lambda a, r: 1e-41 * shifted(r.normal(size=a.shape), a),
    "tied": lambda a, r: np.round(2 * shifted(r.normal(size=a.shape), a)) / 2,
    "half tied": lambda a, r: np.maximum(shifted(r.normal(size=a.shape), a), 0.5),
    "constant": lambda a, r: np.full(a.shape, 0.25),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_imported_maps_evaluate_as_scikit_learn_does(tmp_path, large_frames, name):
    frames, random = large_frames, np.random.default_rng(2)
    maps = {f.id: DISTRIBUTIONS[name](f.anomaly, random) for f in frames}
    cache = quiet(write_maps(tmp_path / "maps", maps), frames, tmp_path / "out")
    assert cache.scores == ("ext:maps",)
    assert cache.classes == ("all",)
    for f in frames:
        stored = gv.score(cache[f.id], "ext:maps")
        np.testing.assert_array_equal(stored, maps[f.id])
        assert cache[f.id].sizes["bin"] <= IMPORT_BINS + 3
    wanted = expected(frames, maps)
    measured = found(cache)
    assert measured == pytest.approx(wanted, abs=1e-4), {k: measured[k] - wanted[k] for k in wanted}


def test_float64_maps_are_told_apart_everywhere(tmp_path, large_frames):
    """At the threshold of the best F1, all of whose neighbours are one number in float32."""
    frames, random = large_frames, np.random.default_rng(2)
    maps = {f.id: DISTRIBUTIONS["near 1"](f.anomaly, random) for f in frames}
    cache = quiet(write_maps(tmp_path / "maps", maps), frames, tmp_path / "out")
    threshold = float(gv.evaluate(cache, bootstrap=0)["threshold"].sel(pooling="pixels").item())
    pooled = pool(Selection.of(cache)).histograms["ext:maps"]
    assert pooled.wide
    counted = read_at("ext:maps", pooled, threshold)
    by_pixel = [threshold_counts(maps[f.id], (f.anomaly == 1, f.anomaly != 255), threshold) for f in frames]
    for name in ("tp", "fp", "fn", "tn"):
        assert getattr(counted, name) == sum(getattr(one, name) for one in by_pixel)
    curve = gv.threshold_curves(cache, kind="roc")
    at = int(np.abs(curve["threshold"].values[0] - threshold).argmin())
    assert float(curve["tpr"][0, at]) == pytest.approx(counted.recall)
    for f in frames:
        stored = cache[f.id]
        np.testing.assert_array_equal(reaches(gv.score(stored, "ext:maps").values, threshold), maps[f.id] >= threshold)
        np.testing.assert_allclose(stored["score_quantile"].values[:, 0], np.quantile(maps[f.id], stored["quantile"]))
        own = {f.id: maps[f.id]}
        row = gv.evaluate(cache, by="frame", bootstrap=0).sel(frame=f.id)
        assert float(row["auroc"].item()) == pytest.approx(expected([f], own)["auroc"], abs=1e-4)
    tables = frame_components(cache, "ext:maps", threshold)
    for f in frames:
        wanted = component_metrics(f.anomaly, maps[f.id] >= threshold, **TRACKS["anomaly"]._asdict())
        np.testing.assert_array_equal(tables[f.id].truth_siou, wanted.truth_siou)
    gv.write_submission(cache, "ext:maps", tmp_path / "submission", progress=False)
    read = {name: values.astype("f8") for name, values in gv.read_submission(tmp_path / "submission").items()}
    assert expected(frames, read)["auroc"] == pytest.approx(expected(frames, maps)["auroc"], abs=1e-4)


def test_orientation_is_turned_on_import(tmp_path, frames):
    maps = {f.id: shifted(RANDOM.normal(size=SIZE), f.anomaly) for f in frames}
    folder = write_maps(tmp_path / "maps", {name: -values for name, values in maps.items()})
    cache = quiet(folder, frames, tmp_path / "out", orientation=-1, name="conf.v1")
    assert cache.scores == ("ext:conf.v1",)
    assert cache.key["settings"]["orientation"] == {"ext:conf.v1": -1}
    np.testing.assert_array_equal(gv.score(cache[0], "ext:conf.v1"), maps[cache.ids[0]])
    assert found(cache) == pytest.approx(expected(frames, maps), abs=1e-3)


def test_a_cached_score_gives_the_same_numbers_after_a_round_trip(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    for name in ("pgn_oh_p1", "pgn_uni_p2_paper", "entropy"):
        maps = {frame: gv.score(tiny_cache[frame], name).values for frame in tiny_cache}
        cache = quiet(write_maps(tmp_path / name, maps), frames, tmp_path / f"{name}.cache", name=name)
        known = expected(frames, maps)
        assert found(cache) == pytest.approx(known, **FEW)
        assert found(cache) == pytest.approx(found(tiny_cache, scores=name), **FEW)
        for frame in cache:
            np.testing.assert_array_equal(gv.score(cache[frame], f"ext:{name}"), maps[frame])


def write_predictions(folder: Path, cache: gv.Cache) -> Path:
    folder.mkdir()
    for frame in cache:
        Image.fromarray(cache[frame]["prediction"].values).save(folder / f"{frame}.png")
    return folder


def test_predictions_give_the_task_error_and_classes(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    predictions = write_predictions(tmp_path / "predictions", tiny_cache)
    maps = write_maps(tmp_path / "maps", {f: gv.score(tiny_cache[f], "entropy").values for f in tiny_cache})
    with pytest.raises(GraduncError, match="classes of the predictions are unknown"):
        quiet(maps, frames, tmp_path / "out", predictions=predictions)
    cache = quiet(maps, frames, tmp_path / "out", predictions=predictions, classes=("a", "b", "c", "d"))
    np.testing.assert_array_equal(cache[0]["prediction"], tiny_cache[0]["prediction"])
    np.testing.assert_array_equal(cache[0]["confusion"], tiny_cache[0]["confusion"])
    for task in ("error", "anomaly"):
        here = gv.evaluate(cache, task, bootstrap=0)
        there = gv.evaluate(tiny_cache, task, scores="entropy", bootstrap=0)
        assert int(here["n_pixels"].sum()) == int(there["n_pixels"].sum())
        for name in RESULTS:
            np.testing.assert_allclose(
                here[name].values, there[name].values, atol=5e-3
            )  # means over frames of 2,000 pixels too
    by_class = gv.evaluate(cache, "error", by="class", bootstrap=0)
    assert list(by_class["class"].values) == ["a", "b", "c", "d"]
    assert gv.segmentation(cache)["miou"] == gv.segmentation(tiny_cache)["miou"]


def test_wrong_predictions_are_named(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    predictions = write_predictions(tmp_path / "predictions", tiny_cache)
    maps = write_maps(tmp_path / "maps", {f: gv.score(tiny_cache[f], "entropy").values for f in tiny_cache})
    with pytest.raises(
        FrameError, match=r"f00.*png: (prediction|label)? ?holds class id 3, expected 0\.\.2|class id 3"
    ):
        quiet(maps, frames, tmp_path / "out", predictions=predictions, classes=("a", "b", "c"))
    Image.new("L", (3, 3)).save(predictions / "f00.png")
    with pytest.raises(FrameError, match=r"f00\.png: prediction is \(3, 3\)"):
        quiet(maps, frames, tmp_path / "out2", predictions=predictions, classes=tuple("abcd"))
    (predictions / "f00.png").unlink()
    with pytest.raises(FrameError, match=r"f00\.png: cannot be read"):
        quiet(maps, frames, tmp_path / "out3", predictions=predictions, classes=tuple("abcd"))


def test_without_predictions_there_is_no_task_error_and_nothing_from_logits(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    maps = write_maps(tmp_path / "maps", {f: gv.score(tiny_cache[f], "entropy").values for f in tiny_cache})
    cache = quiet(maps, frames, tmp_path / "out")
    assert list(cache[0]["outcome"].values) == ["normal", "anomaly"]
    assert "label" not in cache[0]
    with pytest.raises(GraduncError, match="class labels"):
        gv.evaluate(cache, "error")
    with pytest.raises(CacheError, match="there are no logits"):
        gv.score(cache[0], "msp")
    with pytest.raises(CacheError, match="not cached"):
        gv.score(cache[0], "ext:other")
    assert not bool(cache.summary["has_label"].any())


def test_maps_of_another_size_are_resized_and_reported(tmp_path, frames):
    small = RANDOM.normal(size=(SIZE[0] // 2, SIZE[1] // 2)).astype("f2")
    folder = write_maps(tmp_path / "maps", {f.id: small for f in frames})
    report = import_maps_report(folder, frames, tmp_path / "out", progress=False)
    assert report.resized == [f.id for f in frames]
    frame = gv.open_cache(tmp_path / "out")[0]
    assert frame.attrs["map_sizes"] == {"ext:maps": [SIZE[0] // 2, SIZE[1] // 2]}
    values = gv.score(frame, "ext:maps").values
    assert values.shape == SIZE
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(), small.astype("f8").mean(), atol=1e-3)
    turned = write_maps(tmp_path / "turned", {f.id: np.zeros(SIZE[::-1]) for f in frames})
    with pytest.raises(FrameError, match=r"g0\.npy: map is 128 x 96 .*transposed"):
        quiet(turned, frames, tmp_path / "other")


def test_missing_maps_stop_or_are_skipped(tmp_path, frames, maps):
    (maps / "g1.npy").unlink()
    with pytest.raises(FrameError, match=r"maps: no map of frame 'g1' \(.*g1\.png\)"):
        quiet(maps, frames, tmp_path / "out")
    assert gv.open_cache(tmp_path / "out").ids == ("g0",)
    with pytest.warns(UserWarning, match="1 frames were skipped.*g1"):
        cache = quiet(maps, frames, tmp_path / "out", on_error="skip")
    assert cache.ids == ("g0", "g2")
    np.save(maps / "g1.npy", np.full(SIZE, np.nan))
    report = import_maps_report(maps, frames, tmp_path / "new", on_error="skip", progress=False)
    assert report.computed == ["g0", "g2"]
    assert [frame for frame, _ in report.skipped] == ["g1"]


def test_resuming_computes_what_is_missing_in_the_same_bins(tmp_path, frames, maps):
    assert quiet(maps, frames, tmp_path / "out", limit=1).ids == ("g0",)
    # what comes later may be spread quite otherwise
    values = {f.id: np.load(maps / f"{f.id}.npy") for f in frames}
    values["g2"] = values["g2"] * 50 - 20
    np.save(maps / "g2.npy", values["g2"])
    report = import_maps_report(maps, frames, tmp_path / "out", progress=False)
    assert (report.existing, report.computed) == (["g0"], ["g1", "g2"])
    cache = gv.open_cache(tmp_path / "out")
    assert len({cache[i].sizes["bin"] for i in range(3)}) == 1
    assert found(cache)["auroc"] == pytest.approx(expected(frames, values)["auroc"], abs=0.02)
    again = import_maps_report(maps, frames, tmp_path / "out", progress=False)
    assert again.existing == ["g0", "g1", "g2"]


def test_changed_maps_and_settings_are_noticed(tmp_path, frames, maps):
    quiet(maps, frames, tmp_path / "out")
    with pytest.raises(CacheMismatchError, match=r"orientation\.ext:maps was 1, now -1"):
        quiet(maps, frames, tmp_path / "out", orientation=-1)
    np.save(maps / "g1.npy", np.zeros(SIZE))
    with pytest.raises(CacheMismatchError, match=r"'g1' was computed from other content.*g1\.npy"):
        quiet(maps, frames, tmp_path / "out", on_error="skip")


def test_a_cache_of_a_network_is_not_mixed_with_maps(tmp_path, tiny_set, tiny_cache):
    maps = write_maps(tmp_path / "maps", {f: gv.score(tiny_cache[f], "entropy").values for f in tiny_cache})
    with pytest.raises(CacheMismatchError, match="was computed by a network"):
        quiet(maps, gv.open_frames(tiny_set), tiny_cache.path)


# --------------------------------------------------------------------------------------------------------------------
# several scores


@pytest.fixture
def methods(tmp_path, frames) -> dict[str, Path]:
    """Maps of three methods: float32, float64 that float32 cannot tell apart, and float16."""
    random = np.random.default_rng(4)
    noise = {f.id: shifted(random.normal(size=SIZE), f.anomaly) for f in frames}
    return {
        "one": write_maps(tmp_path / "one", {name: values.astype("f4") for name, values in noise.items()}),
        "two": write_maps(tmp_path / "two", {name: 1 + 1e-12 * values for name, values in noise.items()}),
        "three": write_maps(tmp_path / "three", {name: (values**3).astype("f2") for name, values in noise.items()}),
    }


def assert_holds(cache: gv.Cache, frames: gv.Frames, methods: dict[str, Path]) -> None:
    """Each score is that of its maps, and evaluates as where it stands alone."""
    assert cache.scores == tuple(f"ext:{name}" for name in methods)
    assert cache.ids == tuple(f.id for f in frames)
    table = gv.evaluate(cache, "anomaly", bootstrap=0).sel(pooling="pixels").isel(cache=0)
    for name, folder in methods.items():
        maps = {f.id: np.load(folder / f"{f.id}.npy") for f in frames}
        for f in frames:
            np.testing.assert_array_equal(gv.score(cache[f.id], f"ext:{name}"), maps[f.id])
        one = table.sel(score=f"ext:{name}")
        assert {metric: float(one[metric]) for metric in RESULTS} == pytest.approx(expected(frames, maps), **FEW)
    assert list(cache.summary["score"].values) == list(cache.scores)


def test_several_folders_are_scores_of_one_cache(tmp_path, frames, methods):
    assert_holds(quiet(list(methods.values()), frames, tmp_path / "out"), frames, methods)
    assert_holds(quiet(methods, frames, tmp_path / "named"), frames, methods)
    report = import_maps_report(list(methods.values()), frames, tmp_path / "out", progress=False)
    assert report.existing == [f.id for f in frames]


def test_scores_are_added_to_a_cache(tmp_path, frames, methods):
    for count, (name, folder) in enumerate(methods.items(), 1):
        cache = quiet(folder, frames, tmp_path / "out", name=name)
        assert_holds(cache, frames, dict(list(methods.items())[:count]))
    together = quiet(methods, frames, tmp_path / "together")
    for frame in cache:
        assert cache[frame].attrs["digest"] == together[frame].attrs["digest"]
        np.testing.assert_array_equal(cache[frame]["counts"], together[frame]["counts"])
    for name, folder in methods.items():  # each is resumed alone
        report = import_maps_report(folder, frames, tmp_path / "out", progress=False, name=name)
        assert (len(report.existing), report.computed) == (len(frames), [])
    with pytest.raises(CacheMismatchError, match=r"one/g0\.npy \(as ext:two, another name adds it\)"):
        quiet(methods["one"], frames, tmp_path / "out", name="two")
    with pytest.raises(CacheMismatchError, match=r"orientation\.ext:one was 1, now -1"):
        quiet(methods["one"], frames, tmp_path / "out", orientation=-1)


def test_an_import_that_was_killed_is_finished_by_the_same_call(tmp_path, frames, methods, monkeypatch):
    quiet(methods["one"], frames, tmp_path / "out")
    put, written = _LocalWriting.put, []

    def killed(self, name, content, **options):
        if name.endswith(".zip") and name.startswith("frames/"):
            written.append(name)
        if len(written) > 1:
            raise KeyboardInterrupt
        return put(self, name, content, **options)

    with monkeypatch.context() as patched:
        patched.setattr(_LocalWriting, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            quiet(methods["two"], frames, tmp_path / "out")
    half = gv.open_cache(tmp_path / "out")
    assert half.scores == ("ext:one",)
    assert len(half) == len(frames)
    assert len({half[f].sizes["score"] for f in half}) == 2
    assert_holds(half, frames, {"one": methods["one"]})
    with pytest.raises(CacheMismatchError, match=r"orientation\.ext:two was 1, now -1"):
        quiet(methods["two"], frames, tmp_path / "out", orientation=-1)
    assert len(import_maps_report(methods["one"], frames, tmp_path / "out", progress=False).existing) == len(frames)
    assert_holds(quiet(methods["two"], frames, tmp_path / "out"), frames, {k: methods[k] for k in ("one", "two")})


def test_a_score_is_added_to_all_frames_or_none(tmp_path, frames, methods):
    cache = quiet(methods["one"], frames, tmp_path / "out")
    with pytest.raises(FrameError, match=r"holds frame 'g1', but it is not among the frames; ext:two .* all 3 frames"):
        quiet(methods["two"], frames[:1], tmp_path / "out")
    values = np.load(methods["two"] / "g2.npy")
    np.save(methods["two"] / "g2.npy", np.full(SIZE, np.nan))
    with pytest.raises(CacheError, match=r"ext:two cannot be added, as 1 frames lack it, such as 'g2' \(.*NaN"):
        quiet(methods["two"], frames, tmp_path / "out", on_error="skip")
    (methods["two"] / "g2.npy").unlink()
    with pytest.raises(FrameError, match="holds frame 'g2', but there is no map of it"):
        quiet(methods["two"], frames, tmp_path / "out", on_error="skip")
    assert_holds(cache.reopened(), frames, {"one": methods["one"]})
    np.save(methods["two"] / "g2.npy", values)
    assert_holds(quiet(methods["two"], frames, tmp_path / "out"), frames, {k: methods[k] for k in ("one", "two")})


def test_a_score_that_is_there_is_checked_where_others_are_added(tmp_path, frames, methods):
    cache = quiet(methods["one"], frames, tmp_path / "out")
    np.save(methods["one"] / "g1.npy", np.zeros(SIZE))
    with pytest.raises(CacheMismatchError, match=r"'g1' was imported from other content than .*one/g1\.npy"):
        quiet([methods["one"], methods["two"]], frames, tmp_path / "out")
    assert cache.reopened().scores == ("ext:one",)
    assert gv.score(cache["g1"], "ext:one").values.any()


def test_frames_are_added_with_all_scores(tmp_path, frames, methods):
    quiet(methods, frames, tmp_path / "out", limit=1)
    with pytest.raises(FrameError, match=r"'g1' .*is not in the cache, .*maps of ext:one, ext:two, ext:three"):
        quiet(methods["one"], frames, tmp_path / "out")
    assert_holds(quiet(methods, frames, tmp_path / "out"), frames, methods)


def test_a_score_of_other_frames_is_not_added(tmp_path, frames, methods):
    quiet(methods["one"], frames, tmp_path / "out")
    other = write_frames(tmp_path / "other", rate=0.3)
    with pytest.raises(CacheMismatchError, match="frame 'g0' has another anomaly there"):
        quiet(methods["two"], other, tmp_path / "out")


def test_added_scores_share_the_predictions(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    predictions = write_predictions(tmp_path / "predictions", tiny_cache)
    folders = {
        name: write_maps(tmp_path / name, {f: gv.score(tiny_cache[f], name).values for f in tiny_cache})
        for name in ("entropy", "msp")
    }
    known = {"predictions": predictions, "classes": ("a", "b", "c", "d")}
    quiet(folders["entropy"], frames, tmp_path / "out", **known)
    cache = quiet(folders["msp"], frames, tmp_path / "out")
    assert cache.classes == ("a", "b", "c", "d")
    np.testing.assert_array_equal(cache[0]["confusion"], tiny_cache[0]["confusion"])
    here, there = (gv.evaluate(c, "error", bootstrap=0).sel(pooling="pixels") for c in (cache, tiny_cache))
    for name in folders:
        found_here, found_there = here["auroc"].sel(score=f"ext:{name}"), there["auroc"].sel(score=name)
        np.testing.assert_allclose(found_here.values, found_there.values, atol=5e-3)
    Image.fromarray(np.zeros_like(tiny_cache[0]["prediction"].values)).save(predictions / f"{cache.ids[0]}.png")
    folders["margin"] = write_maps(tmp_path / "margin", {f: gv.score(tiny_cache[f], "margin").values for f in cache})
    with pytest.raises(CacheMismatchError, match="has another prediction there"):
        quiet(folders["margin"], frames, tmp_path / "out", **known)


def test_names_of_several_folders(tmp_path, frames, methods):
    for method, folder in methods.items():
        folder.rename(tmp_path / f"{method}.maps")
        (tmp_path / method).mkdir()
        (tmp_path / f"{method}.maps").rename(tmp_path / method / "maps")
    deep = [tmp_path / method / "maps" for method in methods]
    assert quiet(deep, frames, tmp_path / "out").scores == ("ext:one_maps", "ext:two_maps", "ext:three_maps")
    with pytest.raises(SettingsError, match="both would be score ext:one_maps"):
        quiet([deep[0], deep[0]], frames, tmp_path / "other")
    with pytest.raises(SettingsError, match="name is 'x' for 2 folders"):
        quiet(deep[:2], frames, tmp_path / "other", name="x")
    with pytest.raises(SettingsError, match="no folder of maps"):
        quiet([], frames, tmp_path / "other")


def test_a_cache_of_one_score_as_it_used_to_be_gets_another(tmp_path, frames, methods):
    path = quiet(methods["one"], frames, tmp_path / "out").path
    root = json.loads((path / "zarr.json").read_text())
    settings = root["attributes"]["key"]["settings"]
    settings["edges"] = settings["edges"]["ext:one"].removeprefix("f4:")
    settings["orientation"] = 1
    del root["attributes"]["checksum"]
    (path / "zarr.json").write_text(json.dumps(root))
    for frame in path.glob("frames/*.zip"):
        with unpacked(frame.with_suffix("")) as files:
            attrs = json.loads((files / "zarr.json").read_text())
            del attrs["attributes"]["map_digests"], attrs["attributes"]["stored"]["attributes"]
            (files / "zarr.json").write_text(json.dumps(attrs))
    assert found(gv.open_cache(path))["auroc"] > 0.5
    assert_holds(quiet(methods["two"], frames, path), frames, {k: methods[k] for k in ("one", "two")})


# --------------------------------------------------------------------------------------------------------------------
# folders in folders, frames without masks


def test_maps_in_nested_folders_belong_to_frames_of_their_id(tmp_path, capsys):
    random = np.random.default_rng(0)
    for name in ("a/x", "a/b/x", "y"):
        for folder, pixels in (("images", random.integers(0, 256, (8, 12, 3), "u1")), ("anomalies", np.eye(8, 12))):
            (tmp_path / "set" / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype("u1")).save(tmp_path / "set" / folder / f"{name}.png")
        (tmp_path / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"maps/{name}.npy", random.random((8, 12)))
    frames = gv.open_frames(tmp_path / "set")
    cache = quiet(tmp_path / "maps", frames, tmp_path / "out")
    assert set(cache.ids) == {"a__x", "a__b__x", "y"}
    for name in cache.ids:
        np.testing.assert_array_equal(
            gv.score(cache[name], "ext:maps"), np.load(tmp_path / "maps" / f"{name.replace('__', '/')}.npy")
        )
    np.save(tmp_path / "maps/a/unused.npy", np.zeros((8, 12)))
    arguments = [str(tmp_path / "maps"), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "cli"), "--quiet"]
    assert main(["import", *arguments]) == 0
    assert "1 maps belong to no frame, such as " in capsys.readouterr().err


def test_a_map_in_a_folder_belongs_to_the_only_frame_of_its_name(tmp_path):
    for city in ("aachen", "bochum"):
        (tmp_path / city).mkdir()
        np.save(tmp_path / f"{city}/{city}_1.npy", np.ones((2, 3)))
        np.save(tmp_path / f"{city}/same.npy", np.ones((2, 3)))
    read = MapFiles(tmp_path)
    assert read["aachen_1"].shape == read["aachen__aachen_1"].shape == (2, 3)
    assert "bochum_1" in read
    assert "bochum_2" not in read
    with pytest.raises(FrameError, match=r"aachen/same\.npy and .*bochum/same\.npy: both may be the score map"):
        _ = read["same"]
    np.save(tmp_path / "aachen__same.npy", np.ones((2, 3)))
    with pytest.raises(FrameError, match="both are the score map of 'aachen__same'"):
        MapFiles(tmp_path)


def test_maps_of_frames_without_masks_can_be_looked_at(tmp_path, frames, methods, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for f in frames:
        Image.fromarray(f.image).save(bare / f"{f.id}.png")
    cache = quiet(methods, gv.open_frames(bare), tmp_path / "out")
    assert cache.scores == ("ext:one", "ext:two", "ext:three")
    assert not cache.summary["has_label"].any()
    assert not cache.summary["has_anomaly"].any()
    assert (cache.summary["score_quantile"].sel(quantile=0.95) > cache.summary["score_mean"]).all()
    with pytest.raises(GraduncError, match="no frame has class labels"):
        gv.evaluate(cache)
    assert main(["info", str(cache.path)]) == 0
    assert "0 frames" in capsys.readouterr().out
    done = gv.figures.figure_set(cache, tmp_path / "figures", format="png", dpi=40, progress=False)
    assert [file.stem for file in done.files] == ["panel_out"]
    assert all("no" in reason for _, reason in done.skipped)


@pytest.mark.parametrize("name", ["", "a b", "ä", "-a", "a/b", "x" * 65])
def test_names_of_external_scores_are_plain(tmp_path, frames, maps, name):
    with pytest.raises(UnknownScoreError):
        quiet(maps, frames, tmp_path / "out", name=name)


def test_external_scores_are_entries_that_no_network_computes():
    entry = lookup("ext:DenseHybrid")
    assert (entry.family, entry.orientation, entry.upper, entry.at_head) == ("external", 1, "", False)
    with pytest.raises(UnknownScoreError, match="imported"):
        resolve_scores("msp,ext:DenseHybrid")


@pytest.mark.parametrize("options", [{"on_error": "x"}, {"orientation": 0}, {"limit": 0}])
def test_wrong_arguments(tmp_path, frames, maps, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        quiet(maps, frames, tmp_path / "out", **options)


def test_two_caches_stand_in_one_table(tmp_path, tiny_set, tiny_cache):
    frames = gv.open_frames(tiny_set)
    maps = write_maps(tmp_path / "maps", {f: gv.score(tiny_cache[f], "entropy").values for f in tiny_cache})
    other = quiet(maps, frames, tmp_path / "theirs", name="method")
    table = gv.evaluate([tiny_cache, other], "anomaly", bootstrap=10)
    assert table.sizes["cache"] == 2
    assert list(table["score"].values) == [*tiny_cache.scores, "ext:method"]
    pixels = table.sel(pooling="pixels")
    theirs = float(pixels["auroc"].sel(cache="theirs", score="ext:method"))
    ours = float(pixels["auroc"].sel(cache=tiny_cache.name, score="entropy"))
    assert theirs == pytest.approx(ours, abs=2e-4)
    assert np.isnan(pixels["auroc"].sel(cache="theirs", score="entropy"))
    assert int(pixels["n_pixels"].sel(cache="theirs")) == int(pixels["n_pixels"].sel(cache=tiny_cache.name))


# --------------------------------------------------------------------------------------------------------------------
# edges and levels


@pytest.mark.parametrize("spread", ["normal", "beta", "ties"])
def test_edges_rise_and_no_bin_is_crowded(spread):
    random = np.random.default_rng(1)
    values = {
        "normal": random.normal(size=200_000),
        "beta": random.beta(0.2, 5, 200_000),
        "ties": np.maximum(random.normal(size=200_000), 0),
    }[spread].astype("f4")
    edges = bin_edges(np.sort(values))
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= IMPORT_BINS
    counted = np.bincount(np.searchsorted(edges, values, side="right"))
    alone = [len(np.unique(values[np.searchsorted(edges, values, side="right") == b])) for b in counted.argsort()[-1:]]
    assert np.sort(counted)[-2 if spread == "ties" else -1] < 2e-4 * len(values)
    assert spread != "ties" or alone == [1]


def test_few_distinct_values_get_a_bin_and_a_level_each():
    values = np.sort(np.random.default_rng(0).choice(np.linspace(-3, 5, 200, dtype="f4"), 10_000))
    np.testing.assert_array_equal(bin_edges(values), np.unique(values))
    halves = half_map(values)
    assert len(np.unique(halves(values))) == 200


def test_levels_are_float16_numbers_that_rise_and_stay_in_range():
    values = np.sort(np.random.default_rng(0).standard_cauchy(300_000).astype("f4"))
    half = half_map(values)
    out = half(np.r_[np.float32(-1e30), values, np.float32(1e30)])
    assert out.dtype == np.float16
    assert (np.diff(out.astype("f4")) >= 0).all()
    assert 0 < out.min() < 1e-4
    assert out.max() == 1
    assert 0.5 * HALF_LEVELS < len(np.unique(out)) <= HALF_LEVELS
    constant = half_map(np.zeros(5, "f4"))(np.zeros(2, "f4"))
    assert 0 < constant[0] == constant[1] < 1


# --------------------------------------------------------------------------------------------------------------------
# export


@pytest.mark.parametrize("name", ["pgn_oh_p0.1", "pgn_uni_p2_paper", "msp", "entropy", "margin"])
def test_submission_keeps_the_ranking_in_float16(tmp_path, tiny_set, tiny_cache, name):
    files = gv.write_submission(tiny_cache, name, tmp_path / "out", progress=False)
    assert [file.name for file in files] == [f"{frame}.hdf5" for frame in tiny_cache.ids]
    for file in files:
        with h5py.File(file) as opened:
            assert list(opened) == ["value"]
            assert opened["value"].dtype == np.float16
            assert opened["value"].shape == tiny_cache[file.stem]["prediction"].shape
    read = gv.read_submission(tmp_path / "out")
    before = np.concatenate([gv.score(tiny_cache[f], name).values.ravel() for f in tiny_cache])
    after = np.concatenate([read[f].ravel() for f in tiny_cache]).astype("f4")
    assert after.min() > 0
    assert after.max() <= 1
    # few pixels: every distinct score has its own number, and no order is lost
    _, rank_before = np.unique(before, return_inverse=True)
    _, rank_after = np.unique(after, return_inverse=True)
    np.testing.assert_array_equal(rank_before, rank_after)
    frames = gv.open_frames(tiny_set)
    maps = {f: gv.score(tiny_cache[f], name).values for f in tiny_cache}
    assert expected(frames, dict(read)) == pytest.approx(expected(frames, maps), abs=1e-12)


@pytest.mark.parametrize("rate", [0.002, 0.15])
def test_ranking_survives_where_there_are_more_scores_than_numbers(tmp_path, rate):
    frames = write_frames(tmp_path / "set", count=2, size=(400, 500), rate=rate)
    maps = {f.id: shifted(np.random.default_rng(5).normal(size=(400, 500)), f.anomaly) for f in frames}
    cache = quiet(write_maps(tmp_path / "maps", maps), frames, tmp_path / "cache")
    gv.write_submission(cache, "ext:maps", tmp_path / "out", progress=False)
    read = dict(gv.read_submission(tmp_path / "out"))
    wanted, measured = expected(frames, maps), expected(frames, read)
    for name, bound in (("auroc", 1e-5), ("auprc", 1e-4), ("fpr95", 2e-4)):  # the last steps by a number's pixels
        assert measured[name] == pytest.approx(wanted[name], abs=bound), name
    assert found(cache) == pytest.approx(wanted, abs=2e-4)
    pair = [np.concatenate([m[f.id].ravel() for f in frames]) for m in (maps, read)]
    order = np.argsort(pair[0], kind="stable")
    assert (np.diff(pair[1][order]) >= 0).all()
    assert spearmanr(*pair).statistic > 0.999999


def test_submission_of_some_frames_and_import_of_it(tmp_path, tiny_set, tiny_cache):
    gv.write_submission(tiny_cache, "entropy", tmp_path / "sub", frames=["f01", "f03"], progress=False)
    assert sorted(gv.read_submission(tmp_path / "sub")) == ["f01", "f03"]
    frames = gv.open_frames(tiny_set)
    with pytest.warns(UserWarning, match="2 frames were skipped"):
        cache = quiet(tmp_path / "sub", frames, tmp_path / "cache", name="sub", on_error="skip")
    some = found(tiny_cache, scores="entropy", frames=["f01", "f03"])
    assert found(cache) == pytest.approx(some, **FEW)
    assert cache[0]["pixel_score"].dtype == np.float16


def test_submission_replaces_its_own_files_and_nothing_else(tmp_path, tiny_cache):
    out = tmp_path / "out"
    gv.write_submission(tiny_cache, "entropy", out, progress=False)
    before = (out / "f00.hdf5").read_bytes()
    gv.write_submission(tiny_cache, "pgn_oh_p1", out, progress=False)
    assert (out / "f00.hdf5").read_bytes() != before
    with pytest.raises(CacheError, match=r"holds something else \(f01\.hdf5\)"):
        gv.write_submission(tiny_cache, "entropy", out, frames=["f00"], progress=False)
    with h5py.File(out / "f00.hdf5", "w") as file:
        file["value"] = np.zeros((2, 2))
    theirs = (out / "f00.hdf5").read_bytes()
    with pytest.raises(CacheError, match=r"holds something else \(f00\.hdf5\)"):
        gv.write_submission(tiny_cache, "entropy", out, progress=False)
    assert (out / "f00.hdf5").read_bytes() == theirs
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="is a file"):
        gv.write_submission(tiny_cache, "entropy", tmp_path / "file", progress=False)


def test_a_failed_write_leaves_nothing_half_written(tmp_path, tiny_cache, monkeypatch):
    from gradunc_viz.exchange import submission

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(submission.os, "replace", fail)
    with pytest.raises(CacheError, match="No space left"):
        gv.write_submission(tiny_cache, "entropy", tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_submissions(tmp_path, tiny_cache):
    with pytest.raises(UnknownScoreError):
        gv.write_submission(tiny_cache, "nonsense", tmp_path / "out", progress=False)
    with pytest.raises(GraduncError, match="no frame 'x'"):
        gv.write_submission(tiny_cache, "entropy", tmp_path / "out", frames=["x"], progress=False)
    with pytest.raises(GraduncError, match="no frame to submit"):
        gv.write_submission(tiny_cache, "entropy", tmp_path / "out", frames=[], progress=False)
    with pytest.raises(CacheError, match="not in the cache"):
        gv.write_submission(tiny_cache, "pgn_oh_p0.3", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_h5py_missing_is_said(tmp_path, tiny_cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(GraduncError, match=r"gradunc-viz\[interchange\]"):
        gv.write_submission(tiny_cache, "entropy", tmp_path / "out", progress=False)
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    assert MapFiles(tmp_path)["a"].shape == (2, 2)


# --------------------------------------------------------------------------------------------------------------------
# command line


def test_command_line_round_trip(tmp_path, tiny_set, tiny_cache, capsys):
    sub, out = tmp_path / "sub", tmp_path / "theirs"
    assert main(["submit", str(tiny_cache.path), "--score", "entropy", "--out", str(sub), "--quiet"]) == 0
    assert "wrote entropy of 4 frames" in capsys.readouterr().out
    arguments = ["import", str(sub), "--data", str(tiny_set), "--layout", "folder", "--out", str(out), "--quiet"]
    assert main([*arguments, "--name", "ours"]) == 0
    assert "computed 4 frames" in capsys.readouterr().out
    assert gv.open_cache(out).scores == ("ext:ours",)
    assert main(["info", str(out)]) == 0
    assert "ext:ours" in capsys.readouterr().out
    assert main([*arguments, "--name", "ours", "--smaller-is-uncertain"]) == 1
    assert "orientation.ext:ours was 1, now -1" in capsys.readouterr().err
    (sub / "f02.hdf5").unlink()
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps([{"id": i, "name": f"c{i}", "color": [i, i, i]} for i in range(4)]))
    predictions = write_predictions(tmp_path / "predictions", tiny_cache)
    more = ["--predictions", str(predictions), "--classes", str(classes), "--on-error", "skip"]
    arguments[arguments.index(str(out))] = str(tmp_path / "more")
    assert main([*arguments, *more]) == 3
    assert "skipped f02" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gv.evaluate(tmp_path / "more", "error", bootstrap=0)["n_frames"] == 3
    assert main(["submit", str(out), "--score", "nonsense", "--out", str(tmp_path / "x"), "--quiet"]) == 1
    assert "unknown score" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------------
# real data


@pytest.mark.real
@pytest.mark.slow
def test_real_scores_survive_both_ways(real_data, tmp_path):
    net = gv.load_model(
        f"{real_data / 'enet.py'}:load_enet", weights=real_data / "enet_cityscapes.pth", drop_channels=(19,)
    )
    for folder in ("dataset_AnomalyTrack", "dataset_ObstacleTrack"):
        frames = gv.open_frames(real_data / folder, "smiyc")[:2]
        scores = ("entropy", "pgn_oh_p0.1")
        cache = gv.compute(net, frames, tmp_path / folder, scores=scores, input_size=(512, 1024), progress=False)
        for name in scores:
            maps = {f.id: gv.score(cache[f.id], name).values for f in frames}
            wanted = expected(frames, maps)
            gv.write_submission(cache, name, tmp_path / f"{folder}-{name}", progress=False)
            read = dict(gv.read_submission(tmp_path / f"{folder}-{name}"))
            kept = expected(frames, read)
            source = write_maps(tmp_path / f"{folder}-{name}-maps", maps)
            imported = quiet(source, frames, tmp_path / f"{folder}-{name}-cache", name=name)
            measured = found(imported)
            for metric, value in wanted.items():
                print(folder, name, metric, f"{kept[metric] - value:.1e} {measured[metric] - value:.1e}")
                assert kept[metric] == pytest.approx(value, abs=1e-4)
                assert measured[metric] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("maps", [3, [3], {"a": 3}, None])
def test_what_is_no_folder_of_maps(maps, tmp_path):
    with pytest.raises(SettingsError, match=r"(3|None) is no path; expected folders of maps"):
        gv.import_maps(maps, [], tmp_path / "c")

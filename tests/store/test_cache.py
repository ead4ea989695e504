"""What is on disk: round trips, resuming, damage, other writers."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr.storage
from foreign import litter
from frame_files import as_folders, copy_frame, unpacked
from PIL import Image
from tiny import SCORES, TinyNet
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.datasets.decoding import read_image
from gradunc_viz.schema.errors import CacheError, CacheMismatchError, GraduncError, UnknownFrameError, UnknownScoreError
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.gradients import gradient_norms
from gradunc_viz.store import cache as cache_module
from gradunc_viz.store.cache import open_cache
from gradunc_viz.store.checksums import CheckedStore
from gradunc_viz.store.frame import class_probabilities, decode_image
from gradunc_viz.store.group import open_complete
from gradunc_viz.store.local import LocalBackend
from gradunc_viz.store.summary import build_summary, publish_summary
from gradunc_viz.store.writer import CacheWriter


def writer_like(cache: gv.Cache, path: Path, **settings) -> CacheWriter:
    key = {**cache.key, "settings": {**cache.key["settings"], **settings}}
    return CacheWriter(path, key, cache.classes, cache.colors)


def copy_of(cache: gv.Cache, path: Path) -> Path:
    return Path(shutil.copytree(cache.path, path))


def in_memory(cache: gv.Cache, frame: int | str = 0, frame_id: str | None = None) -> xr.Dataset:
    dataset = cache[frame].load()
    return dataset if frame_id is None else dataset.assign_attrs(frame_id=frame_id)


def staged(path: Path) -> list[Path]:
    """What is being written."""
    return list(path.rglob("*.part"))


# ----------------------------------------------------------------------------------------------------------
# round trips


@pytest.mark.parametrize("frame_id", ["f00", "summary", "frames", "zarr", "a b.c", "größe", "x" * 200])
def test_a_frame_comes_back_value_for_value(tiny_cache, tmp_path, frame_id):
    dataset = in_memory(tiny_cache, 0, frame_id)
    with writer_like(tiny_cache, tmp_path / "c") as writer:
        assert writer.commit(dataset)
    again = open_cache(tmp_path / "c")
    assert again.ids == (frame_id,)
    xr.testing.assert_identical(again[frame_id].load(), dataset)
    assert again.summary.sizes["frame"] == 1
    for name, variable in dataset.variables.items():
        assert again[0][name].dtype == variable.dtype


def test_ids_stay_uint8_with_255_for_ignore(tiny_cache):
    frame = tiny_cache[0]
    for name in ("prediction", "label", "anomaly"):
        assert frame[name].dtype == np.uint8
    assert 255 in frame["label"].values
    assert 255 in frame["anomaly"].values
    assert set(np.unique(frame["prediction"].values)) <= {0, 1, 2, 3}


def test_labels_are_those_of_the_files(tiny_cache, tiny_set):
    for frame in gv.open_frames(tiny_set):
        np.testing.assert_array_equal(tiny_cache[frame.id]["label"].values, frame.label)
        np.testing.assert_array_equal(tiny_cache[frame.id]["anomaly"].values, frame.anomaly)


def test_a_cache_holds_its_images(tiny_cache, tiny_set, tmp_path):
    moved = copy_of(tiny_cache, tmp_path / "moved")
    for frame in gv.open_frames(tiny_set):
        dataset = open_cache(moved)[frame.id]
        assert dataset["image"].values.tobytes() == frame.image_path.read_bytes()
        np.testing.assert_array_equal(decode_image(dataset), frame.image)


def test_plain_xarray_reads_a_frame(tiny_cache):
    for frame_id in tiny_cache.ids:
        with zarr.storage.ZipStore(str(tiny_cache.path / f"frames/{frame_id}.zip"), mode="r") as store:
            read = xr.open_zarr(store, consolidated=False, chunks=None).load()
        del read.attrs["stored"]
        xr.testing.assert_identical(read, tiny_cache[frame_id].load())


def test_a_frame_is_lazy(tiny_cache, monkeypatch):
    frame, read = tiny_cache[0], []
    whole = CheckedStore.read
    monkeypatch.setattr(CheckedStore, "read", lambda self, name: [read.append(name), whole(self, name)][1])
    frame["head_score"].isel(score_head=1).load()
    assert read == ["head_score/c.1.0.0"]


# ----------------------------------------------------------------------------------------------------------
# a mapping of frames


def test_a_cache_is_a_mapping(tiny_cache):
    assert list(tiny_cache) == ["f00", "f01", "f02", "f03"] == list(tiny_cache.ids)
    assert "f01" in tiny_cache
    assert "f9" not in tiny_cache
    assert 1 not in tiny_cache
    assert tiny_cache[-1].attrs["frame_id"] == "f03"
    assert tiny_cache[np.int64(2)].attrs["frame_id"] == "f02"
    assert tiny_cache.get("f9") is None
    assert tiny_cache.scores == SCORES
    assert "4 frames" in repr(tiny_cache)


def test_a_frame_that_is_not_there_is_named_with_those_alike(tiny_cache):
    for error in (KeyError, GraduncError):
        with pytest.raises(error, match=r"cache: no frame 'f0l' among its 4 frames; did you mean .*'f01'"):
            tiny_cache["f0l"]
    for ask in (tiny_cache.thumbnail, tiny_cache.frame_version, lambda name: tiny_cache.read(name, ["score"])):
        with pytest.raises(UnknownFrameError, match=r"no frame 'zzz' among its 4 frames$"):
            ask("zzz")
    error = pickle.loads(pickle.dumps(UnknownFrameError("c", 3.5, ("a",))))
    assert str(error) == "c: no frame 3.5 among its 1 frames"


@pytest.mark.parametrize("frame_id", ["../f00", "..", "", ".", "f00/", "../frames/f00", "/etc", "f00\0", "../summary"])
def test_a_hostile_id_is_no_frame(tiny_cache, frame_id):
    with pytest.raises(KeyError, match="no frame"):
        tiny_cache[frame_id]
    assert frame_id not in tiny_cache


@pytest.mark.parametrize("frame_id", ["../x", "a/b", "", ".hidden", "__x", "zarr.json", "x" * 201, "a\nb"])
def test_a_hostile_id_is_not_written(tiny_cache, tmp_path, frame_id):
    with (
        writer_like(tiny_cache, tmp_path / "c") as writer,
        pytest.raises(gv.GraduncError, match="cannot name a group"),
    ):
        writer.commit(in_memory(tiny_cache, 0, frame_id))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]
    assert len(open_cache(tmp_path / "c")) == 0


@pytest.mark.slow
def test_opening_a_thousand_frames_opens_none_of_them(tiny_cache, tmp_path, opened_files):
    path = copy_of(tiny_cache, tmp_path / "many")
    (path / "summary.zip").unlink()
    for i in range(1000):
        copy_frame(tiny_cache.path / "frames" / "f00", path / "frames" / f"g{i:04}")
    opened_files.clear()
    cache = open_cache(path)
    assert len(cache) == 1004
    assert [name for name in opened_files if str(path) in name] == [str(path / "zarr.json")]
    opened_files.clear()
    assert cache["g0500"].attrs["frame_id"] == "g0500"
    assert cache[4 + 7].attrs["frame_id"] == "g0007"
    touched = {name[len(str(path)) :].split("/")[2] for name in opened_files if name.startswith(str(path))}
    assert touched == {"g0500.zip", "g0007.zip"}


def test_a_cache_names_the_head_that_was_found(tiny_cache, tiny_set, tmp_path):
    assert tiny_cache.key["network"]["head"] == "auto"
    assert tiny_cache.head == "classifier: Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1))"
    assert "classifier: Conv2d(6, 4" in tiny_cache._repr_html_()
    writer_like(tiny_cache, tmp_path / "empty")
    assert open_cache(tmp_path / "empty").head is None
    with writer_like(tiny_cache, tmp_path / "older") as writer:
        older = in_memory(tiny_cache, "f00")
        del older.attrs["head_layer"]
        writer.commit(older)
    assert open_cache(tmp_path / "older").head == "classifier"
    with unpacked(tmp_path / "older/frames/f00") as files:
        (files / "prediction/zarr.json").unlink()
    assert open_cache(tmp_path / "older").head is None
    for frame in tiny_cache:
        np.save(tmp_path / f"{frame}.npy", np.random.default_rng(0).random(tiny_cache[frame]["prediction"].shape))
    imported = gv.import_maps(tmp_path, gv.open_frames(tiny_set), tmp_path / "imported", progress=False)
    assert imported.head is None


# ----------------------------------------------------------------------------------------------------------
# scores


@pytest.fixture(scope="module")
def recomputed(tiny_set):
    """Logits and features of the tiny network per frame."""
    net = TinyNet().eval()
    found = {}
    with torch.no_grad():
        for frame in gv.open_frames(tiny_set):
            x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255
            features = F.softplus(net.body(x))
            found[frame.id] = net.classifier(features), features, frame.image.shape[:2]
    return net.classifier, found


def resized_score(layer, logits, features, size, name):
    entry = lookup(name)
    if entry.at_head:
        norms = gradient_norms(logits, features, layer, p=entry.p, labels=entry.label, variant=entry.variant)
        values = F.interpolate(norms.double().exp2(), size, mode="bilinear", align_corners=False).log2()[0, 0]
    else:
        values = lookup(name).function(F.interpolate(logits, size, mode="bilinear", align_corners=False))[0]
    return values.numpy() * entry.orientation


@pytest.mark.parametrize("name", SCORES)
def test_cached_scores_are_those_of_the_network(tiny_cache, recomputed, name):
    layer, found = recomputed
    for frame_id, (logits, features, size) in found.items():
        score = gv.score(tiny_cache[frame_id], name)
        assert score.dims == ("y", "x")
        assert score.dtype == np.float32
        assert score.attrs["units"] == lookup(name).units
        wanted = resized_score(layer, logits, features, size, name)
        # a step of 2^-9 for log2 norms, of float16 for the others
        np.testing.assert_allclose(score.values, wanted, rtol=6e-4, atol=2.0**-10 + 1e-4)


@pytest.mark.parametrize("name", ["margin", "energy", "max_logit"])
def test_scores_that_were_not_cached_follow_from_the_logits(tiny_cache, recomputed, name):
    layer, found = recomputed
    for frame_id, (logits, features, size) in found.items():
        wanted = resized_score(layer, logits, features, size, name)
        np.testing.assert_allclose(gv.score(tiny_cache[frame_id], name).values, wanted, rtol=2e-3, atol=5e-3)


def test_uncached_and_cached_agree(tiny_cache):
    frame = tiny_cache[0]
    for name in ("msp", "entropy"):
        from_logits = gv.score(frame.drop_vars(["pixel_score", "score_pixel"]), name)
        np.testing.assert_allclose(from_logits, gv.score(frame, name), atol=5e-3)


def test_a_norm_that_was_not_computed_is_an_error(tiny_cache):
    with pytest.raises(CacheError, match=r"'pgn_oh_p2' is not in the cache, which has pgn_oh_p0\.1, pgn_oh_p1"):
        gv.score(tiny_cache[0], "pgn_oh_p2")


def test_an_unknown_score_offers_others(tiny_cache):
    with pytest.raises(UnknownScoreError, match="did you mean entropy"):
        gv.score(tiny_cache[0], "entrophy")


def test_probabilities_of_a_pixel(tiny_cache, recomputed):
    logits, _, size = recomputed[1]["f01"]
    wanted = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)[0]
    found = class_probabilities(tiny_cache["f01"], 40, 56)
    np.testing.assert_allclose(found, wanted[:, 40, 56], atol=5e-3)
    assert list(found["class"].values) == list(tiny_cache.classes)
    with pytest.raises(GraduncError, match=r"\(41, 0\) lies outside the image of 41 x 57"):
        class_probabilities(tiny_cache["f01"], 41, 0)


# ----------------------------------------------------------------------------------------------------------
# the summary


def check_summary(cache: gv.Cache) -> None:
    table = cache.summary
    assert list(table["frame"].values) == list(cache.ids)
    for frame_id in cache.ids:
        frame, row = cache[frame_id], table.sel(frame=frame_id)
        assert (int(row["height"]), int(row["width"])) == (frame.sizes["y"], frame.sizes["x"])
        for name in cache.scores:
            score = gv.score(frame, name).values
            assert float(row["score_mean"].sel(score=name)) == pytest.approx(score.mean(), rel=1e-3, abs=1e-3)
            quantiles = np.quantile(score, table["quantile"])
            # between two values of one bin a quantile is interpolated
            width = 1 / 64 if lookup(name).at_head else 0.03
            np.testing.assert_allclose(row["score_quantile"].sel(score=name), quantiles, atol=width)
        label, prediction = frame["label"].values, frame["prediction"].values
        known = label != 255
        assert int(row["labelled_count"]) == known.sum()
        assert int(row["wrong_count"]) == (prediction != label)[known].sum()
        assert float(row["error_rate"]) == pytest.approx((prediction != label)[known].mean())
        pairs = np.zeros((4, 4), int)
        np.add.at(pairs, (label[known], prediction[known]), 1)
        np.testing.assert_array_equal(row["confusion"], pairs)
        anomaly = frame["anomaly"].values
        assert int(row["anomaly_count"]) == (anomaly == 1).sum()
        assert int(row["known_count"]) == (anomaly == 0).sum()
        assert float(row["anomaly_rate"]) == pytest.approx((anomaly == 1).sum() / (anomaly != 255).sum())


def test_the_summary_is_right(tiny_cache):
    check_summary(tiny_cache)


def test_the_summary_is_stored_and_not_built_twice(tiny_cache, monkeypatch):
    monkeypatch.setattr(cache_module, "build_summary", lambda *_: pytest.fail("built again"))
    assert open_cache(tiny_cache.path).summary.sizes["frame"] == 4


def damage_nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_metadata(folder: Path) -> None:
    (folder / "zarr.json").write_text("{")


def damage_chunk(folder: Path) -> None:
    chunk = folder / "score_mean" / "c.0.0"
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)


def lose_chunk(folder: Path) -> None:
    (folder / "score_mean" / "c.0.0").unlink()


@pytest.mark.parametrize("damage", [damage_nothing, damage_metadata, damage_chunk, lose_chunk])
def test_a_missing_or_damaged_summary_is_built_again(tiny_cache, tmp_path, damage):
    path = copy_of(tiny_cache, tmp_path / "c")
    with unpacked(path / "summary") as files:
        damage(files)
    check_summary(open_cache(path))
    xr.testing.assert_identical(
        open_complete(LocalBackend(path), "summary").load().drop_attrs(deep=False),
        tiny_cache.summary.drop_attrs(deep=False),
    )


def test_a_stale_summary_is_built_again(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    (path / "frames" / "f02.zip").unlink()
    cache = open_cache(path)
    check_summary(cache)
    assert cache.ids == ("f00", "f01", "f03")


def test_a_frame_replaced_by_hand_makes_the_summary_stale(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    (path / "frames" / "f02.zip").unlink()
    with writer_like(tiny_cache, path) as writer:
        writer.commit(in_memory(tiny_cache, "f00", "f02"))
    check_summary(open_cache(path))


def test_a_cache_that_cannot_be_written_is_read_all_the_same(tiny_cache, tmp_path, monkeypatch):
    path = copy_of(tiny_cache, tmp_path / "c")
    (path / "summary.zip").unlink()

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    check_summary(open_cache(path))
    monkeypatch.setattr(Path, "mkdir", refuse)
    check_summary(open_cache(path))
    assert not (path / "summary.zip").exists()


def test_an_empty_cache_has_an_empty_summary(tiny_cache, tmp_path):
    with writer_like(tiny_cache, tmp_path / "c"):
        pass
    for _ in range(2):
        assert open_cache(tmp_path / "c").summary.sizes["frame"] == 0


# ----------------------------------------------------------------------------------------------------------
# what is no cache, or another one


def test_what_is_no_cache(tmp_path):
    with pytest.raises(CacheError, match="no such folder"):
        open_cache(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="not a gradunc-viz cache"):
        open_cache(tmp_path / "file")
    with pytest.raises(CacheError, match="not a gradunc-viz cache"):
        open_cache(tmp_path)
    zarr.create_group(tmp_path / "other", zarr_format=3, attributes={"kind": "photos", "key": {"schema_version": 1}})
    with pytest.raises(CacheError, match="kind is 'photos', expected 'gradunc-viz cache'"):
        open_cache(tmp_path / "other")
    (tmp_path / "other" / "zarr.json").write_text("[1, 2]")
    with pytest.raises(CacheError, match="not a gradunc-viz cache"):
        open_cache(tmp_path / "other")
    (tmp_path / "other" / "zarr.json").write_text('{"attributes": ')
    with pytest.raises(CacheError, match=r"zarr\.json: damaged, no JSON"):
        open_cache(tmp_path / "other")


def set_version(path: Path, version: int) -> None:
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["key"]["schema_version"] = version
    file.write_text(json.dumps(root))


def test_another_schema_version_is_refused(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    set_version(path, 7)
    with pytest.raises(CacheError, match="schema version is 7, expected 3"):
        open_cache(path)
    with pytest.raises(CacheError, match="schema version is 7, expected 3"):
        writer_like(tiny_cache, path)


@pytest.mark.parametrize("place", [3, None, 1.5])
def test_what_is_no_place_of_a_cache_is_named(place):
    for use in (open_cache, gv.evaluate, gv.explore):
        with pytest.raises(CacheError, match=re.escape(f"{place!r} of type")):
            use(place)


def test_output_that_is_taken(tiny_cache, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="is a file"):
        writer_like(tiny_cache, tmp_path / "file")
    with pytest.raises(CacheError, match="cannot be written"):
        writer_like(tiny_cache, tmp_path / "file" / "below")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    with pytest.raises(CacheError, match=r"holds something else \(a\.jpg\)"):
        writer_like(tiny_cache, tmp_path / "photos")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "photos"]


def test_an_empty_folder_becomes_a_cache(tiny_cache, tmp_path):
    (tmp_path / "c").mkdir()
    writer_like(tiny_cache, tmp_path / "c")
    assert open_cache(tmp_path / "c").classes == tiny_cache.classes
    writer_like(tiny_cache, tmp_path / "a" / "b" / "c")
    assert len(open_cache(tmp_path / "a" / "b" / "c")) == 0


def test_other_settings_are_named(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    with pytest.raises(CacheMismatchError, match=r"settings\.input_size was None, now 32,64; choose another folder"):
        writer_like(tiny_cache, path, input_size=(32, 64))
    with pytest.raises(
        CacheMismatchError, match=r"settings\.bias was False, now True; settings\.scores was .*, now msp"
    ):
        writer_like(tiny_cache, path, scores=["msp"], bias=True)


def test_a_cache_without_frames_is_taken_over(tiny_cache, tmp_path):
    for _ in range(2):  # killed before its first frame: no end of a context
        writer_like(tiny_cache, tmp_path / "c", bias=True)
    assert open_cache(tmp_path / "c").summary.sizes["frame"] == 0
    with writer_like(tiny_cache, tmp_path / "c", scores=["msp"]) as writer:
        with pytest.raises(CacheMismatchError, match=r"is being .* settings\.scores was msp.*another run"):
            writer_like(tiny_cache, tmp_path / "c")
        assert writer.existing == set()
    assert open_cache(tmp_path / "c").scores == ("msp",)
    with writer_like(tiny_cache, tmp_path / "c") as writer:
        assert writer.commit(in_memory(tiny_cache, "f00"))
    with pytest.raises(CacheMismatchError, match=r"settings\.bias"):
        writer_like(tiny_cache, tmp_path / "c", bias=True)
    xr.testing.assert_identical(open_cache(tmp_path / "c")["f00"].load(), tiny_cache["f00"].load())


def test_a_folder_in_the_way_of_a_frame_is_named(tiny_cache, tmp_path):
    with writer_like(tiny_cache, tmp_path / "c") as writer:
        (tmp_path / "c/frames/f00.zip").mkdir()
        (tmp_path / "c/frames/f00.zip/notes.txt").write_text("mine")
        with pytest.raises(CacheError, match=r"f00\.zip: is in the way"):
            writer.commit(in_memory(tiny_cache, "f00"))
    assert (tmp_path / "c/frames/f00.zip/notes.txt").read_text() == "mine"


def test_foreign_files_in_every_folder_change_nothing(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    litter(path)
    cache = open_cache(path)
    assert cache.ids == tiny_cache.ids
    for frame in cache:
        xr.testing.assert_identical(cache[frame].load(), tiny_cache[frame].load())
        assert cache.thumbnail(frame) == tiny_cache.thumbnail(frame)
    xr.testing.assert_identical(cache.summary, tiny_cache.summary)
    (path / "summary.zip").unlink()
    xr.testing.assert_identical(open_cache(path).summary, tiny_cache.summary)
    writer_like(tiny_cache, path)
    assert open_cache(path).ids == tiny_cache.ids


def test_frames_sort_as_people_count(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    with writer_like(tiny_cache, path) as writer:
        for name in ("f10", "f4", "f100", "g"):
            writer.commit(in_memory(tiny_cache, 0, name))
    expected = ("f00", "f01", "f02", "f03", "f4", "f10", "f100", "g")
    assert open_cache(path).ids == expected
    # the table of a cache that was written in another order is made anew
    table = build_summary(LocalBackend(path), tuple(sorted(expected)), tiny_cache.scores, tiny_cache.classes)
    publish_summary(LocalBackend(path), table)
    assert tuple(open_cache(path).summary["frame"].values) == expected
    assert tuple(gv.evaluate(path, "error", by="frame", bootstrap=0)["frame"].values) == expected


# ----------------------------------------------------------------------------------------------------------
# writing goes wrong


@pytest.fixture
def disk(monkeypatch):
    """A disk whose writes may fail: ``disk(error, call)``, by one of the calls that put a file in place."""

    def arm(number: int | None, call: str = "fsync") -> None:
        def fail(*_args, **_kwargs):
            raise OSError(number, os.strerror(number))

        for name, own in calls.items():
            monkeypatch.setattr(os, name, own if number is None or name != call else fail)

    calls = {name: getattr(os, name) for name in ("fsync", "link", "replace")}
    return arm


@pytest.mark.parametrize("after", ["fsync", "link"])
@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "cannot be written")],
)
def test_a_write_that_fails_loses_only_its_frame(tiny_cache, tmp_path, disk, number, text, after):
    path = tmp_path / "c"
    with writer_like(tiny_cache, path) as writer:
        writer.commit(in_memory(tiny_cache, "f00"))
        disk(number, after)
        with pytest.raises(CacheError, match=text) as raised:
            writer.commit(in_memory(tiny_cache, "f01"))
        assert "\n" not in str(raised.value)
        assert not staged(path)
        disk(None)
        assert writer.commit(in_memory(tiny_cache, "f02"))
    assert not (path / ".writers").exists()
    cache = open_cache(path)
    assert cache.ids == ("f00", "f02")
    xr.testing.assert_identical(cache["f00"].load(), tiny_cache["f00"].load())
    with writer_like(tiny_cache, path) as writer:
        assert writer.existing == {"f00", "f02"}
        assert writer.commit(in_memory(tiny_cache, "f01"))


def test_no_place_for_a_cache(tiny_cache, tmp_path, disk):
    disk(errno.ENOSPC)
    with pytest.raises(CacheError, match="the disk is full"):
        writer_like(tiny_cache, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_no_permission_beside_a_cache(tiny_cache, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    path = copy_of(tiny_cache, tmp_path / "c")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CacheError, match="no permission to write there"), writer_like(tiny_cache, path):
        pass
    with pytest.raises(CacheError, match="no permission to write there"):
        writer_like(tiny_cache, tmp_path / "new")


def test_nothing_is_written_beside_a_cache(tiny_cache, tmp_path, monkeypatch):
    """It may be a mount point, or lie in a folder of somebody else; its frames may lie on another disk."""
    (tmp_path / "disk").mkdir()
    path = tmp_path / "c"
    path.mkdir()
    (path / "frames").symlink_to(tmp_path / "disk")
    folders = set()
    for name in ("link", "replace"):
        own = getattr(os, name)

        def put(source, target, own=own, **options):
            assert Path(source).parent == Path(target).parent
            folders.add(Path(target).parent)
            return own(source, target, **options)

        monkeypatch.setattr(os, name, put)
    with writer_like(tiny_cache, path) as writer:
        assert writer.commit(in_memory(tiny_cache, "f00"))
    assert folders == {path, path / "frames"}
    assert open_cache(path).ids == ("f00",)


def test_a_frame_that_does_not_fit_the_schema_is_not_written(tiny_cache, tmp_path):
    with (
        writer_like(tiny_cache, tmp_path / "c") as writer,
        pytest.raises(gv.GraduncError, match="'prediction' is missing"),
    ):
        writer.commit(in_memory(tiny_cache).drop_vars("prediction"))
    assert len(open_cache(tmp_path / "c")) == 0


# ----------------------------------------------------------------------------------------------------------
# other writers


def test_the_second_writer_of_a_frame_learns_that_it_lost(tiny_cache, tmp_path):
    path = tmp_path / "c"
    with writer_like(tiny_cache, path) as one, writer_like(tiny_cache, path) as two:
        assert one.commit(in_memory(tiny_cache, "f00"))
        other = in_memory(tiny_cache, "f01", "f00")
        assert not two.commit(other)
        assert two.commit(in_memory(tiny_cache, "f01"))
        assert not staged(path)
    assert not (path / ".writers").exists()
    xr.testing.assert_identical(open_cache(path)["f00"].load(), tiny_cache["f00"].load())


def test_leftovers_are_not_frames(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    (path / "frames" / ".ipynb_checkpoints").mkdir()
    (path / "frames" / "notes.txt").write_text("")
    assert open_cache(path).ids == tiny_cache.ids


# ----------------------------------------------------------------------------------------------------------
# damage


@pytest.mark.parametrize("lost", ["counts/c.0.0.2.0", "score/c.0", "logits/zarr.json", "anomaly_count/c", "image"])
def test_a_lost_file_is_noticed(tiny_cache, tmp_path, lost):
    path = copy_of(tiny_cache, tmp_path / "c")
    (path / "summary.zip").unlink()
    with unpacked(path / "frames" / "f01") as files:
        victim = files / lost
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    cache = open_cache(path)
    cache["f00"].load()
    with pytest.raises(CacheError, match=r"f01: damaged, holds \d+ files"):
        cache["f01"]
    with pytest.raises(CacheError, match="f01"):
        _ = cache.summary
    with pytest.raises(CacheError, match="--repair"):
        writer_like(tiny_cache, path).frame_digest("f01")


def test_a_truncated_file_is_noticed(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    with unpacked(path / "frames" / "f01") as files:
        chunk = files / "prediction" / "c.0.0"
        os.truncate(chunk, chunk.stat().st_size - 1)
    with pytest.raises(CacheError, match="damaged, holds"):
        open_cache(path)["f01"]
    for size in (0, 10, 5000):
        os.truncate(path / "frames/f01.zip", size)
        with pytest.raises(CacheError, match=r"frames/f01.*: damaged"):
            open_cache(path)["f01"]


def test_files_of_others_are_no_damage(tiny_cache, tmp_path):
    path = copy_of(tiny_cache, tmp_path / "c")
    as_folders(path)
    for name in ("prediction/.DS_Store", "prediction/._c.0.0"):
        (path / "frames" / "f01" / name).write_text("x")
    xr.testing.assert_identical(open_cache(path)["f01"].load(), tiny_cache["f01"].load())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"zarr_format": 3, "node_type": "group"}'])
def test_a_frame_with_damaged_metadata_is_named(tiny_cache, tmp_path, text):
    path = copy_of(tiny_cache, tmp_path / "c")
    with unpacked(path / "frames" / "f01") as files:
        (files / "zarr.json").write_text(text)
    with pytest.raises(CacheError, match="f01"):
        open_cache(path)["f01"]


def test_a_damaged_image_is_named(tiny_cache):
    frame = in_memory(tiny_cache)
    frame["image"].values[:] = 0
    with pytest.raises(CacheError, match="frame 'f00': its image cannot be decoded"):
        decode_image(frame)


def test_without_images_the_thumbnail_is_enlarged(tiny_cache):
    frame = tiny_cache[0]
    picture = decode_image(frame.drop_vars("image"))
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    assert abs(picture.mean() - decode_image(frame).mean()) < 3


def test_exif_orientation_is_applied(tiny_cache):
    import io

    stored = Image.fromarray(np.arange(48 * 64 * 3, dtype="u1").reshape(64, 48, 3))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    frame = in_memory(tiny_cache).drop_vars("image")
    frame["image"] = ("image_byte", np.frombuffer(buffer.getvalue(), "u1"))
    np.testing.assert_array_equal(decode_image(frame), np.rot90(np.asarray(stored), -1))


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", "u1"), ("png", "u2"), ("tif", "u2"), ("tif", "i4"), ("tif", "f4")]
)
def test_an_image_is_shown_as_it_was_read(tiny_cache, tmp_path, suffix, dtype):
    shades = np.linspace(0, {"u1": 255, "f4": 1}.get(dtype, 65535), 48 * 64).reshape(48, 64).astype(dtype)
    Image.fromarray(shades).save(tmp_path / f"a.{suffix}")
    frame = in_memory(tiny_cache).drop_vars("image")
    frame["image"] = ("image_byte", np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), "u1"))
    shown = decode_image(frame)
    np.testing.assert_array_equal(shown, read_image(tmp_path / f"a.{suffix}"))
    assert abs(shown.mean() - 127.5) < 1


def test_small_variables_are_read_without_the_rest(tiny_cache: gv.Cache) -> None:
    frame, scores = tiny_cache.ids[0], tiny_cache.scores
    whole = tiny_cache[frame]
    names = ("score", "outcome", "counts", "bin_min", "not_there")
    found = tiny_cache.read(frame, names)
    assert set(found.variables) == set(names) - {"not_there"}
    for chosen in (scores[::-1], scores[1:2], ()):
        some = tiny_cache.read(frame, names, chosen)
        xr.testing.assert_equal(
            some["counts"].drop_vars(["class"], errors="ignore"),
            (whole["counts"].sel(score=list(chosen)).drop_vars([n for n in whole["counts"].coords if n not in some])),
        )
        assert list(some["score"].values) == list(chosen)
    with pytest.raises(KeyError, match="nowhere"):
        tiny_cache.read("nowhere", names)


def test_reading_tells_of_damage(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_cache.path, copy)
    frame = tiny_cache.ids[0]
    with unpacked(copy / "frames" / frame) as files:
        next((files / "counts").glob("c*")).write_bytes(b"")
    with pytest.raises(CacheError, match=frame):
        gv.open_cache(copy).read(frame, ("counts",))

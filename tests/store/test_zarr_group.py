"""Groups made in memory are what zarr and xarray would have written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
import zarr

from gradunc_viz.store.zarr_group import group_files

DTYPES = ("u1", "u2", "u4", "i4", "i8", "f2", "f4", "f8", "?")


def stored(dataset, folder, **options):
    for name, content in group_files(dataset, **{"single": {}, "plain": frozenset(), "fill": {}, **options}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return xr.open_zarr(folder, consolidated=False, chunks=None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4), (0, 4)])
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    values = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    dims = ("a", "b", "c")[: len(shape)]
    dataset = xr.Dataset({"v": (dims, values, {"long_name": "some"})}, attrs={"n": np.int64(3), "nested": {"x": [1]}})
    found = stored(dataset, tmp_path / "g")
    assert found["v"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found["v"].values, values)
    assert found["v"].attrs == {"long_name": "some"}
    assert found.attrs.pop("stored")["files"] == (1 if 0 in shape else 2)
    assert found.attrs == {"n": 3, "nested": {"x": [1]}}


def test_metadata_are_those_of_zarr(tmp_path):
    values = np.arange(24, dtype="f4").reshape(2, 3, 4)
    dataset = xr.Dataset({"v": (("s", "y", "x"), values)}, coords={"s": np.array(["één", "two"], object)})
    stored(dataset, tmp_path / "ours", single={"v": ("s",)}, fill={"v": 255})
    ours = json.loads((tmp_path / "ours/v/zarr.json").read_text())
    group = zarr.create_group(tmp_path / "theirs")
    codec = zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=4)
    array = group.create_array(
        "v",
        shape=values.shape,
        dtype="f4",
        chunks=(1, 3, 4),
        compressors=[codec],
        fill_value=255,
        dimension_names=("s", "y", "x"),
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    array[:] = values
    assert ours == json.loads((tmp_path / "theirs/v/zarr.json").read_text())
    for chunk in ("c.0.0.0", "c.1.0.0"):
        assert (tmp_path / "ours/v" / chunk).read_bytes() == (tmp_path / "theirs/v" / chunk).read_bytes()


def test_names_come_back_and_are_made_once(tmp_path):
    names = np.array(["road", "ciel à l'ouest", ""], dtype=object)
    dataset = xr.Dataset({"v": ("class", np.arange(3))}, coords={"class": names})
    for place in ("one", "two"):
        assert stored(dataset, tmp_path / place)["class"].values.tolist() == names.tolist()


def test_chunks_that_hold_the_fill_value_are_written(tmp_path):
    dataset = xr.Dataset({"v": (("s", "x"), np.zeros((2, 3), "u1"))})
    stored(dataset, tmp_path / "g", single={"v": ("s",)})
    assert sorted(file.name for file in (tmp_path / "g/v").iterdir()) == ["c.0.0", "c.1.0", "zarr.json"]


def test_what_is_compressed_already_stays_as_it_is(tmp_path):
    values = np.frombuffer(b"JPEG" * 100, "u1")
    stored(xr.Dataset({"image": ("byte", values)}), tmp_path / "g", plain=frozenset(["image"]))
    assert (tmp_path / "g/image/c.0").read_bytes() == b"JPEG" * 100

"""A cache describes scores of one's own, opens where nobody registered them, and older ones are brought up to that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from frame_files import as_folders, members

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.metrics.meta import feature_table
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.schema.scores import SCORES, Score, lookup, register


def gini(logits: torch.Tensor) -> torch.Tensor:
    return 1 - logits.softmax(1).square().sum(1)


OWN = Score("mine_gini", "mine", +1, "1", "1 - sum_c pi_c^2", r"Gini $G$", "here", compute=gini, upper="1")
DESCRIPTION = {
    "name": "mine_gini", "family": "mine", "orientation": 1, "units": "1", "formula": "1 - sum_c pi_c^2",
    "title": r"Gini $G$", "source": "here", "at": "pixel", "lattice": "uniform", "upper": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tiny_cache: gv.Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a score of one's own, as any map of the image's size."""
    from gradunc_viz.store.writer import CacheWriter

    path = tmp_path_factory.mktemp("own") / "cache"
    register(OWN)
    names = {"pgn_oh_p0.1": "pgn_oh_p0.1", "msp": "mine_gini"}
    key = {**tiny_cache.key, "settings": {**tiny_cache.key["settings"], "scores": list(names.values())}}
    with CacheWriter(path, key, tiny_cache.classes, tiny_cache.colors) as writer:
        for frame in tiny_cache.values():
            own = frame.load().sel(score=list(names), score_head=["pgn_oh_p0.1"], score_pixel=["msp"])
            writer.commit(
                own.assign_coords(
                    score=np.array(list(names.values()), object), score_pixel=np.array(["mine_gini"], object)
                )
            )
    del SCORES["mine_gini"]
    return path


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nobody knows the score, before and after."""
    SCORES.pop("mine_gini", None)
    yield
    SCORES.pop("mine_gini", None)


def root(path: Path) -> dict:
    return json.loads((path / "zarr.json").read_text())


def older(path: Path, copy: Path) -> Path:
    """The same as it was written before caches described their scores."""
    shutil.copytree(path, copy)
    attrs = root(copy)
    del attrs["attributes"]["scores"], attrs["attributes"]["checksum"]
    (copy / "zarr.json").write_text(json.dumps(attrs))
    return copy


def test_a_cache_describes_what_is_not_built_in(written: Path, tiny_cache: gv.Cache) -> None:
    assert root(written)["attributes"]["scores"] == [DESCRIPTION]
    assert root(tiny_cache.path)["attributes"]["scores"] == []
    assert "mine" not in json.dumps(root(tiny_cache.path))
    assert "scores" not in root(written)["attributes"]["key"]  # it decides nothing


@pytest.mark.usefixtures("forgotten")
def test_a_cache_opens_where_nobody_registered_its_score(written: Path, tiny_cache: gv.Cache) -> None:
    cache = gv.open_cache(written)
    entry = lookup("mine_gini")
    assert {name: getattr(entry, name) for name in DESCRIPTION} == DESCRIPTION
    xr.testing.assert_equal(
        gv.score(cache[0], "mine_gini").drop_attrs(), gv.score(tiny_cache[0], "msp").rename("mine_gini").drop_attrs()
    )
    found = gv.evaluate(cache, "error", scores="mine_gini", bootstrap=0)["auprc"].values
    np.testing.assert_array_equal(found, gv.evaluate(tiny_cache, "error", scores="msp", bootstrap=0)["auprc"].values)
    assert gv.metrics.score_calibration(cache)["ece"].notnull().all()
    segments = gv.segment_statistics(cache)
    assert any("mine_gini" in name for name in feature_table(segments, "mine")[1])


@pytest.mark.usefixtures("forgotten")
def test_an_older_cache_is_brought_up_without_computing(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = older(written, tmp_path / "old")
    frames = {file: file.stat().st_mtime_ns for file in (path / "frames").rglob("*")}
    assert main(["upgrade", str(path)]) == 1
    assert "score 'mine_gini' is described nowhere; register it" in capsys.readouterr().err
    register(OWN)
    assert main(["upgrade", str(path)]) == 0
    assert "describes its own scores (mine_gini)" in capsys.readouterr().out
    assert root(path) == root(written)
    assert {file: file.stat().st_mtime_ns for file in (path / "frames").rglob("*")} == frames
    assert main(["upgrade", str(path)]) == 0
    assert "which is today's; nothing to do" in capsys.readouterr().out
    del SCORES["mine_gini"]
    assert gv.open_cache(path).scores == ("pgn_oh_p0.1", "mine_gini")
    assert lookup("mine_gini").family == "mine"


def test_an_older_cache_opens_as_it_is(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    path = older(tiny_cache.path, tmp_path / "old")
    xr.testing.assert_identical(gv.open_cache(path)[0].load(), tiny_cache[0].load())
    assert gv.upgrade_cache(path) == ("says that all of its scores are built in",)
    assert gv.upgrade_cache(path) == ()


@pytest.mark.parametrize("version", [1, 4, "two", None])
def test_unknown_versions_are_refused_in_one_line(tiny_cache: gv.Cache, tmp_path: Path, version: object) -> None:
    path = older(tiny_cache.path, tmp_path / "old")
    attrs = root(path)
    attrs["attributes"]["key"]["schema_version"] = version
    (path / "zarr.json").write_text(json.dumps(attrs))
    with pytest.raises(CacheError, match=f"schema version is {version!r}, expected 3") as raised:
        gv.upgrade_cache(path)
    assert "\n" not in str(raised.value)
    assert root(path) == attrs


def test_what_is_no_cache_is_not_upgraded(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such folder"):
        gv.upgrade_cache(tmp_path / "absent")


def test_frames_that_are_folders_are_read_and_packed(
    tiny_cache: gv.Cache, tiny_net: torch.nn.Module, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c"
    shutil.copytree(tiny_cache.path, path)
    as_folders(path)
    assert gv.check_cache(path).damaged == {}
    for frame in tiny_cache:
        xr.testing.assert_identical(gv.open_cache(path)[frame].load(), tiny_cache[frame].load())
    with pytest.raises(CacheError, match="schema version is 2, expected 3 to write to it; 'gradunc upgrade"):
        gv.compute(tiny_net, gv.open_frames(tiny_set), path, scores=tiny_cache.scores, progress=False)
    shutil.copy(tiny_cache.path / "frames/f02.zip", path / "frames/f02.zip")  # as where an upgrade was interrupted
    assert len(gv.open_cache(path)) == 4
    assert main(["upgrade", str(path)]) == 0
    assert "holds each of its 4 frames in one file" in capsys.readouterr().out
    assert sorted(file.name for file in (path / "frames").iterdir()) == [*(f"{f}.zip" for f in tiny_cache), "zarr.json"]
    for frame in tiny_cache:
        assert sorted(members(path / "frames" / frame).items()) == sorted(
            members(tiny_cache.path / "frames" / frame).items()
        )
    xr.testing.assert_identical(gv.open_cache(path).summary, tiny_cache.summary)
    gv.compute(tiny_net, gv.open_frames(tiny_set), path, scores=tiny_cache.scores, progress=False)


def test_a_damaged_folder_is_not_packed(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    path = tmp_path / "c"
    shutil.copytree(tiny_cache.path, path)
    as_folders(path)
    chunk = next((path / "frames/f01/prediction").glob("c*"))
    chunk.write_bytes(b"x" * chunk.stat().st_size)
    with pytest.raises(CacheError, match=r"f01/prediction/c.*: damaged"):
        gv.upgrade_cache(path)
    assert gv.open_cache(path).key["schema_version"] == 2
    assert len(gv.open_cache(path)) == 4

"""The worst frames of a cache of which some cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from frame_files import unpacked
from synthetic import write_cache

from gradunc_viz.metrics.worst import WORST, worst_frames
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.store.cache import open_cache

DAMAGE = ("cell_counts", "counts", "bin_start", "outcome")


@pytest.mark.parametrize("definition", list(WORST))
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_frame_is_left_out_and_named(tmp_path: Path, definition: str, damage: str) -> None:
    path = tmp_path / "cache"
    cache = write_cache(path, ["a", "b", "c"])
    cache.summary.load()
    whole = worst_frames(cache, definition, "entropy", "error").set_index("frame")
    assert whole.attrs["damaged"] == {}
    with unpacked(path / "frames" / "b") as files:
        shutil.rmtree(files / damage)
    table = worst_frames(open_cache(path), definition, "entropy", "error").set_index("frame")
    damaged = table.attrs["damaged"]
    assert set(damaged) <= {"b"}
    if damaged:
        assert "b" in damaged["b"]
        assert sorted(table.index) == ["a", "c"]
    for frame in table.index:
        assert table.loc[frame, "value"] == whole.loc[frame, "value"]
    assert {"a", "c"} <= set(table.index)


def test_what_is_read_of_a_damaged_frame_matters(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    write_cache(path, ["a", "b", "c"]).summary.load()
    with unpacked(path / "frames" / "b") as files:
        shutil.rmtree(files / "bin_min")
        shutil.rmtree(files / "cell_counts")
    for definition in ("confident_mistakes", "lowest_auroc"):
        table = worst_frames(open_cache(path), definition, "entropy", "error")
        assert list(table.attrs["damaged"]) == ["b"], definition
        assert sorted(table["frame"]) == ["a", "c"], definition
    for frame in "ac":
        with unpacked(path / "frames" / frame) as files:
            shutil.rmtree(files / "cell_counts")
            shutil.rmtree(files / "bin_min")
    with pytest.raises(CacheError):
        worst_frames(open_cache(path), "lowest_auroc", "entropy", "error")

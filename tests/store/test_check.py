"""What is not the file that was written is noticed wherever it is read, and by a check of all."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.errors import CacheError, GraduncError


@pytest.fixture
def copy(tiny_cache: gv.Cache, tmp_path: Path) -> Path:
    shutil.copytree(tiny_cache.path, tmp_path / "cache")
    return tmp_path / "cache"


def flip(file: Path, place: float = 0.5) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 4
    file.write_bytes(bytes(content))


def load_all(path: Path) -> None:
    """Read a cache as evaluation and explorer do."""
    cache = gv.open_cache(path)
    for frame_id in cache:
        cache[frame_id].load()


def test_any_flipped_bit_of_a_frame_is_an_error_that_names_its_file(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    files = sorted(file for file in (tiny_cache.path / "frames/f01").rglob("*") if file.is_file())
    drawn = random.Random(0)
    for number, file in enumerate(drawn.sample(files, 40)):
        path = tmp_path / str(number)
        (path / "frames").mkdir(parents=True)
        for name in ("zarr.json", "frames/zarr.json"):
            shutil.copy(tiny_cache.path / name, path / name)
        shutil.copytree(tiny_cache.path / "frames/f01", path / "frames/f01")
        own = path / file.relative_to(tiny_cache.path)
        flip(own, drawn.random())
        with pytest.raises(CacheError, match=r"f01") as raised:
            load_all(path)
        if own.parent.name != "f01":
            assert own.parent.name in str(raised.value)
        assert list(gv.check_cache(path).damaged) == ["f01"]


@pytest.mark.parametrize(
    "use",
    [
        lambda cache: gv.evaluate(cache, "error", scores="msp", bootstrap=0),
        lambda cache: gv.score(cache["f01"], "pgn_oh_p0.1"),
        lambda cache: cache.read("f01", ["counts"]),
        lambda cache: cache.summary,
        lambda cache: cache.thumbnail("f01"),
    ],
    ids=["evaluate", "score", "read", "summary", "thumbnail"],
)
def test_whoever_reads_a_damaged_array_is_told(copy: Path, use: Callable[[gv.Cache], object]) -> None:
    shutil.rmtree(copy / "summary")
    for file in (copy / "frames/f01").glob("*/c*"):
        flip(file)
    with pytest.raises(GraduncError, match="f01"):
        use(gv.open_cache(copy))


def test_chunks_and_frames_that_changed_places_are_noticed(copy: Path) -> None:
    one, other = (copy / f"frames/{name}" for name in ("f00", "f02"))  # of one size
    shutil.copy(other / "prediction/zarr.json", one / "prediction/zarr.json")
    own = (one / "label/c.0.0").read_bytes()
    (one / "label/c.0.0").write_bytes((other / "label/c.0.0").read_bytes()[: len(own)].ljust(len(own), b"\0"))
    with pytest.raises(CacheError, match=r"f00/label/c\.0\.0: damaged, has checksum"):
        gv.open_cache(copy)["f00"]["label"].load()
    shutil.rmtree(one)
    shutil.copytree(other, one)
    with pytest.raises(CacheError, match="holds frame 'f02'; expected the one that it is named after"):
        gv.open_cache(copy)["f00"]


def test_another_key_than_was_written_is_noticed(copy: Path) -> None:
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["classes"][0] = "rode"
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(CacheError, match="its attributes have checksum"):
        gv.open_cache(copy)


def test_damaged_frames_are_found_taken_out_and_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, out, net = gv.open_frames(write_set(tmp_path / "set")), tmp_path / "cache", TinyNet().eval()
    before = {name: ds.load() for name, ds in gv.compute(net, frames, out, scores=SCORES, progress=False).items()}
    assert main(["check", str(out)]) == 0
    flip(out / "frames/f01/head_score/c.0.0.0")
    (out / "frames/f02/image/c.0").unlink()
    assert main(["check", str(out)]) == 1
    said = capsys.readouterr().out
    assert "f01/head_score/c.0.0.0: damaged" in said
    assert "f02: damaged, holds" in said
    assert "2 frames are whole, 2 damaged" in said
    assert main(["check", str(out), "--repair"]) == 0
    assert "2 frames taken out" in capsys.readouterr().out
    found = gv.compute(net, frames, out, scores=SCORES, progress=False)
    for name, dataset in found.items():
        for variable in dataset.variables:
            np.testing.assert_array_equal(dataset[variable].values, before[name][variable].values)


def test_a_damaged_frame_is_a_missing_one_to_a_run(tmp_path: Path) -> None:
    frames, out, net = gv.open_frames(write_set(tmp_path / "set")), tmp_path / "cache", TinyNet().eval()
    gv.compute(net, frames, out, scores=SCORES, progress=False)
    (out / "frames/f02/image/c.0").unlink()
    with pytest.warns(UserWarning, match="frame 'f02' is computed again: .*damaged"):
        found = gv.compute(net, frames, out, scores=SCORES, progress=False)
    assert len(found["f02"].load()["image"])


def test_frames_of_earlier_versions_are_read_and_said_to_be_unchecked(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (copy / "frames").glob("*/zarr.json"):
        group = json.loads(file.read_text())
        for name in ("crc32c", "attributes"):
            del group["attributes"]["stored"][name]
        file.write_text(json.dumps(group))
    load_all(copy)
    assert main(["check", str(copy)]) == 0
    assert "4 of them by their size alone" in capsys.readouterr().out

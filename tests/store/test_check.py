"""What is not the file that was written is noticed wherever it is read, and by a check of all."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from frame_files import as_folders, members, put_members, unpacked
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
    names = sorted(members(tiny_cache.path / "frames/f01"))
    drawn = random.Random(0)
    for number, name in enumerate(drawn.sample(names, 40)):
        path = tmp_path / str(number)
        (path / "frames").mkdir(parents=True)
        for file in ("zarr.json", "frames/zarr.json", "frames/f01.zip"):
            shutil.copy(tiny_cache.path / file, path / file)
        with unpacked(path / "frames/f01") as files:
            flip(files / name, drawn.random())
        with pytest.raises(CacheError, match=r"f01") as raised:
            load_all(path)
        assert name.partition("/")[0] in str(raised.value)
        assert list(gv.check_cache(path).damaged) == ["f01"]


def test_any_flipped_bit_of_a_frames_file_is_an_error_or_harmless(tiny_cache: gv.Cache, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for file in ("zarr.json", "frames/zarr.json"):
        shutil.copy(tiny_cache.path / file, tmp_path / file)
    content = (tiny_cache.path / "frames/f01.zip").read_bytes()
    directory = content.rindex(b"PK\5\6") - sum(46 + len(name) for name in members(tiny_cache.path / "frames/f01"))
    whole, drawn, noticed = tiny_cache["f01"].load(), random.Random(1), 0
    places = [drawn.randrange(directory) for _ in range(60)] + [
        drawn.randrange(directory, len(content)) for _ in range(60)
    ]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << drawn.randrange(8)
        (tmp_path / "frames/f01.zip").write_bytes(changed)
        try:
            found = gv.open_cache(tmp_path)["f01"].load()
        except CacheError as error:
            assert "f01" in str(error)  # noqa: PT017
            noticed += 1
        else:
            assert found.identical(whole)
    assert noticed >= 80


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
    (copy / "summary.zip").unlink()
    with unpacked(copy / "frames/f01") as files:
        for file in files.glob("*/c*"):
            flip(file)
    with pytest.raises(GraduncError, match="f01"):
        use(gv.open_cache(copy))


def test_chunks_and_frames_that_changed_places_are_noticed(copy: Path) -> None:
    one, other = (copy / f"frames/{name}" for name in ("f00", "f02"))  # of one size
    own, theirs = members(one), members(other)
    name = "label/c.0.0"
    put_members(one, {**own, name: theirs[name][: len(own[name])].ljust(len(own[name]), b"\0")})
    with pytest.raises(CacheError, match=r"f00/label/c\.0\.0: damaged, has checksum"):
        gv.open_cache(copy)["f00"]["label"].load()
    shutil.copy(f"{other}.zip", f"{one}.zip")
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
    with unpacked(out / "frames/f01") as files:
        flip(files / "head_score/c.0.0.0")
    with unpacked(out / "frames/f02") as files:
        (files / "image/c.0").unlink()
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


def test_a_damaged_frame_that_is_a_folder_is_taken_out_as_well(copy: Path) -> None:
    with zipfile.ZipFile(copy / "frames/f01.zip") as archive:
        archive.extractall(copy / "frames/f01")
    (copy / "frames/f01.zip").unlink()
    flip(copy / "frames/f01/head_score/c.0.0.0")
    assert gv.check_cache(copy, repair=True).removed == ["f01"]
    assert gv.open_cache(copy).ids == ("f00", "f02", "f03")


def test_a_damaged_frame_is_a_missing_one_to_a_run(tmp_path: Path) -> None:
    frames, out, net = gv.open_frames(write_set(tmp_path / "set")), tmp_path / "cache", TinyNet().eval()
    gv.compute(net, frames, out, scores=SCORES, progress=False)
    with unpacked(out / "frames/f02") as files:
        (files / "image/c.0").unlink()
    with pytest.warns(UserWarning, match="frame 'f02' is computed again: .*damaged"):
        found = gv.compute(net, frames, out, scores=SCORES, progress=False)
    assert len(found["f02"].load()["image"])


def test_frames_of_earlier_versions_are_read_and_said_to_be_unchecked(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_folders(copy)
    for file in (copy / "frames").glob("*/zarr.json"):
        group = json.loads(file.read_text())
        for name in ("crc32c", "attributes"):
            del group["attributes"]["stored"][name]
        file.write_text(json.dumps(group))
    load_all(copy)
    assert main(["check", str(copy)]) == 0
    assert "4 of them by their size alone" in capsys.readouterr().out

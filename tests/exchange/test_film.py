"""A film of a cache, in Python and after compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import scenes, write_video

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.datasets.video import Video
from gradunc_viz.exchange.film import write_film
from gradunc_viz.schema.errors import GraduncError


def test_frames_in_their_order_within_fixed_limits(tiny_set: Path, tiny_cache: gv.Cache, tmp_path: Path) -> None:
    frames = gv.open_frames(tiny_set)
    film = write_film(tiny_cache, frames[::-1], tmp_path / "film.gif", "entropy", rate=5, progress=False)
    assert film.count == 4
    values = np.concatenate([gv.score(tiny_cache[frame.id], "entropy").values.ravel() for frame in frames])
    np.testing.assert_allclose(film.limits, np.quantile(values, (0.01, 0.99)), rtol=1e-3)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 4
        assert gif.info["duration"] == 200
    with pytest.raises(GraduncError, match="holds none of the frames"):
        write_film(tiny_cache, (), tmp_path / "none.gif")
    with pytest.raises(GraduncError, match="nonsense"):
        write_film(tiny_cache, frames, tmp_path / "none.gif", "nonsense", progress=False)
    assert not (tmp_path / "none.gif").exists()


def test_after_compute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "drive.mp4", scenes(6))
    out = tmp_path / "film.mp4"
    arguments = ["compute", "--model", "demo", "--data", str(video), "--out", str(tmp_path / "cache"), "--quiet"]
    arguments += ["--scores", "msp,entropy", "--no-images", "--input-size", "32x48", "--film", str(out)]
    assert main([*arguments, "--every", "2", "--show", "entropy", "--range", "0,2"]) == 0
    assert f"{out}: 3 frames with entropy from 0 (dark) to 2 (bright)" in capsys.readouterr().out
    assert len(Video(out)) == 3
    assert Video(out).rate == 5
    out.unlink()
    assert main([*arguments, "--every", "2", "--fps", "4"]) == 0  # of a cache that is finished
    assert Video(out).rate == 4
    assert "3 frames with msp" in capsys.readouterr().out


def test_a_film_never_replaces_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "w.mp4", scenes(3))
    before = video.read_bytes()
    (tmp_path / "link.mp4").symlink_to(video)
    cache = ["--model", "demo", "--data", str(video), "--out", str(tmp_path / "cache"), "--quiet"]
    for film in ("w.mp4", "link.mp4"):
        for command in (["compute", *cache, "--film"], ["stream", str(video), "--model", "demo", "--quiet", "--out"]):
            assert main([*command, str(tmp_path / film)]) == 1
            error = capsys.readouterr().err
            assert f"{film}: the film would replace {video}" in error
            assert error.count("\n") == 1
    assert video.read_bytes() == before
    assert not (tmp_path / "cache").exists()
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.gif", "b.gif"):
        Image.new("RGB", (8, 8)).save(images / name)
    data = ["compute", "--model", "demo", "--data", str(images), "--out", str(tmp_path / "cache"), "--quiet"]
    for part in ((), ("--stop", "1")):  # an image that is left out, too
        assert main([*data, *part, "--film", str(images / "b.gif")]) == 1
    assert main(["stream", str(images), "--model", "demo", "--quiet", "--out", str(images / "b.gif")]) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--film", "film.webm"), "film.webm: a film ends in .mp4 or .gif"),
        (("--film", "nowhere/film.gif"), "there is no folder"),
        (("--film", "film.gif", "--show", "energy"), "--show energy: not among the scores to be computed, msp"),
        (("--show", "msp"), "--show is of a film, but none is to be written"),
    ],
)
def test_what_cannot_be_shown_is_told_first(
    tiny_set: Path, tmp_path: Path, options: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    arguments = ["compute", "--model", "demo", "--data", str(tiny_set), "--out", str(out), "--scores", "msp"]
    assert main([*arguments, *options]) == 1
    assert problem in capsys.readouterr().err
    assert not out.exists()

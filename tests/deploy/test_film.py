"""Films: what they show, and that they are whole whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from gradunc_viz.datasets.video import Video
from gradunc_viz.deploy.film import Film, check_film, side_by_side
from gradunc_viz.schema.errors import GraduncError, SettingsError

COLORS = ((128, 64, 128), (70, 130, 180))
IMAGE = np.full((60, 200, 3), (10, 200, 90), "u1")
PREDICTION = np.repeat([[0, 1]], 100, 1).repeat(60, 0).astype("u1")
SCORE = np.linspace(0, 1, 200, dtype="f4")[None].repeat(60, 0)


def frames(path: Path) -> list[np.ndarray]:
    if path.suffix == ".mp4":
        return list(Video(path))
    with Image.open(path) as film:
        return [np.asarray(page.convert("RGB")) for page in ImageSequence.Iterator(film)]


def test_three_panels_with_their_titles() -> None:
    picture = np.asarray(
        side_by_side(IMAGE, np.array(COLORS, "u1")[PREDICTION], SCORE, ("city 1", "prediction", "msp"), (0, 1))
    )
    assert picture.shape == (80, 604, 3)
    assert (picture[20:, :200] == IMAGE).all()
    assert (picture[50, [205, 300, 310, 400]] == [COLORS[0], COLORS[0], COLORS[1], COLORS[1]]).all()
    assert picture[50, 404].tolist() == [68, 1, 84]  # the ends of viridis
    assert picture[50, 603].tolist() == [253, 231, 36]
    assert all((picture[:20, left : left + 60] < 100).any() for left in (0, 202, 404))


@pytest.mark.parametrize(
    ("size", "shape"), [((600, 1200), (340, 1918)), ((41, 37), (226, 560)), ((2, 900), (22, 1918))]
)
def test_sizes_are_even_and_fit(size: tuple[int, int], shape: tuple[int, int]) -> None:
    prediction, score = np.zeros((4, 4, 3), "u1"), np.zeros((3, 3))
    picture = side_by_side(np.zeros((*size, 3), "u1"), prediction, score, ("a" * 90,) * 3, (0, 1))
    assert picture.size == shape[::-1]


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_of_every_frame_at_its_rate(tmp_path: Path, name: str) -> None:
    with Film(tmp_path / name, 12.5, COLORS, "msp", (0, 1)) as film:
        for number in range(5):
            film.add(IMAGE // (number + 1), PREDICTION, SCORE, f"image {number}")
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    shown = frames(tmp_path / name)
    assert len(shown) == film.count == 5
    assert abs(int(shown[3][60, 100, 1]) - 50) < 4
    if name == "film.gif":
        with Image.open(tmp_path / name) as gif:
            assert [page.info["duration"] for page in ImageSequence.Iterator(gif)] == [80] * 5
            assert gif.info["loop"] == 0
    else:
        assert Video(tmp_path / name).rate == 12.5


def test_limits_settle(tmp_path: Path) -> None:
    with Film(tmp_path / "film.gif", 10, COLORS, "msp") as film:
        film.add(IMAGE, PREDICTION, SCORE, "")
        np.testing.assert_allclose(film.limits, (0.01, 0.99), atol=0.01)
        film.add(IMAGE, PREDICTION, SCORE + 1, "")
        np.testing.assert_allclose(film.limits, (0.51, 1.49), atol=0.01)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_is_a_film(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    with pytest.raises(error), Film(tmp_path / name, 10, COLORS, "msp") as film:  # noqa: PT012
        for _ in range(3):
            film.add(IMAGE, PREDICTION, SCORE, "")
        raise error
    assert len(frames(tmp_path / name)) == 3
    with pytest.raises(error), Film(tmp_path / "none.gif", 10, COLORS, "msp"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == [name]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(path: Path, count: int, error: type[BaseException] | None = None) -> None:
    with Film(path, 10, COLORS, "msp", (0, 1)) as film:
        for _ in range(count):
            film.add(IMAGE, PREDICTION, SCORE, "")
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [("film.mp4", 10, 3), ("film.mp4", 10, 60), ("film.mp4", 3000, 60), ("film.gif", 10, 3), ("film.gif", 9000, 60)],
)
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, name: str, size: int, count: int) -> None:
    path = tmp_path / name
    path.write_bytes(b"of before")
    told = rf"{name}: cannot be written \([^\n]*\), after \d+ frames; nothing is left of this film$"
    with full_disk(size), pytest.raises(GraduncError, match=told):
        write(path, count)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == b"of before"


def test_what_ends_a_film_on_a_full_disk_is_told_too(tmp_path: Path) -> None:
    with full_disk(10), pytest.warns(UserWarning, match="cannot be written"), pytest.raises(KeyboardInterrupt):
        write(tmp_path / "film.mp4", 1, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_other_sizes_are_resized(tmp_path: Path) -> None:
    with Film(tmp_path / "film.gif", 10, COLORS, "msp") as film:
        for size in ((60, 200), (50, 90)):
            film.add(np.zeros((*size, 3), "u1"), PREDICTION, SCORE, "")
    assert len({frame.shape for frame in frames(tmp_path / "film.gif")}) == 1


def test_nothing_that_is_read_is_replaced(tmp_path: Path) -> None:
    source, link, other = tmp_path / "in.gif", tmp_path / "link.gif", tmp_path / "other.gif"
    source.write_bytes(b"GIF")
    other.write_bytes(b"GIF")
    link.symlink_to(source)
    for path in (source, link, tmp_path / "." / ".." / tmp_path.name / "in.gif"):
        with pytest.raises(SettingsError, match=r"the film would replace .*in\.gif, which its frames are read from"):
            check_film(path, [other, source])
    check_film(other, [source])
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(SettingsError, match="is a folder"):
        check_film(tmp_path / "folder.gif")


def test_where_none_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"film\.avi: a film ends in \.mp4 or \.gif, not in '\.avi'"):
        check_film(tmp_path / "film.avi")
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(SettingsError, match="is a folder; expected the name of a film"):
        check_film(tmp_path / "folder.gif")
    with pytest.raises(SettingsError, match="there is no folder"):
        check_film(tmp_path / "no" / "film.gif")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SettingsError, match=r"MP4 needs PyAV: pip install av; or give a name that ends in \.gif"):
        check_film(tmp_path / "film.mp4")

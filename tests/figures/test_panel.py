"""Panels and galleries: which pixels are shown where, shared ranges, outlines and insets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from synthetic import CLASSES, new_writer, write_frame

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.figures.panel import square_around
from gradunc_viz.metrics.regions import FAILURES, find_failures, largest_region
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.schema.frame import IGNORE
from gradunc_viz.store.cache import open_cache
from gradunc_viz.store.frame import decode_image


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Frames of two sizes; the second without class labels, the third without anomaly labels."""
    path = tmp_path_factory.mktemp("scene") / "cache"
    with new_writer(path) as writer:
        write_frame(writer, "a$1", seed=1)
        write_frame(writer, "b", (80, 96), label=False, seed=2)
        write_frame(writer, "c", anomaly=False, seed=3)
    return open_cache(path)


def cell(figure, gid: str):
    return next(axis for axis in figure.axes if axis.get_gid() == gid)


def shown(figure, gid: str) -> np.ndarray:
    return np.asarray(cell(figure, gid).images[0].get_array())


def test_cells_hold_the_pixels(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1"], ("image", "label", "prediction", "error", "entropy", "pgn_oh_p0.5"))
    dataset = scene["a$1"]
    np.testing.assert_array_equal(shown(figure, "a$1:image"), decode_image(dataset))
    colors = np.array(scene.colors)
    np.testing.assert_array_equal(shown(figure, "a$1:prediction"), colors[dataset["prediction"].values])
    label = dataset["label"].values
    assert (shown(figure, "a$1:label")[label == IGNORE] == 255).all()
    np.testing.assert_array_equal(shown(figure, "a$1:label")[label != IGNORE], colors[label[label != IGNORE]])
    orange = np.round(255 * np.array(to_rgb("#e06c00")))
    wrong = (label != IGNORE) & (label != dataset["prediction"].values)
    np.testing.assert_array_equal((shown(figure, "a$1:error") == orange).all(-1), wrong)
    for name in ("entropy", "pgn_oh_p0.5"):
        np.testing.assert_array_equal(shown(figure, f"a$1:{name}"), gv.score(dataset, name).values)


def test_scores_share_one_range_and_one_bar(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1", "b", "c"])
    quantiles = scene.summary["score_quantile"].sel(score="entropy")
    expected = (float(quantiles.isel(quantile=0).min()), float(quantiles.isel(quantile=-1).max()))
    for frame in ("a$1", "b", "c"):
        assert cell(figure, f"{frame}:entropy").images[0].get_clim() == pytest.approx(expected)
    bars = [axis.get_gid() for axis in figure.axes if str(axis.get_gid()).startswith("colorbar")]
    assert sorted(bars) == ["colorbar:entropy", "colorbar:pgn_oh_p0.5"]
    fixed = figures.panel(scene, ["b"], ["entropy"], limits={"entropy": (0, 1)})
    assert cell(fixed, "b:entropy").images[0].get_clim() == (0, 1)


def test_columns_line_up_and_rows_keep_the_frames_shape(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1", "b"])
    width, height = figure.get_size_inches()
    for frame, size in (("a$1", (64, 128)), ("b", (80, 96))):
        boxes = [cell(figure, f"{frame}:{name}").get_position() for name in ("image", "prediction", "entropy")]
        assert len({round(box.y0, 9) for box in boxes}) == 1
        for box in boxes:
            assert box.height * height / (box.width * width) == pytest.approx(size[0] / size[1])


def test_anomalies_are_outlined(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1", "c"])
    paths = cell(figure, "a$1:entropy").collections[0].get_paths()
    corners = np.concatenate([path.vertices for path in paths])
    y, x = np.nonzero(scene["a$1"]["anomaly"].values == 1)
    assert corners.min(0) == pytest.approx([x.min() - 0.5, y.min() - 0.5])
    assert corners.max(0) == pytest.approx([x.max() + 0.5, y.max() + 0.5])
    assert not cell(figure, "c:entropy").collections
    assert not cell(figures.panel(scene, ["a$1"], contours=False), "a$1:entropy").collections


def test_what_a_frame_lacks_is_said(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1", "b"])
    assert [t.get_text() for t in cell(figure, "b:error").texts] == ["not labelled"]
    # without class labels, the annotation of unknown objects stands in
    orange = np.round(255 * np.array(to_rgb("#e06c00")))
    found = (shown(figure, "b:label") == orange).all(-1)
    np.testing.assert_array_equal(found, scene["b"]["anomaly"].values == 1)
    only = figures.panel(scene, ["b"])
    assert not [axis for axis in only.axes if axis.get_gid() == "b:error"]
    with pytest.raises(GraduncError, match="column 'error'"):
        figures.panel(scene, ["b"], ["error"])


def test_insets_enlarge_a_part(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1"], ["image", "entropy"], insets={"a$1": (10, 20, 30, 50)})
    (inset,) = cell(figure, "a$1:entropy").child_axes
    expected = gv.score(scene["a$1"], "entropy").values[10:30, 20:50]
    np.testing.assert_array_equal(inset.images[0].get_array(), expected)
    figure = figures.panel(scene, ["a$1"], ["image"], insets="auto")
    assert len(cell(figure, "a$1:image").child_axes) == 1
    with pytest.raises(GraduncError, match="inset"):
        figures.panel(scene, ["a$1"], insets={"a$1": (0, 0, 500, 500)})


def test_crop_and_large_photographs(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1"], ["image", "entropy"], crop=(8, 16, 40, 80))
    np.testing.assert_array_equal(shown(figure, "a$1:image"), decode_image(scene["a$1"])[8:40, 16:80])
    with pytest.raises(GraduncError, match="crop"):
        figures.panel(scene, ["a$1"], crop=(8, 16, 4, 80))
    small = figures.panel(scene, ["a$1"], ["image", "entropy"], width=1.0, dpi=100)
    assert shown(small, "a$1:image").shape[1] < 51
    assert shown(small, "a$1:entropy").shape == (64, 128)


def test_frames_of_several_caches(scene: gv.Cache) -> None:
    caches = {"one": scene, "two": scene}
    figure = figures.panel(caches, [("two", "a$1"), "c", 1], ["prediction"])
    assert [a.get_gid() for a in figure.axes] == ["a$1:prediction", "c:prediction", "b:prediction"]
    assert len(figures.panel(caches, columns=["image"]).axes) == 6
    for frames, message in (
        (["nope"], "no frame 'nope'"),
        ([7], "position 7"),
        ([("x", 0)], "no cache 'x'"),
        ([], "no frame"),
    ):
        with pytest.raises(GraduncError, match=message):
            figures.panel(caches, frames)


def test_legend_names_classes_that_are_there(scene: gv.Cache) -> None:
    figure = figures.panel(scene, ["a$1"], ["prediction", "error"])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(CLASSES) <= set(names)
    assert names[-3:] == ["wrong", "ignored", "outline of unknown"]


# --------------------------------------------------------------------------------------------------------------------
# failures


def test_largest_region_and_square() -> None:
    mask = np.zeros((20, 30), bool)
    assert largest_region(mask) is None
    mask[2:4, 3:5] = mask[10:15, 20:28] = True
    assert largest_region(mask) == (10, 20, 15, 28)
    assert square_around((10, 20, 15, 28), (20, 30), margin=0.25, smallest=0.1, largest=1) == (6, 18, 18, 30)


@pytest.mark.parametrize("kind", list(FAILURES))
@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_a_gallery_shows_the_failures(scene: gv.Cache, kind: str, task: str) -> None:
    # above every score, all that is to be found is missed
    threshold = 3.0 if kind in ("confident_mistakes", "missed_objects") else 0.7
    found = find_failures(scene, kind, "entropy", task, threshold, n=3)
    figure = figures.gallery(scene, kind, 3, score="entropy", task=task, threshold=threshold)
    cells = [a for a in figure.axes if str(a.get_gid()).endswith(":image")]
    assert found
    assert [a.get_gid() for a in cells] == [f"{f.frame}:{f.box}:image" for f in found]
    assert f"{found[0].pixels:,} px" in cells[0].get_title()
    assert ("% found" in cells[0].get_title()) == (kind == "missed_objects")


def test_a_gallery_of_few(scene: gv.Cache) -> None:
    found = find_failures(scene, "needless_doubt", "entropy", "anomaly", 0.7, n=9, per_frame=1, min_pixels=5)
    gids = [f"{f.frame}:{f.box}:image" for f in found]
    figure = figures.gallery(scene, "needless_doubt", 9, threshold=0.7, per_frame=1, min_pixels=5)
    assert [a.get_gid() for a in figure.axes if str(a.get_gid()).endswith(":image")] == gids
    assert {f.frame for f in found} == {"a$1", "b"}
    assert len(found) == 2


def test_gallery_without_a_failure_says_so(scene: gv.Cache) -> None:
    with pytest.raises(GraduncError, match="found no missed objects"):
        figures.gallery(scene, "missed_objects", threshold=-1e9)
    with pytest.raises(GraduncError, match="unknown kind of failure 'odd'"):
        figures.gallery(scene, "odd")


@pytest.mark.parametrize("size", [(4, 4000), (4000, 4), (64, 2048)], ids=str)
def test_frames_of_any_shape_are_drawn(tmp_path: Path, size: tuple[int, int]) -> None:
    with new_writer(tmp_path / "c") as writer:
        write_frame(writer, "a", size)
        write_frame(writer, "b")
    cache = open_cache(tmp_path / "c")
    figure = figures.panel(cache, insets={"a": (0, 0, min(size[0], 40), min(size[1], 40))})
    figure.canvas.draw()  # nothing is drawn larger than memory
    height, width = (cell(figure, "a:image").get_position().size * figure.get_size_inches())[::-1]
    assert 1 / 40.1 < height / width < 8.1
    if size == (64, 2048):
        assert width / height == pytest.approx(32, rel=0.01)
    for axis in figure.axes:
        for inset in axis.child_axes:
            assert max(inset.get_position().size / axis.get_position().size) < 0.56
    figures.gallery(cache, "confident_mistakes", score="entropy", threshold=9.0).canvas.draw()

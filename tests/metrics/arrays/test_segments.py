from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz.metrics.arrays.segments import (
    SHAPES,
    STATISTICS,
    boundary_mask,
    find_segments,
    segment_iou,
    segment_moments,
    segment_shapes,
    segment_sums,
)
from gradunc_viz.metrics.segment_table import segment_statistics
from gradunc_viz.schema.errors import CacheError, SchemaError, UnknownScoreError


def u1(rows) -> np.ndarray:
    return np.asarray(rows, "u1")


# --------------------------------------------------------------------------------------------------------------------
# the definitions, one segment at a time: slow, and obviously right


def neighbours(shape, y, x):
    for i in range(max(y - 1, 0), min(y + 2, shape[0])):
        for j in range(max(x - 1, 0), min(x + 2, shape[1])):
            if (i, j) != (y, x):
                yield i, j


def loop_components(classes: np.ndarray) -> list[tuple[int, set[tuple[int, int]]]]:
    """Class and pixels of every component, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(classes != 255)}
    found = []
    for class_id in range(255):
        for start in sorted(pixel for pixel in left if classes[pixel] == class_id):
            if start not in left:
                continue
            pixels, front = set(), [start]
            left.discard(start)
            while front:
                pixel = front.pop()
                pixels.add(pixel)
                for other in neighbours(classes.shape, *pixel):
                    if other in left and classes[other] == class_id:
                        left.discard(other)
                        front.append(other)
            found.append((class_id, pixels))
    return found


def loop_statistics(prediction: np.ndarray, label: np.ndarray, values: np.ndarray) -> list[dict[str, float]]:
    seen = np.where(label == 255, 255, prediction)
    truth = loop_components(label)
    table = []
    for class_id, k in loop_components(seen):
        interior = {p for p in k if all(other in k for other in neighbours(seen.shape, *p))}
        boundary = k - interior
        row: dict[str, float] = {"class_id": class_id, "size": len(k)}
        row |= {"interior_size": len(interior), "boundary_size": len(boundary)}
        for prefix, part in (("", k), ("boundary_", boundary), ("interior_", interior)):
            inside = np.array([values[p] for p in part], "f8")
            row[f"{prefix}mean"] = inside.mean() if len(inside) else np.nan
            row[f"{prefix}variance"] = inside.var() if len(inside) else np.nan
        s_bd = len(boundary) or np.nan
        row["relative_size"], row["relative_interior_size"] = len(k) / s_bd, len(interior) / s_bd
        row["relative_mean"] = row["mean"] * len(k) / s_bd
        row["relative_interior_mean"] = sum(float(values[p]) for p in interior) / s_bd
        row["y"], row["x"] = np.mean(list(k), axis=0)

        touched = set().union(*(pixels for owner, pixels in truth if owner == class_id and pixels & k))
        same_class = {p for p in touched if seen[p] == class_id}
        row["iou"] = len(k & touched) / len(k | touched)
        row["iou_adj"] = len(k & touched) / len(k | (touched - same_class))
        table.append(row)
    return table


@pytest.mark.parametrize("smooth", [0.0, 0.7, 1.5])
def test_equals_the_loop_on_random_frames(smooth):
    random = np.random.default_rng(int(10 * smooth))
    for _ in range(8):
        size = tuple(random.integers(1, 22, 2))
        fields = ndimage.gaussian_filter(random.normal(size=(4, *size)), (0, smooth, smooth))
        noise = ndimage.gaussian_filter(random.normal(size=(4, *size)), (0, smooth, smooth))
        prediction, label = u1(fields.argmax(0)), u1((fields + noise).argmax(0))
        label[noise[0] > np.quantile(noise[0], 0.85)] = 255
        values = (fields[0] - 60).astype("f4")
        expected = loop_statistics(prediction, label, values)

        segments = find_segments(prediction, label)
        iou, adjusted = segment_iou(segments, label)
        ours = {
            "class_id": segments.class_id,
            "iou": iou,
            "iou_adj": adjusted,
            **segment_shapes(segments),
            **segment_moments(segments, values),
        }
        assert segments.count == len(expected)
        assert set(ours) == {"class_id", "iou", "iou_adj", "y", "x", *SHAPES, *STATISTICS}
        for name, column in ours.items():
            np.testing.assert_allclose(column, [row[name] for row in expected], rtol=1e-9, atol=1e-9, err_msg=name)


# --------------------------------------------------------------------------------------------------------------------
# by hand


def test_corners_connect_and_classes_do_not():
    segments = find_segments(u1([[0, 1, 1], [1, 0, 1], [2, 2, 0]]))
    assert segments.class_id.tolist() == [0, 1, 2]
    assert segments.ids.tolist() == [[1, 2, 2], [2, 1, 2], [3, 3, 1]]


def test_the_border_of_the_image_is_no_boundary():
    ids = np.ones((4, 6), int)
    ids[:, 4:] = 2
    boundary = boundary_mask(ids)
    assert boundary.tolist() == [[False, False, False, True, True, False]] * 4


def test_a_single_other_pixel_makes_its_eight_neighbours_boundary():
    ids = np.ones((5, 5), int)
    ids[2, 2] = 2
    assert boundary_mask(ids).tolist() == np.pad(np.ones((3, 3), bool), 1).tolist()


def test_one_giant_segment_has_no_boundary():
    prediction = np.zeros((40, 50), "u1")
    segments = find_segments(prediction)
    shapes, moments = segment_shapes(segments), segment_moments(segments, np.ones((40, 50), "f4"))
    assert (shapes["size"].item(), shapes["interior_size"].item(), shapes["boundary_size"].item()) == (2000, 2000, 0)
    assert (shapes["y"].item(), shapes["x"].item()) == (19.5, 24.5)
    missing = {name for name, values in {**shapes, **moments}.items() if np.isnan(values).any()}
    assert missing == {
        "relative_size",
        "relative_interior_size",
        "boundary_mean",
        "boundary_variance",
        "relative_mean",
        "relative_interior_mean",
    }
    assert segment_iou(segments, prediction) == (1, 1)


def test_a_thin_segment_has_no_interior():
    moments = segment_moments(find_segments(u1([[0, 1, 0]])), np.array([[1.0, 5.0, 2.0]]))
    assert np.isnan(moments["interior_mean"]).all()
    assert moments["relative_interior_mean"].tolist() == [0, 0, 0]
    assert moments["variance"].tolist() == [0, 0, 0]


def test_all_ignored():
    prediction, label = np.zeros((5, 6), "u1"), np.full((5, 6), 255, "u1")
    segments = find_segments(prediction, label)
    assert segments.count == 0
    columns = {**segment_shapes(segments), **segment_moments(segments, np.zeros((5, 6), "f4"))}
    assert all(len(values) == 0 for values in columns.values())
    assert all(len(values) == 0 for values in segment_iou(segments, label))
    assert segment_sums(segments.ids, np.zeros((3, 5, 6), "f4"), 0).shape == (3, 0)


def test_ignored_pixels_count_nowhere_and_cut():
    prediction = u1([[0, 0, 0, 0, 0]])
    label = u1([[0, 0, 255, 0, 1]])
    segments = find_segments(prediction, label)
    assert segments.ids.tolist() == [[1, 1, 0, 2, 2]]
    assert segment_moments(segments, np.array([[1.0, 2, 99, 3, 5]]))["mean"].tolist() == [1.5, 4]
    assert [column.tolist() for column in segment_iou(segments, label)] == [[1, 0.5], [1, 0.5]]


def test_adjusted_iou_forgives_what_another_segment_covers():
    #  one annotated object, predicted in two pieces with a gap that is predicted otherwise
    label = u1([[1, 1, 1, 1, 1, 1, 0, 0]])
    prediction = u1([[1, 1, 1, 0, 0, 1, 1, 0]])
    segments = find_segments(prediction, label)
    iou, adjusted = segment_iou(segments, label)
    assert segments.class_id.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(iou, [0, 1 / 2, 3 / 6, 1 / 7])
    np.testing.assert_allclose(adjusted, [0, 1 / 2, 3 / 5, 1 / 4])


def test_objects_that_only_border_are_not_matched():
    # the right object touches the segment of its class at an edge, but shares no pixel with it
    label = u1([[0, 0, 1, 1]])
    prediction = u1([[1, 1, 0, 0]])
    iou, adjusted = segment_iou(find_segments(prediction, label), label)
    assert iou.tolist() == adjusted.tolist() == [0, 0]


def test_variance_of_large_values_keeps_its_digits():
    # log2 norms lie far from 0; a constant has variance 0 exactly, and never a negative one
    values = np.full((6, 6), 1e8)
    segments = find_segments(np.zeros((6, 6), "u1"))
    assert segment_moments(segments, values)["variance"] == 0
    values[::2] += 1
    assert segment_moments(segments, values)["variance"] == 0.25


def test_shapes_must_fit():
    segments = find_segments(np.zeros((4, 5), "u1"))
    with pytest.raises(SchemaError, match="label"):
        find_segments(np.zeros((4, 5), "u1"), np.zeros((5, 4), "u1"))
    with pytest.raises(SchemaError, match="label"):
        segment_iou(segments, np.zeros((5, 4), "u1"))
    with pytest.raises(SchemaError, match="map"):
        segment_moments(segments, np.zeros((5, 4)))
    with pytest.raises(SchemaError, match="map"):
        segment_sums(segments.ids, np.zeros((3, 5, 4)), segments.count)


# --------------------------------------------------------------------------------------------------------------------
# caches


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> gv.Cache:
    return write_cache(tmp_path_factory.mktemp("segments") / "cache", ["a", "b", "c"], [(32, 48), (24, 40)])


def test_table_of_a_cache(scenes):
    table = segment_statistics(scenes)
    assert dict(table.sizes).keys() == {"segment"}
    assert table.attrs["frames"] == ["a", "b", "c"]
    assert table.attrs["without_label"] == table.attrs["without_segment"] == []
    expected = {"iou", "iou_adj", "class_id", "centroid_y", "centroid_x", *SHAPES}
    expected |= {f"probability_{class_id}" for class_id in range(4)}
    expected |= {f"{name}_{statistic}" for name in scenes.scores for statistic in STATISTICS}
    assert set(table.data_vars) == expected
    assert table["pgn_uni_p2_mean"].attrs["family"] == "gradient"
    assert table["entropy_boundary_variance"].attrs["units"] == "(nats)^2"
    frame = table.to_dataframe()
    assert len(frame) == table.sizes["segment"]
    assert frame.groupby("frame").size().sum() == len(frame)
    names = np.array(scenes.classes, object)
    assert (table["class"].values == names[table["class_id"].values]).all()

    for frame_id in scenes.ids:
        own = table.isel(segment=table["frame"].values == frame_id)
        dataset = scenes[frame_id]
        label = dataset["label"].values
        values = gv.score(dataset, "pgn_oh_p0.5").values
        assert own["size"].sum() == (label != 255).sum()
        total = (own["pgn_oh_p0.5_mean"] * own["size"]).sum()
        assert total.item() == pytest.approx(values[label != 255].sum(dtype="f8"), rel=1e-6)
        segments = find_segments(dataset["prediction"].values, label)
        np.testing.assert_array_equal(own["iou_adj"], segment_iou(segments, label)[1])


def test_probabilities_are_those_of_the_resized_logits(scenes):
    table = segment_statistics(scenes, scores=["msp"], frames=["a"])
    columns = np.array([table[f"probability_{class_id}"].values for class_id in range(4)])
    np.testing.assert_allclose(columns.sum(0), 1, rtol=1e-6)
    # the mean of 1 - msp over a segment is that of the probability of its own class
    own = columns[table["class_id"].values, np.arange(table.sizes["segment"])]
    np.testing.assert_allclose(own, 1 - table["msp_mean"].values, atol=2e-3)  # msp is kept as float16


def test_frames_and_scores_can_be_chosen(scenes):
    table = segment_statistics(scenes, scores="entropy", frames=[1, "a"])
    assert table.attrs["frames"] == ["b", "a"]
    assert {found.attrs.get("score", "entropy") for found in table.data_vars.values()} == {"entropy"}
    nothing = segment_statistics(scenes, frames=[])
    assert nothing.sizes["segment"] == 0
    with pytest.raises(KeyError, match="zz"):
        segment_statistics(scenes, frames=["zz"])
    with pytest.raises(UnknownScoreError, match="entropi"):
        segment_statistics(scenes, scores="entropi")
    with pytest.raises(CacheError, match="pgn_oh_p1"):
        segment_statistics(scenes, scores="pgn_oh_p1")


def test_frames_without_labels_are_reported(tmp_path):
    cache = write_cache(tmp_path / "cache", ["a"], [(24, 40)], label=False)
    table = segment_statistics(cache)
    assert table.attrs["without_label"] == ["a"]
    assert np.isnan(table["iou"]).all()
    assert np.isnan(table["iou_adj"]).all()
    assert table["size"].sum() == 24 * 40


@pytest.mark.parametrize("classes", [255, 256, 1000])
def test_segments_of_any_number_of_classes(classes) -> None:
    """The last class is none that is ignored: what is, is the largest number of the label's type."""
    dtype = np.uint8 if classes == 255 else np.uint16
    ignore = np.iinfo(dtype).max
    prediction = np.full((6, 8), classes - 1, dtype)
    prediction[:, :3] = 254
    label = prediction.copy()
    whole = find_segments(prediction, label)
    assert whole.class_id.tolist() == ([254] if classes == 255 else [254, classes - 1])
    assert segment_iou(whole, label)[0].tolist() == [1] * whole.count
    label[:] = ignore
    assert find_segments(prediction, label).count == 0
    assert (segment_iou(whole, label)[0] == 0).all()

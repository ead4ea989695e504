from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from synthetic import write_cache
from threadpoolctl import threadpool_limits

from gradunc_viz.metrics.meta import ESTIMATORS, FAMILIES, feature_table, meta_classification, meta_regression
from gradunc_viz.metrics.segment_table import segment_statistics
from gradunc_viz.schema.errors import GraduncError


def table(n_frames: int = 20, per_frame: int = 25, seed: int = 0, signal: float = 1.0) -> xr.Dataset:
    """Segments whose gradient score tells their IoU, whose entropy tells less of it, and whose size tells nothing."""
    random = np.random.default_rng(seed)
    n = n_frames * per_frame
    quality = random.normal(size=n)
    iou = np.where(quality > -0.5, 1 / (1 + np.exp(-quality)), 0)

    def column(values, family, **attrs):
        return "segment", np.asarray(values), {"family": family, **attrs}

    boundary = random.normal(size=n)
    boundary[::17] = np.nan
    return xr.Dataset(
        {
            "iou": column(iou, "target"),
            "iou_adj": column(iou, "target"),
            "class_id": column(random.integers(0, 3, n), "class"),
            "size": column(random.integers(5, 500, n), "shape"),
            "interior_size": column(random.integers(1, 100, n), "shape"),
            "centroid_y": column(random.uniform(0, 99, n), "position"),
            "probability_0": column(random.uniform(size=n), "probability"),
            "pgn_oh_p1_mean": column(
                random.normal(size=n) * 0.3 - signal * quality, "gradient", score="pgn_oh_p1", statistic="mean"
            ),
            "pgn_oh_p1_boundary_mean": column(boundary, "gradient", score="pgn_oh_p1", statistic="boundary_mean"),
            "entropy_mean": column(
                random.normal(size=n) * 2 - signal * quality, "softmax", score="entropy", statistic="mean"
            ),
        },
        coords={"frame": ("segment", np.repeat([f"f{i:03}" for i in range(n_frames)], per_frame).astype(object))},
    )


@pytest.fixture(autouse=True)
def one_thread():
    """On so few segments threads wait for each other longer than they work."""
    with threadpool_limits(1):
        yield


CLASSIFIERS = ("logistic", "gradient_boosting")
REGRESSORS = ("linear", "gradient_boosting")
RUNS = [
    *((meta_classification, model) for model in CLASSIFIERS),
    *((meta_regression, model) for model in REGRESSORS),
]


# --------------------------------------------------------------------------------------------------------------------
# features


def test_features_by_family_score_and_name():
    segments = table()
    values, names = feature_table(segments)
    assert values.shape == (500, 10)
    assert names[:4] == ["size", "interior_size", "centroid_y", "class_0"]
    assert not {"iou", "iou_adj", "class_id"} & set(names)
    assert feature_table(segments, "gradient")[1] == ["pgn_oh_p1_mean", "pgn_oh_p1_boundary_mean"]
    assert feature_table(segments, ["entropy", "size", "entropy_mean"])[1] == ["entropy_mean", "size"]
    one_hot, names = feature_table(segments, "class")
    assert names == ["class_0", "class_1", "class_2"]
    assert (one_hot.sum(1) == 1).all()
    assert feature_table(segments, ["pgn_oh_p1", "logit"])[1] == ["pgn_oh_p1_mean", "pgn_oh_p1_boundary_mean"]


def test_unknown_features_are_named():
    with pytest.raises(GraduncError, match=r"'entropi'.*did you mean entropy"):
        feature_table(table(), ["entropi"])
    with pytest.raises(GraduncError, match="'iou'"):
        feature_table(table(), "iou")  # the target is no feature
    with pytest.raises(GraduncError, match="logit"):
        feature_table(table(), "logit")
    with pytest.raises(GraduncError, match="none named"):
        feature_table(table(), [])


# --------------------------------------------------------------------------------------------------------------------
# what is learnt


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_classification_finds_the_signal(model):
    result = meta_classification(table(), model=model, seeds=3, importance_repeats=2)
    test = result.sel(split="test")
    auroc = test["auroc_mean"].to_series()
    assert auroc["model"] > 0.9 > auroc["entropy"] > 0.6
    assert auroc["naive"] == 0.5
    accuracy = test["accuracy_mean"].to_series()
    assert accuracy["model"] > accuracy["naive"]
    assert result["importance_mean"].idxmax().item() == "pgn_oh_p1_mean"
    assert (result["state"] == "evaluated").all()
    np.testing.assert_allclose(result["auroc_mean"], result["auroc"].mean("seed"))
    np.testing.assert_allclose(result["auroc_std"], result["auroc"].std("seed"))


@pytest.mark.parametrize("model", REGRESSORS)
def test_regression_finds_the_signal(model):
    result = meta_regression(table(), model=model, seeds=3, importance_repeats=2)
    test = result.sel(split="test")
    r2 = test["r2_mean"].to_series()
    assert r2["model"] > 0.7 > r2["entropy"] > r2["naive"]
    assert r2["naive"] <= 0
    sigma = test["sigma_mean"].to_series()
    assert sigma["model"] < sigma["entropy"]
    assert abs(result["importance_mean"]).idxmax().item() == "pgn_oh_p1_mean"
    assert "n_positive" not in result


@pytest.mark.parametrize(("run", "model"), RUNS)
def test_without_signal_nothing_is_found(run, model):
    result = run(table(n_frames=40, signal=0), model=model, seeds=2, importance_repeats=0).sel(split="test")
    if "auroc" in result:
        assert abs(result["auroc_mean"].sel(estimator="model") - 0.5) < 0.1
    else:
        assert result["r2_mean"].sel(estimator="model") < 0.1


def test_naive_baselines_by_hand():
    segments = table()
    result = meta_classification(segments, seeds=1)
    n = result["n_segments"].isel(seed=0)
    positive = result["n_positive"].isel(seed=0)
    assert n.sum() == 500
    naive = result["accuracy"].sel(estimator="naive", split="test", seed=0)
    assert naive == pytest.approx(1 - (positive / n).sel(split="test").item())  # IoU = 0 is the rarer class
    r2 = meta_regression(segments, seeds=1)["r2"].sel(estimator="naive", split="train", seed=0)
    assert r2 == pytest.approx(0, abs=1e-12)


def test_standardised_coefficients_do_not_depend_on_units():
    segments = table()
    scaled = segments.assign(pgn_oh_p1_mean=segments["pgn_oh_p1_mean"] * 1000 + 7)
    scaled["pgn_oh_p1_mean"].attrs = segments["pgn_oh_p1_mean"].attrs
    first, second = (meta_regression(one, ["pgn_oh_p1_mean", "size"], seeds=2) for one in (segments, scaled))
    np.testing.assert_allclose(first["importance"], second["importance"], rtol=1e-6)
    np.testing.assert_allclose(first["r2"], second["r2"], rtol=1e-6)


@pytest.mark.parametrize(("run", "model"), RUNS)
def test_deterministic_under_seeds(run, model):
    options = {"model": model, "seeds": 2, "importance_repeats": 1}
    first, second = run(table(), **options), run(table(), **options)
    xr.testing.assert_identical(first, second)
    named = run(table(), **options | {"seeds": [1]})
    np.testing.assert_array_equal(named["importance"].squeeze("seed"), first["importance"].sel(seed=1))
    metric = next(iter(first.data_vars))
    assert (first[metric].sel(seed=0) != first[metric].sel(seed=1)).any()


def test_no_frame_is_in_both_parts(monkeypatch):
    # the score is a frame's fingerprint and IoU belongs to the frame: who sees a frame in training knows the answer
    segments = table(n_frames=60, per_frame=10)
    frames = np.repeat(np.arange(60), 10)
    random = np.random.default_rng(1)
    fingerprint, answer = random.permutation(60).astype("f8"), random.uniform(size=60)
    segments["iou_adj"].values[:] = answer[frames]
    segments["pgn_oh_p1_mean"].values[:] = fingerprint[frames]
    result = meta_regression(segments, "pgn_oh_p1_mean", model="gradient_boosting", seeds=3, importance_repeats=0)
    assert (result["r2"].sel(estimator="model", split="train") > 0.3).all()
    assert (result["r2"].sel(estimator="model", split="test") < 0.2).all()
    assert (result["n_frames"].sum("split") == 60).all()
    assert (result["n_frames"].sel(split="test") == 12).all()


def test_the_same_split_whatever_the_features():
    splits = [meta_classification(table(), features, seeds=3)["n_positive"] for features in ("shape", "gradient", None)]
    assert splits[0].equals(splits[1])
    assert splits[0].equals(splits[2])


# --------------------------------------------------------------------------------------------------------------------
# what cannot be learnt


@pytest.mark.parametrize(("run", "model"), RUNS)
def test_a_single_frame_cannot_be_split(run, model):
    result = run(table(n_frames=1), model=model, seeds=2)
    assert result["state"].values.tolist() == ["too few frames to split (1)"] * 2
    assert result["n_segments"].sel(split="train").values.tolist() == [25, 25]
    numbers = [name for name, found in result.data_vars.items() if found.dtype.kind == "f"]
    assert all(np.isnan(result[name]).all() for name in numbers)


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_one_class_to_train_on(model):
    segments = table(n_frames=5)
    segments["iou"].values[:] = 0.5
    result = meta_classification(segments, model=model, seeds=2)
    assert set(result["state"].values) == {"one class to train on"}
    assert np.isnan(result["auroc"]).all()
    assert np.isnan(result["accuracy"].sel(estimator="model")).all()
    assert (result["accuracy"].sel(estimator="naive") == 1).all()
    assert (result["n_positive"] == 0).all()


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_one_class_to_test_on(model):
    segments = table(n_frames=5)
    only = segments["frame"].values == "f003"
    segments["iou"].values[:] = np.where(only & (np.arange(125) % 2 == 0), 0, 0.5)
    result = meta_classification(segments, model=model, seeds=8)
    states = result["state"].values
    assert set(states) == {"one class to test on", "one class to train on"}
    tested = states == "one class to test on"
    auroc = result["auroc"].sel(estimator="model")
    assert np.isnan(auroc.sel(split="test")).all()
    assert np.isfinite(auroc.sel(split="train")[tested]).all()
    assert np.isfinite(result["accuracy"].sel(estimator="model", split="test")[tested]).all()
    assert np.isfinite(result["auroc_mean"].sel(estimator="model", split="train"))  # over the seeds that have a value


@pytest.mark.parametrize("model", REGRESSORS)
def test_one_iou_to_test_on(model):
    segments = table(n_frames=4)
    segments["iou_adj"].values[:] = 0.25
    result = meta_regression(segments, model=model, seeds=1)
    assert result["state"].item() == "one IoU to test on"
    assert np.isnan(result["r2"]).all()
    np.testing.assert_allclose(result["sigma"].sel(estimator=["model", "naive"]), 0, atol=1e-12)


def test_ties_and_constant_features():
    segments = table()
    segments["pgn_oh_p1_mean"].values[:] = 3
    segments["pgn_oh_p1_boundary_mean"].values[:] = np.nan
    for run, model in RUNS:
        result = run(segments, "gradient", model=model, seeds=2, importance_repeats=1)
        name = "auroc" if "auroc" in result else "r2"
        chance = result[name].sel(estimator="naive")
        np.testing.assert_allclose(result[name].sel(estimator="model"), chance, atol=1e-9)
        np.testing.assert_allclose(result["importance"], 0, atol=1e-12)


def test_segments_without_iou_or_interior_are_left_out():
    segments = table()
    segments["iou"].values[:100] = np.nan
    segments["interior_size"].values[100:150] = 0
    assert (meta_classification(segments, seeds=1)["n_segments"].sum("split") == 350).all()
    assert (meta_classification(segments, seeds=1, min_interior=0)["n_segments"].sum("split") == 400).all()


def test_without_entropy_there_is_no_such_baseline():
    result = meta_classification(table().drop_vars("entropy_mean"), seeds=1)
    assert np.isnan(result["auroc"].sel(estimator="entropy")).all()
    assert result.attrs["entropy_baseline"] == "absent"


def test_wrong_requests_are_named():
    with pytest.raises(GraduncError, match="unknown model 'linear', expected one of logistic, gradient_boosting"):
        meta_classification(table(), model="linear")
    with pytest.raises(GraduncError, match="unknown model 'logistic'"):
        meta_regression(table(), model="logistic")
    with pytest.raises(GraduncError, match=r"test_size is 1\.5"):
        meta_regression(table(), test_size=1.5)


# --------------------------------------------------------------------------------------------------------------------
# caches


@pytest.mark.parametrize(("run", "model"), RUNS)
def test_from_a_cache_to_a_table(run, model, tmp_path):
    cache = write_cache(tmp_path / "cache", list("abcde"), [(32, 48), (24, 40)])
    segments = segment_statistics(cache)
    segments["iou"].values[::3] = 0  # these scenes are too easy to have wrong segments
    result = run(segments, model=model, seeds=2, min_interior=0, importance_repeats=1)
    assert set(result["state"].values) == {"evaluated"}
    assert result.sizes["feature"] == len(feature_table(segments, FAMILIES)[1])
    metric = next(iter(result.data_vars))
    frame = result[[f"{metric}_mean", f"{metric}_std"]].to_dataframe()
    assert set(frame.index.get_level_values("estimator")) == set(ESTIMATORS)
    assert np.isfinite(frame.to_numpy()).all()


@pytest.mark.parametrize(("run", "model"), RUNS)
def test_a_cache_without_frames_or_labels(run, model, tmp_path):
    cache = write_cache(tmp_path / "cache", ["a", "b"], [(24, 40)], label=False)
    for frames in (None, []):
        result = run(segment_statistics(cache, frames=frames), model=model, seeds=1)
        assert result["state"].item() == "too few frames to split (0)"
        assert (result["n_segments"] == 0).all()

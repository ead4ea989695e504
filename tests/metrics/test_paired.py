"""Paired differences: against scikit-learn on the pixels of resampled frames, the same draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.counts.pool import Bootstrap, frame_draws
from gradunc_viz.metrics.paired import paired_difference, two_sided_p
from gradunc_viz.schema.errors import GraduncError, UnknownScoreError
from gradunc_viz.tables.paired import paired_records, paired_sentences, paired_table

FRAMES, SIZE, SAMPLES = 8, (40, 50), 60


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[gv.Cache, dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """A cache of three imported scores, their maps, and what is unknown: good, better, and one of few values."""
    folder = tmp_path_factory.mktemp("paired")
    random = np.random.default_rng(0)
    maps: dict[str, dict[str, np.ndarray]] = {name: {} for name in ("good", "better", "few")}
    truth = {}
    for name in ("images", "anomalies"):
        (folder / "set" / name).mkdir(parents=True)
    for i in range(FRAMES):
        frame = f"f{i}"
        unknown = random.random(SIZE) < 0.05 + 0.1 * random.random()
        shared = random.standard_normal(SIZE) + (1 + random.random()) * unknown
        maps["good"][frame] = shared + 0.5 * random.standard_normal(SIZE)
        maps["better"][frame] = shared + 0.2 * random.standard_normal(SIZE)
        maps["few"][frame] = np.round(shared)
        truth[frame] = unknown
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), "u1")).save(folder / f"set/images/{frame}.png")
        Image.fromarray(unknown.astype("u1")).save(folder / f"set/anomalies/{frame}.png")
    folders = {}
    for name, own in maps.items():
        folders[name] = folder / name
        folders[name].mkdir()
        for frame, values in own.items():
            own[frame] = values.astype("f4")
            np.save(folders[name] / f"{frame}.npy", own[frame])
    cache = gv.import_maps(folders, gv.open_frames(folder / "set"), folder / "cache", progress=False)
    return cache, {f"ext:{name}": own for name, own in maps.items()}, truth


def of_pixels(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    return np.array([average_precision_score(truth, values), roc_auc_score(truth, values), fpr[(tpr >= 0.95).argmax()]])


def test_it_is_the_bootstrap_of_the_pixels(simulated):
    cache, maps, truth = simulated
    found = paired_difference(cache, "ext:good", bootstrap=SAMPLES, seed=3).isel(cache=0)
    drawn = np.stack(list(frame_draws(cache.ids, Bootstrap(SAMPLES, 3)).values()), 1)
    for name in ("ext:better", "ext:few"):
        samples, whole = [], None
        for times in (np.ones(FRAMES, int), *drawn):
            frames = np.repeat(cache.ids, times)
            label = np.concatenate([truth[frame].ravel() for frame in frames])
            one, base = (
                of_pixels(np.concatenate([maps[score][frame].ravel() for frame in frames]), label)
                for score in (name, "ext:good")
            )
            if whole is None:
                whole = one - base
                np.testing.assert_allclose(found["value"].sel(score=name), one, atol=1e-4)
                np.testing.assert_allclose(found["base"].sel(score=name), base, atol=1e-4)
            else:
                samples.append(one - base)
        np.testing.assert_allclose(found["difference"].sel(score=name), whole, atol=2e-4)
        low, high = np.quantile(samples, (0.025, 0.975), axis=0)
        np.testing.assert_allclose(found["low"].sel(score=name), low, atol=1e-3)
        np.testing.assert_allclose(found["high"].sel(score=name), high, atol=1e-3)
        p = [min(1, 2 * (1 + min((d <= 0).sum(), (d >= 0).sum())) / (SAMPLES + 1)) for d in np.array(samples).T]
        np.testing.assert_allclose(found["p"].sel(score=name), p, atol=2.1 / (SAMPLES + 1))
    assert found["p"].sel(score="ext:better", metric="auprc") == pytest.approx(2 / (SAMPLES + 1))
    assert found["difference"].sel(score="ext:good").isnull().all()


def test_pairs_are_far_surer_than_scores_alone(simulated):
    cache = simulated[0]
    alone = gv.evaluate(cache, bootstrap=200).sel(pooling="pixels", score="ext:better").isel(cache=0)
    pair = paired_difference(cache, "ext:good", bootstrap=200).sel(score="ext:better", metric="auprc").isel(cache=0)
    assert pair["high"] - pair["low"] < 0.5 * (alone["auprc_high"] - alone["auprc_low"])


def test_p_counts_the_rarer_side():
    assert two_sided_p(np.r_[np.ones(97), -1, 0, 0]) == pytest.approx(2 * 4 / 101)
    assert two_sided_p(np.zeros(10)) == 1
    assert two_sided_p(np.r_[np.nan, 1.0, 2.0]) == pytest.approx(2 / 3)
    assert np.isnan(two_sided_p(np.array([np.nan])))


def test_two_networks_on_the_same_frames(simulated, tmp_path):
    cache = simulated[0]
    both = paired_difference({"a": cache, "b": cache}, ("a", "ext:good"), bootstrap=50)
    np.testing.assert_array_equal(both["difference"].sel(cache="a", score="ext:few"),
                                  both["difference"].sel(cache="b", score="ext:few"))  # fmt: skip
    assert both["difference"].sel(cache="a", score="ext:good").isnull().all()
    assert (both["difference"].sel(cache="b", score="ext:good") == 0).all()
    assert (both["p"].sel(cache="b", score="ext:good") == 1).all()
    own = paired_difference(cache, "ext:good", bootstrap=50)
    np.testing.assert_array_equal(own.isel(cache=0)["low"], both["low"].sel(cache="a"))


def test_frames_that_a_cache_lacks_are_left_out(simulated, tiny_cache):
    cache = simulated[0]
    frames = paired_difference(cache, "ext:good", bootstrap=50, frames=["f1", "f2", "f5"])
    assert int(frames["n_frames"]) == 3
    one = paired_difference(cache, "ext:good", bootstrap=50, frames=["f1"])
    assert one[["low", "high", "p"]].isnull().all().to_array().all()
    assert one["difference"].sel(score="ext:few").notnull().all()
    assert paired_table(one).notes == ("of 1 frame: no interval and no p, which need several",)
    with pytest.raises(GraduncError, match="no labelled frame is in all of them; a paired comparison needs the same"):
        paired_difference({"one": cache, "two": tiny_cache}, ("one", "ext:good"), "anomaly")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"reference": "entropy"},
            UnknownScoreError,
            "score 'entropy', to compare with, is not cached; it has ext",
        ),
        ({"reference": ("moon", "ext:good")}, GraduncError, "reference is of cache 'moon'; expected one of cache"),
        ({"metrics": "nonsense"}, GraduncError, "unknown metric 'nonsense'"),
        ({"metrics": "component_f1"}, GraduncError, "metric 'component_f1' is of objects"),
        ({"bootstrap": 0}, GraduncError, "bootstrap is 0; expected a whole number of 1 or more"),
        ({"task": "error"}, GraduncError, "class labels"),
    ],
)
def test_what_cannot_be_compared(simulated, options, error, says):
    with pytest.raises(error, match=says):
        paired_difference(simulated[0], **({"reference": "ext:good"} | options))


def test_by_class_and_task(tiny_cache):
    for task in ("error", "anomaly"):
        found = paired_difference(tiny_cache, "entropy", task, bootstrap=20, classes=["class 2"], scores=["msp"])
        assert list(found["score"].values) == ["entropy", "msp"]
        assert found["p"].sel(score="msp").notnull().all()


def test_tables_and_words(simulated):
    result = paired_difference(simulated[0], "ext:good", bootstrap=50)
    table = paired_table(result)
    assert [c.name for c in table.columns[:3]] == ["AuPRC", "Δ AuPRC", "p AuPRC"]
    assert "[" in table.to_markdown()
    assert r"$\Delta$ AuPRC" in table.to_latex()
    assert "<small>[" in table.to_html()
    assert table.to_csv().splitlines()[0].endswith("Δ FPR95 (low),Δ FPR95 (high)")
    records = paired_records(result)
    assert len(records) == 9
    assert records[0]["base"] is None
    (line,) = paired_sentences(result, ["ext:better", "ext:good"])
    assert line.startswith("cache: ext:better less ext:good in AuPRC: +")
    assert line.endswith(": better")
    assert paired_sentences(result, ["ext:better"], "fpr95")[0].endswith((": better", "to be sure of"))


def test_from_the_command_line(simulated, capsys, tmp_path):
    cache = str(simulated[0].path)
    assert main(["evaluate", cache, "--against", "ext:good", "--bootstrap", "40", "--quiet"]) == 0
    assert "Δ AuPRC" in capsys.readouterr().out
    forms = [
        part for form in ("json", "csv", "latex", "markdown", "html") for part in (f"--{form}", str(tmp_path / form))
    ]
    assert main(["evaluate", cache, "--against", "cache:ext:good", "--bootstrap", "40", *forms, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "json").read_text())[0]["reference"] == "cache: ext:good"
    assert all((tmp_path / form).read_text() for form in ("csv", "latex", "markdown", "html"))
    assert main(["evaluate", cache, "--against", "ext:good", "--by", "frame", "--quiet"]) == 1
    assert "--against compares scores over all pixels; expected no --by" in capsys.readouterr().err
    assert main(["evaluate", cache, "--markdown", "--html", str(tmp_path / "page"), "--bootstrap", "5", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("| score | AuROC ↑ |")

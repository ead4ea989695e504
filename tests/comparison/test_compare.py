"""Every score that a network allows, in one table."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny import TinyNet, write_set
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.comparison.candidates import OF_MEAN, ONE_PASS, candidates, every_score
from gradunc_viz.comparison.compare import Comparison
from gradunc_viz.schema.errors import FrameError, GraduncError, UnknownScoreError
from gradunc_viz.schema.scores import SCORES, lookup


class Dropping(TinyNet):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.drop(F.softplus(self.body(x))))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    frames = gv.open_frames(write_set(folder / "frames", 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network that nobody trained predicts some classes nowhere
        return gv.compare(
            [Dropping(0), Dropping(1)],
            frames[:2],
            folder / "out",
            fit_on=frames[2:],
            pixels=2000,
            bootstrap=20,
            passes=3,
            progress=False,
        )


def test_every_score_is_in_the_table_or_left_out_with_a_reason(comparison: Comparison) -> None:
    left_out = {name: why for why, names in comparison.left_out.items() for name in names}
    assert set(every_score()) <= {*comparison.table.rows, *left_out}
    assert set(comparison.caches) == {ONE_PASS, "dropout", "members", "augmented"}
    assert "is made of output channels that are no class" in left_out["void"]
    assert {"pgn2_oh_p1", "knn", "odin", "mcd_entropy", "ens_variance", "tta_msp", "fisher"} <= set(
        comparison.table.rows
    )
    assert {f"{name} (ens)" for name in OF_MEAN} <= set(comparison.table.rows)
    for name in left_out:
        assert any("left out: " in note and name in note for note in comparison.table.notes)


def test_numbers_are_those_of_the_caches(comparison: Comparison) -> None:
    table = comparison.table
    names = [column.name for column in table.columns]
    for run, row, score in (
        (ONE_PASS, "entropy", "entropy"),
        ("dropout", "mcd_variance", "mcd_variance"),
        ("members", "pgn_oh_p1 (ens)", "pgn_oh_p1"),
    ):
        own = gv.evaluate(comparison.caches[run], "anomaly", scores=[score], bootstrap=20).isel(cache=0, score=0)
        values = dict(zip(names, table.values[table.rows.index(row)], strict=True))
        ends = dict(zip(names, table.intervals[table.rows.index(row)], strict=True))
        for metric, short in (("auprc", "AuPRC"), ("auroc", "AuROC"), ("fpr95", "FPR95")):
            assert values[short] == float(own[metric].sel(pooling="pixels"))
            assert ends[short][0] == float(own[f"{metric}_low"].sel(pooling="pixels"))
        assert values["ms"] > 0
        assert values["kB"] > 0
        assert 0 <= values["ECE"] <= 1
    first = table.values[:, names.index("AuPRC")]
    assert (np.diff(first) <= 0).all()


def test_table_is_written_in_every_form(comparison: Comparison, folder: Path) -> None:
    texts = {
        suffix: (folder / f"out/comparison.{suffix}").read_text() for suffix in ("txt", "md", "tex", "html", "csv")
    }
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [row["score"] for row in rows] == list(comparison.table.rows)
    for text in texts.values():
        assert "mcd_entropy" in text or "H" in text
    assert "**" in texts["md"]
    assert r"\bfseries" in texts["tex"]
    assert r"\underline" in texts["tex"]
    assert "<b>" in texts["html"]
    assert "<u>" in texts["html"]
    assert repr(comparison) in texts["txt"]


def test_it_is_resumed(comparison: Comparison, folder: Path) -> None:
    frames = gv.open_frames(folder / "frames")
    again = gv.compare(
        Dropping(0), frames[:2], folder / "few", "entropy,mcd_entropy", bootstrap=0, passes=3, progress=False
    )
    before = {path: path.stat().st_mtime_ns for path in (folder / "few").rglob("frames/*")}
    third = gv.compare(
        Dropping(0), frames[:2], folder / "few", "entropy,mcd_entropy", bootstrap=0, passes=3, progress=False
    )
    assert {path: path.stat().st_mtime_ns for path in (folder / "few").rglob("frames/*")} == before
    assert again.table.rows == third.table.rows
    np.testing.assert_array_equal(again.table.values[:, :4], third.table.values[:, :4])
    place = comparison.table.rows.index("mcd_entropy")
    np.testing.assert_array_equal(
        third.table.values[third.table.rows.index("mcd_entropy"), :2], comparison.table.values[place, :2]
    )


def test_a_score_that_fails_is_found_in_few_attempts() -> None:
    attempts = []

    def attempt(run: str, scores: tuple[str, ...]) -> None:
        attempts.append(scores)
        if "energy" in scores:
            raise GraduncError("score 'energy' has none")

    names = [name for name, score in SCORES.items() if score.family in ("softmax", "logit")]
    found = candidates(names, attempt)
    assert found.runs == {ONE_PASS: tuple(name for name in names if name != "energy")}
    assert found.left_out == {"score ... has none": ["energy"]}
    assert len(attempts) < len(names)


def test_a_score_that_cannot_be_fitted_is_told_once(folder: Path, tmp_path: Path) -> None:
    frames = gv.open_frames(folder / "frames")
    found = gv.compare(
        TinyNet(), frames[:1], tmp_path / "out", "msp,knn", fit_on=frames[2:3], pixels=20, bootstrap=0, cost=False,
        progress=False,
    )  # fmt: skip
    assert found.table.rows == ("msp",)
    ((why, names),) = found.left_out.items()
    assert names == ["knn"]
    assert "20" in why


def test_bad_input_is_told(folder: Path, tmp_path: Path) -> None:
    plain = gv.open_frames(write_set(tmp_path / "plain", 1, labels=False, anomalies=False))
    with pytest.raises(GraduncError, match="no frame has"):
        gv.compare(TinyNet(), plain, tmp_path / "out", "msp", progress=False)
    with pytest.raises(GraduncError, match="bootstrap is -1; expected a whole number of 0 or more"):
        gv.compare(TinyNet(), plain, tmp_path / "out", "msp", bootstrap=-1, progress=False)
    with pytest.raises(GraduncError, match="unknown track 'sea', expected one of anomaly, obstacle"):
        gv.compare(TinyNet(), plain, tmp_path / "out", "msp", track="sea", progress=False)
    with pytest.raises(FrameError, match="no frames to compare"):
        gv.compare(TinyNet(), [], tmp_path / "out", "msp", progress=False)
    with pytest.raises(UnknownScoreError, match="entropy"):
        gv.compare(TinyNet(), plain, tmp_path / "out", "entropi", progress=False)
    with pytest.raises(GraduncError, match=r"no score can be computed: .*channels"):
        gv.compare(TinyNet(), plain, tmp_path / "out", "void", progress=False)
    assert lookup("void").family == "softmax"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(Path(gv.data_path("demo")))
    given = (
        f"--model demo --data {data} --limit 1 --scores msp,void,vim,pgn_oh_p1 --fit-data {data} --task error --no-cost"
    )
    with pytest.warns(UserWarning, match="scores were fitted on 1 of the frames"):
        code = main(["compare", *given.split(), "--out", str(tmp_path / "out"), "--quiet"])
    text = capsys.readouterr()
    assert code == 0
    assert "vim" in text.out
    assert "left out: void" in text.out
    assert "kB" not in text.out
    assert gv.Fit.load(tmp_path / "out/fit.safetensors").scores == ("vim",)
    assert (tmp_path / "out/fit.safetensors").is_file()

"""Tables in every form: best and second, alignment, escaping, missing values; LaTeX that compiles."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import SCORES

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.metrics.calibration import score_calibration
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.tables.table import Column, Table, best, latex_text, second


@pytest.fixture
def table() -> Table:
    columns = (Column("a_b & <c>", "AuPRC", +1), Column("a_b & <c>", "FPR95", -1), Column("two|", "R²", +1))
    values = np.array([[0.5, 0.031, -0.2], [0.25001, 0.9, np.nan], [0.25, 0.0512, 0.1]])
    spread = np.array([[np.nan, np.nan, 0.01], [np.nan, np.nan, np.nan], [np.nan, np.nan, 0.123]])
    rows = ("x_1", "y|<b>", "$z$")
    return Table("A <title>", rows, columns, values, (r"$x_1$", "y&", r"\$z\$"), spread, ("note <i>",))


def test_best_and_second() -> None:
    values = np.array([3, 1, np.nan, 3, 2.0])
    assert best(values, +1).tolist() == [1, 0, 0, 1, 0]
    assert second(values, +1).tolist() == [0, 0, 0, 0, 1]
    assert best(values, -1).tolist() == [0, 1, 0, 0, 0]
    assert not second(np.array([1.0, 1.0]), +1).any()
    assert not best(np.array([np.nan]), +1).any()


def test_marks_follow_what_is_shown(table: Table) -> None:
    assert table.best().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    # 25.00 and 25.00: what reads the same is equally good
    assert table.second().tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 0]]


def test_latex(table: Table) -> None:
    text = table.to_latex()
    assert r"\multicolumn{2}{c}{a\_b \& <c>} & \multicolumn{2}{c}{two|}" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}" in text
    assert r"S[table-format=-2.2, detect-weight, mode=text]@{$\,\pm\,$}S[table-format=2.2]" in text
    body = text.split(r"\midrule")[1].splitlines()[1:4]
    assert body[0] == r"$x_1$ & \bfseries 50.00 & \bfseries 3.10 & {\underline{$-$20.00}} & 1.00 \\"
    assert body[1] == r"y\& & {\underline{25.00}} & 90.00 & {--} & {--} \\"
    assert body[2] == r"\$z\$ & {\underline{25.00}} & {\phantom{0}\underline{5.12}}".replace("{0}\\u", "{0}\\u") + (
        r" & \bfseries 10.00 & 12.30 \\"
    )
    assert text.startswith("% needs \\usepackage{booktabs,siunitx}\n% A <title> (in %)\n% note <i>\n")


def test_latex_text_keeps_formulas() -> None:
    assert latex_text(r"$a_b$ 50 % & \$1 #{x}~^\ ") == (
        r"$a_b$ 50 \% \& \$1 \#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{} "
    )


def test_markdown(table: Table) -> None:
    lines = table.to_markdown().splitlines()
    assert lines[0] == r"| score | a_b & <c>: AuPRC ↑ | a_b & <c>: FPR95 ↓ | two\|: R² ↑ |"
    assert lines[2] == "| x_1 | **50.00** | **3.10** | *-20.00 ± 1.00* |"
    assert lines[3] == r"| y\|<b> | *25.00* | 90.00 | – |"


def test_csv_is_not_rounded(table: Table) -> None:
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows[0] == ["score", "a_b & <c>: AuPRC", "a_b & <c>: FPR95", "two|: R²", "a_b & <c>: AuPRC (std)",
                       "a_b & <c>: FPR95 (std)", "two|: R² (std)"]  # fmt: skip
    assert rows[2] == ["y|<b>", "0.25001", "0.9", "", "", "", ""]


def test_data_frame(table: Table) -> None:
    frame = table.to_dataframe()
    assert list(frame.columns) == [("a_b & <c>", "AuPRC"), ("a_b & <c>", "FPR95"), ("two|", "R²")]
    np.testing.assert_array_equal(frame.to_numpy(), table.values)


def test_html_escapes_and_text_reads(table: Table) -> None:
    page = table._repr_html_()
    assert "<b>50.00</b>" in page
    assert "<u>-20.00 ± 1.00</u>" in page
    for hostile in ("<c>", "y|<b>", "<title>", "<i>"):
        assert hostile not in page
    assert "50.00*" in repr(table)
    assert repr(table).splitlines()[-1] == "note <i>"


# --------------------------------------------------------------------------------------------------------------------
# the paper's tables


def test_pixel_table_holds_the_metrics(tiny_cache: gv.Cache) -> None:
    frame = figures.pixel_table({"one": tiny_cache, "two": tiny_cache}, sort=None).to_dataframe()
    assert tuple(frame.index) == SCORES
    first = figures.pixel_table({"one": tiny_cache, "two": tiny_cache})
    assert set(first.rows) == set(SCORES)
    assert (np.diff(first.to_dataframe()["one"]["AuPRC"]) <= 0).all()
    result = gv.evaluate(tiny_cache, "error", bootstrap=0).isel(cache=0).sel(pooling="pixels")
    for name in ("one", "two"):
        np.testing.assert_allclose(frame[name]["AuSE"], gv.sparsification(tiny_cache)["ause"].sel(error="brier")[0])
        np.testing.assert_allclose(frame[name]["AuROC"], result["auroc"])
        np.testing.assert_allclose(frame[name]["AuPRC"], result["auprc"])
        np.testing.assert_allclose(frame[name]["ECE"], score_calibration(tiny_cache)["ece"][0])


def test_ece_of_the_softmax_is_that_of_the_network(tiny_cache: gv.Cache) -> None:
    found = score_calibration(tiny_cache, scores="msp")["ece"].item()
    # a cached bin may lie across the border of two bins of confidence
    assert found == pytest.approx(gv.calibration(tiny_cache)["ece"].item(), abs=0.01)


@pytest.mark.parametrize("name", ["pgn_oh_p1", "pgn_uni_p0.5", "entropy"])
def test_ece_of_a_score_from_its_pixels(tiny_cache: gv.Cache, name: str) -> None:
    values, right = [], []
    for dataset in tiny_cache.values():
        known = dataset["label"].values != 255
        values.append(gv.score(dataset, name).values[known].astype("f8"))
        right.append((dataset["label"].values == dataset["prediction"].values)[known])
    score, hit = np.concatenate(values), np.concatenate(right)
    if name == "entropy":
        confidence = 1 - score / np.log(4)
    else:
        norm = np.exp2(score * gv.lookup(name).orientation)
        confidence = 1 - norm / norm.max() if name.startswith("pgn_oh") else norm / norm.max()
    place = np.minimum((confidence.clip(0, 1) * 15).astype(int), 14)
    gaps = [abs(hit[place == b].sum() - confidence[place == b].sum()) for b in range(15)]
    assert score_calibration(tiny_cache, scores=name)["ece"].item() == pytest.approx(sum(gaps) / len(hit), abs=0.01)


def test_ood_table_holds_pixels_and_components(tiny_cache: gv.Cache) -> None:
    frame = figures.ood_table(tiny_cache, track="obstacle", scores=["entropy", "msp"]).to_dataframe()["cache"]
    assert list(frame.columns) == ["AuPRC", "FPR95", "sIoU", "PPV", "mean F1"]
    found = gv.evaluate_components(tiny_cache, "entropy", track="obstacle")
    np.testing.assert_allclose(
        frame.loc["entropy", ["sIoU", "PPV", "mean F1"]], [found["siou"], found["ppv"], found["f1"]]
    )
    assert list(figures.ood_table(tiny_cache, components=False).to_dataframe()["cache"]) == ["AuPRC", "FPR95"]
    with pytest.raises(GraduncError, match="unknown track"):
        figures.ood_table(tiny_cache, track={"cache": "moon"})


def test_segment_table_holds_mean_and_deviation(tiny_cache: gv.Cache) -> None:
    made = figures.segment_table(tiny_cache, scores=["entropy", "pgn_oh_p1"], seeds=3)
    assert made.rows == ("entropy", "pgn_oh_p1", "all softmax scores", "all gradient norms", "all features")
    segments = gv.segment_statistics(tiny_cache, ["entropy", "pgn_oh_p1"])
    for row, features in (("pgn_oh_p1", "pgn_oh_p1"), ("all features", None)):
        for c, (task, metric) in enumerate(((gv.meta_classification, "auroc"), (gv.meta_regression, "r2"))):
            found = task(segments, features, seeds=3).sel(estimator="model", split="test")
            r = made.rows.index(row)
            np.testing.assert_allclose(made.values[r, c], found[f"{metric}_mean"])
            np.testing.assert_allclose(made.spread[r, c], found[f"{metric}_std"])


def test_caches_may_lack_scores_of_each_other(tiny_cache: gv.Cache, tiny_set: Path, tmp_path: Path) -> None:
    from tiny import TinyNet

    other = gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), tmp_path / "other", scores=["msp"], progress=False)
    made = figures.pixel_table([tiny_cache, other])
    assert set(made.rows) == set(SCORES)
    assert figures.pixel_table([other, tiny_cache], sort="auroc").rows[0] == "msp"
    with pytest.raises(GraduncError, match="no column 'FPR95' to sort by; expected one of ECE, AuSE, AuROC, AuPRC"):
        figures.pixel_table(tiny_cache, sort="fpr95")
    values = made.to_dataframe()["other"]
    assert values.loc["msp"].notna().all()
    assert values.drop("msp").isna().all(axis=None)
    assert "{--}" in made.to_latex()


def test_tables_compile(table: Table, tiny_cache: gv.Cache, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    for package in ("booktabs", "siunitx"):
        if not subprocess.run(["kpsewhich", f"{package}.sty"], capture_output=True, check=False).stdout:
            pytest.skip(f"LaTeX has no {package}")
    made = [
        table,
        figures.pixel_table({"a_1 & b": tiny_cache, "50 %": tiny_cache}),
        figures.ood_table(tiny_cache),
        figures.segment_table(tiny_cache, scores=["entropy"], seeds=2),
    ]
    body = "\n\n".join(one.to_latex() for one in made)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,siunitx}\\begin{document}\n" + body + "\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Package siunitx Error" not in done.stdout


@pytest.fixture
def flagged() -> Table:
    columns = tuple(
        Column(group, name, way) for group in ("one", "two") for name, way in (("AuPRC", +1), ("FPR95", -1))
    )
    rows = ("short", "a_name-of.many_words_as_people_give_them_to_files", "$x$")
    values = np.array([[0.1, 0.9, 0.2, np.nan], [0.3, 0.2, 0.1, 0.8], [np.nan, np.nan, 0.4, 0.5]])
    wrong = np.array([[False, True], [True, False], [False, False]])
    return Table("Some", rows, columns, values, notes=("note",), wrong_side=wrong)


def test_scores_on_the_wrong_side_are_marked_in_every_form(flagged: Table) -> None:
    text, markdown, page = repr(flagged), flagged.to_markdown(), flagged._repr_html_()
    assert "short †" in text
    assert "| short † | " in markdown
    assert "_to_files † | " in markdown
    assert "| $x$ | " in markdown
    assert "short †</td>" in page
    latex = flagged.to_latex()
    assert r"short$^\dagger$ & " in latex
    assert r"$x$ & {--}" in latex
    below = r"\multicolumn{5}{p{0.9\linewidth}}{\footnotesize\raggedright $^\dagger$ "
    assert below + r"AuROC below 50 \%: negated, it finds more} \\" in latex
    told = replace(flagged, notes=("note", "† one: short, turned round: AuPRC 40.0 %")).to_latex()
    assert below + r"one: short, turned round: AuPRC 40.0 \%} \\" in told
    rows = list(csv.reader(io.StringIO(flagged.to_csv())))
    assert rows[0][-2:] == ["one: wrong side", "two: wrong side"]
    assert [row[-2:] for row in rows[1:]] == [["false", "true"], ["true", "false"], ["false", "false"]]
    assert flagged.to_dataframe().attrs["wrong side"] == {"one": [flagged.rows[1]], "two": ["short"]}
    assert "†" not in repr(replace(flagged, wrong_side=None))
    assert "dagger" not in replace(flagged, wrong_side=np.zeros((3, 2), bool)).to_latex()


def test_long_names_are_broken_and_nothing_is_cut_off(flagged: Table) -> None:
    lines = repr(flagged).splitlines()
    assert max(map(len, lines)) <= 100
    assert "".join(lines[3:5]).replace(" ", "").startswith("a_name-of.many_words_as_people_")
    latex = flagged.to_latex()
    assert r"\begin{tabular}{p{0.3\linewidth}" in latex
    assert r"\raggedright a\_\allowbreak{}name-\allowbreak{}of.\allowbreak{}many\_\allowbreak{}words" in latex
    many = Table("Some", ("a", "b"), tuple(Column(f"cache number {i}", "AuPRC") for i in range(9)), np.ones((2, 9)))
    assert max(map(len, repr(many).splitlines())) <= 100
    assert repr(many).count("cache number") == 9


def test_the_best_comes_first(flagged: Table) -> None:
    first = flagged.best_first("AuPRC")
    assert first.rows == (flagged.rows[1], "short", "$x$")
    np.testing.assert_array_equal(first.wrong_side, flagged.wrong_side[[1, 0, 2]])
    np.testing.assert_array_equal(first.values, flagged.values[[1, 0, 2]])
    assert flagged.best_first("FPR95").rows == (flagged.rows[1], "short", "$x$")


# --------------------------------------------------------------------------------------------------------------------
# intervals


@pytest.fixture
def with_intervals() -> Table:
    columns = (Column("one", "AuPRC", +1), Column("one", "Δ", 0), Column("one", "ms", 0, 1, 1))
    values = np.array([[0.5, -0.031, 12], [0.25, 0.02, np.nan]])
    ends = np.full((2, 3, 2), np.nan)
    ends[0, 1], ends[1, 1], ends[1, 0] = (-0.1, 0.001), (0.01, 0.03), (0.2, 0.3)
    return Table("T", ("a", "b"), columns, values, intervals=ends, units="")


@pytest.mark.parametrize("place", ["beside", "beneath"])
def test_intervals_in_every_form(with_intervals: Table, place) -> None:
    table = replace(with_intervals, place=place)
    markdown = table.to_markdown().splitlines()
    between = {"beside": " ", "beneath": "<br>"}[place]
    assert markdown[2] == f"| a | **50.00** | -3.10{between}[-10.00, 0.10] | 12.0 |"
    assert markdown[3] == f"| b | *25.00*{between}[20.00, 30.00] | 2.00{between}[1.00, 3.00] | – |"
    page = table.to_html()
    assert f"-3.10{between}<small>[-10.00, 0.10]</small>" in page
    assert page == table._repr_html_()
    text = table.to_text().splitlines()
    assert text[0] == "T, * best, _ second"
    if place == "beside":
        assert text[2].split() == ["a", "50.00*", "-3.10", "[-10.00,", "0.10]", "12.0"]
        assert len(text) == 4
    else:
        assert text[2].split() == ["a", "50.00*", "-3.10", "12.0"]
        assert text[3].split() == ["[-10.00,", "0.10]"]
        assert text[5].split() == ["[20.00,", "30.00]", "[1.00,", "3.00]"]
        assert text[3].index("0.10]") + 5 == text[1].index("Δ") + 1  # below its column
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows[0] == ["score", "AuPRC", "Δ", "ms", "AuPRC (low)", "AuPRC (high)", "Δ (low)", "Δ (high)"]
    assert rows[1] == ["a", "0.5", "-0.031", "12.0", "", "", "-0.1", "0.001"]


def test_intervals_in_latex(with_intervals: Table) -> None:
    beside = with_intervals.to_latex()
    assert r"\multicolumn{2}{c}{AuPRC $\uparrow$} & \multicolumn{2}{c}{$\Delta$} & {ms}" in beside
    assert beside.count(r"@{\,}l") == 2
    assert r"a & \bfseries 50.00 & {\footnotesize } & -3.10 & {\footnotesize [$-$10.00, 0.10]} & 12.0 \\" in beside
    beneath = replace(with_intervals, place="beneath").to_latex()
    lines = beneath.split(r"\midrule")[1].splitlines()[1:5]
    assert lines[0] == r"a & \bfseries 50.00 & -3.10 & 12.0 \\"
    assert lines[1] == r" &  & \multicolumn{1}{c}{\footnotesize [$-$10.00, 0.10]} &  \\"
    for body in (beside, beneath):  # as many cells in every row
        rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn{3}" not in line]
        wide = {row.count("&") + sum(int(n) - 1 for n in re.findall(r"multicolumn\{(\d)\}", row)) for row in rows}
        assert len(wide) <= 2


def test_intervals_move_with_their_rows_and_are_checked(with_intervals: Table) -> None:
    turned = replace(with_intervals, values=-with_intervals.values).best_first("AuPRC")
    assert turned.rows == ("b", "a")
    assert turned.to_csv().splitlines()[1].endswith("0.2,0.3,0.01,0.03")
    with pytest.raises(GraduncError, match="place of intervals is 'above'; expected 'beside' or 'beneath'"):
        replace(with_intervals, place="above")


def test_an_evaluation_with_its_intervals(tiny_cache: gv.Cache) -> None:
    result = gv.evaluate(tiny_cache, "error", bootstrap=5)
    plain = gv.tables.evaluation_table(result)
    assert "[" not in plain.to_markdown().split("\n\n")[0]
    beneath = gv.tables.evaluation_table(result, intervals="beneath", metrics=["auroc"])
    low = result["auroc_low"].sel(pooling="pixels", score=list(beneath.rows)).isel(cache=0)
    np.testing.assert_array_equal(beneath.intervals[:, 0, 0], low)
    assert "<br>[" in beneath.to_markdown()

"""The whole set with one command: what is made, what is left out and why, and a contact sheet that stands alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from frame_files import unpacked
from PIL import Image
from synthetic import new_writer, write_frame
from tiny import TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz import figures
from gradunc_viz.cli.main import main as cli
from gradunc_viz.figures import sheet
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import open_cache

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    path = tmp_path_factory.mktemp("sheet") / "labelled"
    with new_writer(path) as writer:
        for seed in range(3):
            write_frame(writer, f"{HOSTILE}{seed}", seed=seed)
    return open_cache(path)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    path = tmp_path_factory.mktemp("sheet") / "bare"
    with new_writer(path) as writer:
        write_frame(writer, "a", label=False, anomaly=False)
    return open_cache(path)


@pytest.mark.slow
def test_the_set(cache: gv.Cache, tmp_path: Path) -> None:
    done = figures.figure_set(cache, tmp_path / "out", format="svg", progress=False)
    names = {file.name for file in done.files}
    for task in ("error", "anomaly"):
        for name in ("roc", "roc_log", "pr", "bars_auprc", "bars_auroc", "bars_fpr95", "p_ablation"):
            assert f"{name}_{task}.svg" in names
        assert f"distributions_{task}_labelled.svg" in names
    for name in ("sparsification", "reliability", "confusion_labelled", "panel_labelled", "meta_scatter_labelled"):
        assert f"{name}.svg" in names
    for name in ("pixels", "segments", "ood"):
        assert {f"table_{name}.tex", f"table_{name}.md", f"table_{name}.csv"} <= names
    assert all(file.stat().st_size > 0 for file in done.files)
    assert {name.partition("_")[0] for name, _ in done.skipped} <= {"confident", "missed", "false"}
    page = done.index.read_text()
    for file in done.files:
        assert f"href='{file.name}'" in page
    assert set(re.findall(r"src='([^:']*):", page)) == {"data"}  # nothing is loaded from elsewhere
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_ids_are_shown_as_text(cache: gv.Cache, tmp_path: Path) -> None:
    chosen = ["entropy", "msp"]
    done = figures.figure_set({HOSTILE: cache}, tmp_path, format="png", dpi=40, scores=chosen, progress=False)
    page = done.index.read_text()
    assert HOSTILE not in page
    assert "&lt;img src=x" in page
    assert all(re.fullmatch(r"[\w.-]+", file.name) for file in done.files)
    # p_ablation needs a gradient norm, and says so
    assert not [name for name, _ in done.skipped if name.startswith(("roc", "table"))]


def test_without_labels_the_rest_is_made(cache: gv.Cache, unlabelled: gv.Cache, tmp_path: Path) -> None:
    done = figures.figure_set(unlabelled, tmp_path / "one", progress=False)
    assert [file.name for file in done.files] == ["panel_bare.pdf"]
    assert dict(done.skipped) == {
        "bare: task error": "no frame has class labels",
        "bare: task anomaly": "no frame has anomaly labels",
    }
    assert "no frame has class labels" in done.index.read_text()
    with pytest.raises(GraduncError, match="unknown format 'gif'"):
        figures.figure_set(cache, tmp_path, format="gif")


def test_a_figure_that_fails_is_left_out_and_the_others_are_drawn(
    unlabelled: gv.Cache, cache: gv.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise IndexError("index 0 is out of bounds")

    entries = [
        sheet._Entry("roc", "ROC", broken),
        sheet._Entry("panel", "Panel", lambda: figures.panel(unlabelled, ["a"])),
    ]
    monkeypatch.setattr(sheet, "_entries", lambda *_: iter(entries))
    done = figures.figure_set(unlabelled, tmp_path, format="png", dpi=40, progress=False)
    assert [file.name for file in done.files] == ["panel.png"]
    assert done.skipped == [("roc", "cannot be drawn (IndexError: index 0 is out of bounds)")]
    assert cli(["figures", str(unlabelled.path), "--out", str(tmp_path), "--format", "png", "--quiet"]) == 0
    monkeypatch.setattr(sheet, "_entries", lambda *_: iter(entries[:1]))
    with pytest.raises(GraduncError, match="nothing could be drawn; roc: cannot be drawn"):
        figures.figure_set(unlabelled, tmp_path, progress=False)


@pytest.mark.parametrize("n", [255, 300])
def test_frames_of_many_classes_and_labels_that_are_ignored_throughout(n: int, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 1, anomalies=False)
    size = gv.open_frames(folder)[0].size
    Image.fromarray(np.full(size, 65535, "u2")).save(folder / "labels/f00.png")
    with pytest.warns(UserWarning, match="ignored"):
        cache = gv.compute(TinyNet(classes=n), gv.open_frames(folder), tmp_path / "c", scores="msp", progress=False)
    done = figures.figure_set(cache, tmp_path / "f", format="png", dpi=40, progress=False)
    assert [file.name for file in done.files] == ["panel_c.png"]
    assert dict(done.skipped)["c: task error"].startswith("all pixels in the class labels of 1 frames are ignored")
    with pytest.raises(GraduncError, match=r"all pixels in the class labels of 1 frames are ignored: .*'error' needs"):
        gv.evaluate(cache)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """Maps of somebody else with predictions: no logits, no class probabilities."""
    folder = tmp_path_factory.mktemp("imported")
    frames, random = gv.open_frames(write_set(folder / "set", 3)), np.random.default_rng(0)
    for name in ("maps", "predictions"):
        (folder / name).mkdir()
    for frame in frames:
        size = frame.image.shape[:2]
        np.save(folder / f"maps/{frame.id}.npy", random.random(size).astype("f4"))
        Image.fromarray(random.integers(0, 4, size, dtype="u1")).save(folder / f"predictions/{frame.id}.png")
    options = {"predictions": folder / "predictions", "classes": ["a", "b", "c", "d"], "progress": False}
    return gv.import_maps(folder / "maps", frames, folder / "imported", **options)


NEED_PROBABILITIES = {"sparsification", "reliability", "table_pixels"}


@pytest.mark.parametrize(
    ("several", "scores"), [(False, None), (False, ["entropy"]), (True, None), (True, ["ext:maps", "entropy"])]
)
def test_what_imported_maps_lack_is_left_out_and_said(
    imported: gv.Cache, tiny_cache: gv.Cache, tmp_path: Path, several: bool, scores: list[str] | None
) -> None:
    caches = {"mine": tiny_cache, "theirs": imported} if several else {"theirs": imported}
    done = figures.figure_set(caches, tmp_path, format="png", dpi=40, scores=scores, progress=False)
    names = {file.stem for file in done.files}
    for name, reason in done.skipped:
        assert re.search(r"\w+ \w+ \w+", reason), (name, reason)  # a sentence, no bare key
        assert name in done.index.read_text()
    assert {f"panel_{name}" for name in caches} <= names
    drawn = {name for name, cache in caches.items() if scores is None or set(scores) & set(cache.scores)}
    assert {f"confusion_{name}" for name in drawn} == {name for name in names if name.startswith("confusion")}
    left_out = dict(done.skipped)
    assert {f"theirs: scores {', '.join(scores or ())}" in left_out} == {"theirs" not in drawn}
    # the figures of the other cache are there all the same
    if "mine" in drawn:
        assert names >= NEED_PROBABILITIES
    else:
        assert not names & NEED_PROBABILITIES
    if "theirs" in drawn:
        assert left_out["theirs: sparsification, reliability, table of pixels"].endswith("without class probabilities")
        assert {"roc_error", "pr_anomaly", "distributions_error_theirs"} <= names


def test_a_damaged_cache_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_writer(tmp_path / "c") as writer:
        write_frame(writer, "a")
    with unpacked(tmp_path / "c/frames/a") as files:
        next((files / "prediction").glob("c*")).unlink()
    assert cli(["figures", str(tmp_path / "c"), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "damaged" in capsys.readouterr().err


def test_command(unlabelled: gv.Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "my.mplstyle"
    sheet.write_text("font.size: 9\n")
    arguments = ["figures", str(unlabelled.path), "--out", str(tmp_path / "out"), "--format", "png", "--quiet",
                 "--width", "neurips", "--style", str(sheet), "--dpi", "100", "--track", "bare=obstacle"]  # fmt: skip
    assert cli(arguments) == 0
    shown = capsys.readouterr()
    assert "left out bare: task error: no frame has class labels" in shown.err
    assert f"look at {tmp_path / 'out' / 'index.html'}" in shown.out
    with Image.open(tmp_path / "out" / "panel_bare.png") as image:
        assert image.width == 550


@pytest.mark.parametrize("width", ["folio", "0.1"])
def test_command_refuses_a_width(width: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(["figures", "x", "--out", "y", "--width", width])
    assert stop.value.code == 2
    assert "expected" in capsys.readouterr().err

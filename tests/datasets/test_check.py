"""What is said of a set before it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_images import mask, picture

from gradunc_viz.cli.main import main
from gradunc_viz.datasets.catalog import catalog
from gradunc_viz.datasets.check import SetCheck, check_set
from gradunc_viz.datasets.fits import Fit, fitting_layouts
from gradunc_viz.datasets.frames import open_frames


def checked(root: Path, layout: str = "folder", n_classes: int | None = None, **options: object) -> SetCheck:
    return check_set(open_frames(root, layout, **options), (), n_classes)  # type: ignore[arg-type]


def problems(check: SetCheck) -> str:
    return "\n".join(finding.problem for finding in check.findings)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        picture(tmp_path / "images" / f"{name}.png", 6, 9 + number)
        mask(tmp_path / "labels" / f"{name}.png", 0, 1, 2, 255, height=6, width=9 + number)
    return tmp_path


def test_sizes_and_pixels(pairs: Path) -> None:
    mask(pairs / "anomalies" / "a.png", 0, 0, 1)
    check = checked(pairs)
    assert check.sizes == {(6, 9): 1, (6, 10): 1, (6, 11): 1}
    assert (check.labelled, check.with_anomalies, check.broken) == (3, 1, [])
    stored = np.concatenate([np.resize([0, 1, 2, 255], 6 * width) for width in (9, 10, 11)])
    assert check.labels == {None if id == 255 else id: (stored == id).sum() for id in (0, 1, 2, 255)}
    assert check.anomalies == {0: 36, 1: 18}
    assert problems(check) == "frames b, c without an anomaly mask"


def test_nothing_odd(pairs: Path) -> None:
    assert checked(pairs).findings == []


def test_placeholders_of_labels(pairs: Path) -> None:
    for name, width in (("a", 9), ("b", 10)):
        mask(pairs / "labels" / f"{name}.png", 0, height=6, width=width)
    check = checked(pairs)
    assert "2 of 3 labels are class 0 throughout" in problems(check)
    assert "test splits" in check.findings[0].remedy
    mask(pairs / "labels" / "c.png", 255, height=6, width=11)
    assert "1 of 3 labels are ignored throughout" in problems(checked(pairs))


def test_placeholders_of_anomalies(pairs: Path) -> None:
    for name, width in (("a", 9), ("b", 10), ("c", 11)):
        mask(pairs / "anomalies" / f"{name}.png", 0, height=6, width=width)
    check = checked(pairs)
    assert "no anomaly mask holds an unknown object (3 in all)" in problems(check)
    assert "cannot be evaluated" in check.findings[0].remedy
    mask(pairs / "anomalies" / "b.png", 1, height=6, width=10)
    assert "2 of 3 anomaly masks hold no unknown object: frames a, c" in problems(checked(pairs))


def test_one_set_of_several_with_placeholders(tmp_path: Path) -> None:
    for name, ids in (("good", (0, 1)), ("test", (0,))):
        picture(tmp_path / name / "images" / "0.png")
        mask(tmp_path / name / "labels_masks" / "0.png", *ids)
    said = problems(checked(tmp_path, "course"))
    assert "no anomaly mask of test holds an unknown object (1 in all)" in said
    assert "of good" not in said


def test_images_of_the_same_content(pairs: Path) -> None:
    (pairs / "images" / "d.png").write_bytes((pairs / "images" / "b.png").read_bytes())
    said = problems(checked(pairs))
    assert "frames b, d: images of the same content" in said
    assert "frame d without class labels" in said


def test_files_that_cannot_be_read(pairs: Path) -> None:
    whole = (pairs / "images" / "a.png").read_bytes()
    (pairs / "images" / "a.png").write_bytes(whole[:-40])
    mask(pairs / "labels" / "b.png", 0)
    mask(pairs / "labels" / "c.png", 0, 7, height=6, width=11)
    broken = checked(pairs, n_classes=3).broken
    assert len(broken) == 3
    for text, parts in zip(
        broken, (("a.png", "decoded"), ("b.png", "mask is 6 x 9"), ("c.png", "class id 7", "0..2")), strict=True
    ):
        assert all(part in text for part in parts), text


def test_layouts_that_fit(pairs: Path, tmp_path: Path) -> None:
    assert fitting_layouts(pairs) == [Fit("folder", None, 3, 3)]
    city = tmp_path / "city"
    picture(city / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png")
    mask(city / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png", 7)
    assert fitting_layouts(city) == [Fit("cityscapes", "train", 1, 1)]
    assert fitting_layouts(city)[0].options == "--layout cityscapes --split train"
    assert fitting_layouts(tmp_path / "labels" / "none") == []
    with pytest.raises(Exception, match=r"layout 'cityscapes' finds 1 frames here .--layout cityscapes --split train."):
        open_frames(city, "smiyc")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_on_the_command_line(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask(pairs / "labels" / "z.png", 0)
    code, out, _ = run(capsys, "data", "check", pairs, "--quiet", "--classes", "road,car,sky")
    assert code == 0
    assert f"{pairs}: layout folder; 3 frames, a .. c" in out
    assert "sizes: 6 x 9 (1), 6 x 10 (1), 6 x 11 (1)" in out
    assert all(name in out for name in ("road", "car", "sky", "ignored", "█"))
    assert "z.png (no image 'z') not used" in out
    mask(pairs / "labels" / "a.png", 0, 3)
    code, out, _ = run(capsys, "data", "check", pairs, "--quiet", "--classes", "road,car,sky")
    assert code == 1
    assert "class id 3, expected 0..2" in out
    assert "1 of 3 frames cannot be read" in out


def test_the_layout_is_the_one_whose_masks_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "images" / "0.jpg")
    mask(tmp_path / "labels_masks" / "0.png", 0, 2)
    code, out, _ = run(capsys, "data", "check", tmp_path, "--quiet")
    assert code == 0
    assert "layout course; 1 frames" in out
    assert "--layout smiyc (1 masks)" in out
    code, out, _ = run(capsys, "data", "check", tmp_path, "--layout", "smiyc", "--quiet")
    assert code == 1
    assert "id 2" in out


def test_by_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "x" / "1_rgb.png")
    mask(tmp_path / "x" / "1_ids.png", 0, 5)
    said = ("--images", "x/{id}_rgb.png", "--labels", "x/{id}_ids.png", "--anomaly-ids", "5", "--quiet")
    code, out, _ = run(capsys, "data", "check", tmp_path, *said)
    assert code == 0
    assert "layout pattern; 1 frames" in out
    assert "1 frames with labels, 1 with anomalies" in out


def test_folders_that_hold_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "data", "check", tmp_path)
    assert code == 1
    assert f"{tmp_path}: no layout finds frames here; found nothing" in err
    assert run(capsys, "data", "check", tmp_path / "none")[2].endswith(
        "none: does not exist, expected a folder of frames\n"
    )
    picture(tmp_path / "inside" / "images" / "a.png")
    assert (
        f"but 'folder' in the folder in it: gradunc data check {tmp_path / 'inside'}"
        in run(capsys, "data", "check", tmp_path)[2]
    )


def test_what_data_sets_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    known = catalog()["datasets"]
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    for name, entry in known.items():
        assert all(
            part in out for part in (f"{name}: {entry['name']}", entry["licence"], entry["url"], *entry["steps"])
        )
    _, out, _ = run(capsys, "data", "list", "loveda")
    assert out.startswith("loveda: ")
    assert "--layout loveda" in out
    assert "camvid" not in out
    code, _, err = run(capsys, "data", "list", "imagenet")
    assert code == 1
    assert "unknown data set 'imagenet', expected one of roadanomaly21" in err


def test_masks_of_other_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "half/images/city_000.jpg", 6, 9)
    mask(tmp_path / "half/labels/city_999.png", 0, 1, height=6, width=9)
    said = []
    for command in (["data", "check"], ["compute", "--model", "demo", "--out", str(tmp_path / "out"), "--data"]):
        assert main([*command, str(tmp_path / "half")]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "labels: no mask fits any image: expected city_000.png" in said[0]
    assert "city_999.png" in said[0]
    picture(tmp_path / "bare/images/a.jpg", 6, 9)
    assert main(["data", "check", str(tmp_path / "bare")]) == 0
    assert "layout folder; 1 frames" in capsys.readouterr().out

"""The command line as a user meets it: exit codes, one-line errors, what is printed and what is kept."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny import SCORES, TinyNet

import gradunc_viz as gv
from gradunc_viz.cli import main as cli

MODEL = """
import sys
sys.path.insert(0, {tests!r})
from tiny import TinyNet

def make():
    return TinyNet().eval()

def headless():
    import torch
    return torch.nn.ReLU()
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(MODEL.format(tests=str(Path(__file__).parents[1])))
    return f"{file}:make"


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def compute(model: str, data: Path, out: Path, *more: object) -> int:
    return run(
        "compute", "--model", model, "--data", data, "--out", out, "--quiet", "--scores", ",".join(SCORES), *more
    )


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    assert text.startswith("gradunc: error: ")
    return text


def test_compute_then_resume(model: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compute(model, own_set, tmp_path / "cache", "--limit", 2) == 0
    assert "computed 2 frames on cpu" in capsys.readouterr().out
    assert compute(model, own_set, tmp_path / "cache") == 0
    assert "computed 2 frames on cpu" in (out := capsys.readouterr().out)
    assert "2 were there already" in out
    assert f"gradunc explore {tmp_path / 'cache'}" in out
    assert gv.open_cache(tmp_path / "cache").ids == ("f00", "f01", "f02", "f03")


def test_options_reach_the_cache(model: str, own_set: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(TinyNet(seed=3).state_dict(), weights)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"0": 0, "1": 0, "2": 1, "3": 2}))
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps([{"id": i, "name": n, "color": [i, i, i]} for i, n in enumerate("abc")]))
    more = ["--weights", weights, "--labels", labels, "--drop-channels", 3, "--classes", classes]
    more += [
        "--input-size",
        "32x48",
        "--no-images",
        "--normalize",
        "imagenet",
        "--head",
        "classifier",
        "--device",
        "cpu",
    ]
    assert compute(model, own_set, tmp_path / "cache", *more) == 0
    cache = gv.open_cache(tmp_path / "cache")
    assert cache.classes == ("a", "b", "c")
    assert cache.colors[2] == (2, 2, 2)
    assert cache.key["settings"]["input_size"] == [32, 48]
    assert cache.key["network"]["drop_channels"] == [3]
    dataset = cache["f00"]
    assert "image" not in dataset
    assert dataset.sizes["v"] == 16
    assert set(map(int, set(dataset["label"].values.ravel()))) <= {0, 1, 2, 255}
    other = gv.load_model(TinyNet(seed=3).eval(), drop_channels=[3], normalize="imagenet")
    assert cache.key["network"]["weights"] == other.weights_digest()


def test_bad_frame_stops_or_is_skipped(
    model: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = own_set / "images/f01.png"
    bad.write_bytes(bad.read_bytes()[:200])
    assert compute(model, own_set, tmp_path / "stop") == 1
    assert "f01.png" in error_line(capsys)
    assert compute(model, own_set, tmp_path / "skip", "--on-error", "skip") == 3
    said = capsys.readouterr().err
    assert "skipped f01: " in said
    assert "1 frames were skipped" in said
    assert gv.open_cache(tmp_path / "skip").ids == ("f00", "f02", "f03")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--data": "nowhere"}, "nowhere"),
        ({"--layout": "cityscape"}, "expected one of folder, smiyc"),
        ({"--scores": "entropi"}, "did you mean entropy"),
        ({"--weights": "none.pt"}, "none.pt"),
        ({"--model": "resnet"}, "resnet"),
        ({"--head": "body.x"}, "body.x"),
        ({"--device": "cuda"}, "no CUDA device"),
        ({"--drop-channels": "9"}, "channel 9"),
        ({"--classes": "cityscapes"}, "19 class names"),
    ],
)
def test_errors_are_one_line(
    change: dict[str, str],
    expected: str,
    model: str,
    own_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = {"--model": model, "--data": own_set, "--out": tmp_path / "cache"} | change
    assert run("compute", "--quiet", *[part for pair in options.items() for part in pair]) == 1
    assert expected in error_line(capsys)


def test_network_without_convolution(
    model: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compute(model.replace(":make", ":headless"), own_set, tmp_path / "cache") == 1
    assert "no convolution" in error_line(capsys)


def test_another_network_is_refused_and_nothing_lost(
    model: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compute(model, own_set, tmp_path / "cache") == 0
    weights = tmp_path / "w.safetensors"
    save_file(TinyNet(seed=1).state_dict(), weights)
    capsys.readouterr()
    assert compute(model, own_set, tmp_path / "cache", "--weights", weights) == 1
    assert "network.weights was" in error_line(capsys)
    assert len(gv.open_cache(tmp_path / "cache")) == 4


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", tmp_path / "none", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compute"],
        ["compute", "--model", "demo", "--data", "d", "--out", "o", "--input-size", "512"],
        ["compute", "--model", "demo", "--data", "d", "--out", "o", "--limit", "0"],
        ["explore", "c", "--port", "99999"],
        ["evaluate"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert "usage: gradunc" in capsys.readouterr().err


def test_info(tiny_cache: gv.Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", tiny_cache.path) == 0
    said = capsys.readouterr().out
    for text in ("48 x 64", "41 x 57", "TinyNet", "entropy", "4 frames"):
        assert text in said


def test_scores_and_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scores") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in gv.SCORES)
    assert run("layouts") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in gv.LAYOUTS)


def test_evaluate_prints_a_table(tiny_cache: gv.Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", tiny_cache.path, "--task", "error") == 0
    said = capsys.readouterr().out
    assert all(score in said for score in SCORES)
    assert "pooled over all pixels" in said
    assert "entropy in AuPRC" in said
    for row in ("class", "frame"):
        assert run("evaluate", tiny_cache.path, "--task", "error", "--by", row) == 0
        assert ("class 2" if row == "class" else "f02") in capsys.readouterr().out


def test_evaluate_writes_records(tiny_cache: gv.Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", tiny_cache.path, "--task", "anomaly", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * len(SCORES)
    needed = {
        "cache",
        "task",
        "score",
        "pooling",
        "n_frames",
        "n_pixels",
        "positive_rate",
        "auroc",
        "auprc",
        "fpr95",
        "f1",
    }
    assert needed <= set(rows[0])
    result = gv.evaluate(tiny_cache, task="anomaly")
    first = next(r for r in rows if r["score"] == "entropy" and r["pooling"] == "pixels")
    assert first["auprc"] == float(result["auprc"].sel(cache="cache", score="entropy", pooling="pixels"))
    file = tmp_path / "table.csv"
    assert run("evaluate", tiny_cache.path, "--task", "anomaly", "--csv", file) == 0
    assert [r["score"] for r in csv.DictReader(io.StringIO(file.read_text()))] == [r["score"] for r in rows]
    assert run("evaluate", tiny_cache.path, "--task", "anomaly", "--latex", file) == 0
    latex = file.read_text()
    assert latex.count(r"\bfseries ") >= 4
    assert r"\bottomrule" in latex
    assert run("evaluate", tiny_cache.path, "--json", tmp_path / "no/where.json") == 1


def test_help_is_light() -> None:
    code = (
        "import sys, gradunc_viz.cli.main as c\n"
        "try: c.main(['compute', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'panel', 'bokeh', 'holoviews', 'xarray', 'zarr', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--drop-channels" in done.stdout

"""The command line as a user meets it: exit codes, one-line errors, what is printed and what is kept."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from tiny import SCORES, TinyNet

import gradunc_viz as gv
from gradunc_viz.cli.command import COMMANDS
from gradunc_viz.cli.main import main
from gradunc_viz.cli.values import run_score_file
from gradunc_viz.schema.tasks import TASKS

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
    return main([str(argument) for argument in arguments])


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


def test_what_enters_the_network_is_chosen(
    model: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--mean", "102,51,51", "--std=51", "--scale=255"]
    assert compute(model, own_set, tmp_path / "c", *numbers, "--channels", "bgr", "--input-size", "own") == 0
    key = gv.open_cache(tmp_path / "c").key
    assert key["network"]["normalize"] == [[0.4, 0.2, 0.2], [0.2, 0.2, 0.2]]
    assert key["network"]["channels"] == "bgr"
    assert key["settings"]["input_size"] is None
    capsys.readouterr()
    for given, text in (
        (["--mean", "102,51,51"], "a mean of 102 for images in [0, 1]"),
        (["--mean", "0.5,0.5"], "2 means and deviations for an input of 3 channels"),
        (["--mean", "0.5", "--normalize", "none"], "--normalize none beside --mean"),
    ):
        assert compute(model, own_set, tmp_path / "d", *given) == 1
        assert text in error_line(capsys)


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


TERMINATED = """
import os, signal
from tiny import TinyNet

class Net(TinyNet):
    passes = 0

    def forward(self, x):
        Net.passes += 1
        if Net.passes == 4 and os.environ.pop("TERMINATED", None):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)

def make():
    return Net().eval()
"""


def test_sigterm_is_told_and_leaves_nothing_behind(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERMINATED", "once")
    file = tmp_path / "net.py"
    file.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{TERMINATED}")
    out, handler = tmp_path / "cache", signal.getsignal(signal.SIGTERM)
    assert compute(f"{file}:make", own_set, out) == 143
    assert capsys.readouterr().err == "gradunc: terminated; finished frames are kept\n"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [entry.name for entry in tmp_path.iterdir() if "staging" in entry.name] == []
    kept = len(gv.open_cache(out).ids) if out.exists() else 0
    assert compute(f"{file}:make", own_set, out) == 0
    assert kept < len(gv.open_cache(out).ids)


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
    for arguments in (("info", tmp_path / "none", "--debug"), ("--debug", "info", tmp_path / "none")):
        assert run(*arguments) == 1
        assert "Traceback" in capsys.readouterr().err
    assert run("info", tmp_path / "none") == 1
    assert "Traceback" not in capsys.readouterr().err


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
    for text in ("48 x 64", "41 x 57", "TinyNet", "entropy", "4 frames", "classifier: Conv2d(6, 4,", ", as found"):
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


HEAVY = {"torch", "panel", "bokeh", "holoviews", "xarray", "zarr", "sklearn", "scipy", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "evaluate"),
        (["compute", "--help"], "--drop-channels"),
        (["stream", "--help"], "torchvision:NAME"),
        (["import", "--help"], "roadanomaly"),
        (["explore", "--help"], "--no-browser"),
        (["layouts"], "roadanomaly"),
        (["scores"], "entropy"),
    ],
)
def test_help_is_light(arguments: list[str], said: str) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['gradunc', *{arguments}]\n"
        "try: runpy.run_module('gradunc_viz.cli', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "gradunc_viz.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gradunc-viz {gv.__version__}\n"


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^    {name}\s", said, re.MULTILINE)  # a long name has a line of its own
        assert command.text.split()[-1] in said


def actions(name: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    for add in COMMANDS[name].options:
        add(parser)
    return parser._actions[1:]


def test_an_option_means_the_same_wherever_it_is_taken() -> None:
    meanings: dict[str, set[object]] = {}
    for name in COMMANDS:
        for action in actions(name):
            meaning = (action.help, action.metavar, action.type, repr(action.choices), repr(action.default))
            meanings.setdefault(action.option_strings[-1] if action.option_strings else "", set()).add(meaning)
    several = {option for option, found in meanings.items() if option and len(found) > 1}
    # a cache, a folder of figures, a fit; what to compute, to look at, to fit, to compare, to combine; rows of a table,
    # classes of pixels; what is imported, combined; one track, or one for each cache; a folder, or a layer to fit on
    assert several == {"--out", "--scores", "--by", "--name", "--track", "--features"}
    assert len(meanings["--scores"]) == 5


def test_choices_are_what_is_registered() -> None:
    choices = {action.dest: action.choices for action in actions("evaluate") if action.choices}
    assert choices["task"] == tuple(TASKS)
    assert {"auroc", "auprc"} <= set(choices["metric"]) <= set(gv.metrics.METRICS)
    assert {"anomaly", "obstacle"} <= set(choices["components"])
    assert next(a.choices for a in actions("figures") if a.dest == "format") == gv.figures.FORMATS


def test_calibrate_prints_a_table_and_writes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--model", "demo", "--data", gv.data_path("demo"), "--limit", 2, "--quiet")
    assert run("calibrate", *given, "--pixels", 5000, "--out", tmp_path / "found.json") == 0
    said = capsys.readouterr().out
    assert "fitted on 5000 pixels of 1 frames, judged on" in said
    found = xr.Dataset.from_dict(json.loads((tmp_path / "found.json").read_text()))
    assert f"temperature {float(found['temperature']):.4g}: ask for msp_T{float(found['temperature']):.4g}, " in said
    for scaling in ("none", "temperature", "vector"):
        nll = found["nll"].sel(part="held out", scaling=scaling)
        assert re.search(rf"{scaling} .* {float(nll):.4f} ", said)
    assert run("calibrate", *given[:-2], 1, "--quiet") == 1
    assert "only 'city_000' has class labels" in error_line(capsys)
    assert run("calibrate", *given, "--out", tmp_path / "no folder" / "found.json") == 1
    assert "there is no folder" in error_line(capsys)


# --- scores of a user's own file

SCORE = """
from renyi_formula import FORMULA
from gradunc_viz.schema.scores import Score, register

def renyi(logits):
    return -logits.softmax(1).square().sum(1).log()

register(Score("renyi", "mine", +1, "nats", FORMULA, "Renyi", "a test", compute=renyi, upper="log C"))
"""


@pytest.fixture
def score_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that registers the score "renyi" when it is executed."""
    monkeypatch.setitem(gv.SCORES, "renyi", None)  # removed when the test ends
    monkeypatch.delitem(gv.SCORES, "renyi")
    (tmp_path / "renyi_formula.py").write_text("FORMULA = '-ln sum_c pi_c^2'")
    file = tmp_path / "own.py"
    file.write_text(SCORE)
    return file


def test_a_file_of_scores_is_executed_once(score_file: Path) -> None:
    path = list(sys.path)
    run_score_file(score_file)
    run_score_file(str(score_file))  # the score would be registered already
    assert gv.lookup("renyi").function(torch.zeros(1, 4, 1, 1)).item() == pytest.approx(math.log(4))
    assert sys.path == path


def test_scores_of_ones_own_are_named_like_any_other(
    score_file: Path, tiny_cache: gv.Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scores") == 0
    assert "renyi" not in capsys.readouterr().out
    assert run("scores", "--score-file", score_file) == 0
    assert "-ln sum_c pi_c^2" in capsys.readouterr().out
    assert run("evaluate", tiny_cache.path, "--scores", "renyi", "--score-file", score_file) == 1
    assert "renyi" in error_line(capsys)  # known, though not in this cache
    assert run("info", tiny_cache.path, "--score-file", score_file, "--score-file", score_file) == 0


def test_every_command_that_names_scores_takes_files_of_them() -> None:
    taking = {name for name in COMMANDS if any(action.dest == "score_files" for action in actions(name))}
    shown = {"evaluate", "explore", "figures", "info", "scores", "submit"}
    assert taking == {"combine", "compare", "compute", "fit", "stream", *shown}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "own.py does not exist"),
        ("import nowhere_at_all", "own.py failed: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise ValueError('one\\ntwo')", "own.py failed: ValueError: one"),
        ("raise SystemExit(3)", "own.py failed: SystemExit: 3"),
        ("def (", "own.py failed: SyntaxError"),
        ("from gradunc_viz.schema.scores import *\nregister(SCORES['msp'])", "score 'msp' is registered already"),
    ],
)
def test_a_file_of_scores_that_fails_is_named(
    text: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    before = set(sys.modules)
    assert run("scores", "--score-file", file) == 1
    line = error_line(capsys)
    assert expected in line
    assert str(file) in line
    assert not [name for name in set(sys.modules) - before if name.startswith("gradunc_score_file")]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "command",
    [
        ("info", "CACHE"),
        *(("evaluate", "CACHE", "--task", "error", "--quiet", *more) for more in ((), ("--by", "class"), ("--latex",))),
        *(("evaluate", "CACHE", "--task", "error", "--quiet", "--by", "class", form) for form in ("--csv", "--json")),
        ("scores",),
        ("layouts",),
        ("evaluate", "道路\udcff"),
    ],
    ids=" ".join,
)
def test_what_an_encoding_lacks_is_escaped(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, command: tuple[str, ...]
) -> None:
    cache = gv.compute(
        TinyNet().eval(),
        gv.open_frames(own_set)[:1],
        tmp_path / "道路",
        scores="msp",
        classes=("道路", "Straße", "c", "d"),
        progress=False,
    )
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    code = run(*(cache.path if part == "CACHE" else part for part in command))
    texts = [stream.buffer.getvalue().decode(encoding) for stream in (out, err) if stream.flush() is None]
    known = command[-1] != "道路\udcff"
    assert code == (0 if known else 1)
    assert not texts[known]
    if "CACHE" in command:
        assert r"\u9053\u8def" in texts[0]
    if not known:
        assert r"\u9053\u8def\udcff: no such folder" in texts[1]


def test_files_are_written_as_utf_8(own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = gv.compute(TinyNet().eval(), gv.open_frames(own_set)[:1], tmp_path / "道", scores="msp", progress=False)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert run("evaluate", cache.path, "--task", "error", "--quiet", "--csv", tmp_path / "t.csv") == 0
    assert "道" in (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_paths_stay_where_they_were_when_a_users_file_goes_elsewhere(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandering.py").write_text("import os\nos.chdir('/')\n")
    monkeypatch.chdir(tmp_path)
    out = compute("demo", "set", "cache", "--score-file", "wandering.py", "--input-size", "64x64", "--limit", 1)
    assert (out, Path.cwd()) == (0, Path("/"))
    monkeypatch.chdir(tmp_path)
    more = ("--score-file", "wandering.py", "--csv", "t.csv", "--quiet")
    assert run("evaluate", "cache", "--task", "error", *more) == 0
    assert (tmp_path / "t.csv").is_file()

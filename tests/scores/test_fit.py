"""A fit as a file: what is read is what was written, and nothing else is taken for one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.schema.errors import FitError


@pytest.fixture(scope="module")
def fit(tiny_set: Path) -> gv.Fit:
    return gv.fit(TinyNet(), gv.open_frames(tiny_set)[:2], scores="vim,knn_k3", pixels=200, progress=False)


def test_a_fit_is_read_as_it_was_written(fit: gv.Fit, tmp_path: Path) -> None:
    file = fit.save(tmp_path / "fit.safetensors")
    read = gv.Fit.load(file)
    assert read.digest == fit.digest
    assert read.scores == ("vim", "knn_k3")
    assert read.provenance == fit.provenance
    for score, state in fit.states.items():
        assert all(torch.equal(read.states[score][name], part) for name, part in state.items())
    assert repr(read) == "<Fit of vim, knn_k3 for TinyNet: 200 pixels of 2 frames, by prediction, features of head>"
    assert fit.save(file) == file
    assert [one.name for one in tmp_path.iterdir()] == ["fit.safetensors"]
    assert pickle.loads(pickle.dumps(read)).digest == fit.digest


def test_what_it_was_fitted_on_is_in_the_file(fit: gv.Fit) -> None:
    told = fit.provenance
    assert set(told["frames"]) == {"f00", "f01"}
    assert (told["pixels"], told["seed"], told["by"], told["features"]) == (200, 0, "prediction", "head")
    assert (told["head"], told["dimensions"], told["n_classes"]) == ("classifier", 6, 4)
    assert told["network"]["weights"] == gv.load_model(TinyNet()).weights_digest()
    assert told["gradunc_viz"] == gv.__version__


def test_other_files_are_no_fits(fit: gv.Fit, tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"
    with pytest.raises(FitError, match=r"fit\.safetensors: does not exist; expected a fit"):
        gv.Fit.load(file)
    with pytest.raises(FitError, match="is no file"):
        gv.Fit.load(tmp_path)
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(FitError, match=r"fit\.safetensors: is no fit of scores"):
        gv.Fit.load(file)
    with pytest.raises(FitError, match=r"fit\.safetensors: is no fit of scores"):
        fit.save(file)
    torch.save({"vim": torch.zeros(3)}, file)
    with pytest.raises(FitError, match=r"fit\.safetensors: cannot be read as a fit"):
        gv.Fit.load(file)
    with pytest.raises(FitError, match="cannot be written"):
        fit.save(tmp_path / "absent" / "fit.safetensors")


def test_a_damaged_fit_is_refused(fit: gv.Fit, tmp_path: Path) -> None:
    file = fit.save(tmp_path / "fit.safetensors")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-4] + b"\0\1\2\3", b"", whole[:4]):
        file.write_bytes(damaged)
        with pytest.raises(FitError, match=r"fit\.safetensors: (cannot be read as a fit|is damaged)"):
            gv.Fit.load(file)
    tensors = load_file(fit.save(tmp_path / "other.safetensors"))
    told = {"format": "gradunc fit 1", "digest": fit.digest}
    for provenance in ("{", "[]", json.dumps({**fit.provenance, "scores": ["neco"]}), json.dumps({"scores": []})):
        save_file(tensors, file, {**told, "provenance": provenance})
        with pytest.raises(FitError, match=r"fit\.safetensors: (cannot be read as a fit|is damaged)"):
            gv.Fit.load(file)
    save_file(tensors, file, {**told, "provenance": json.dumps({**fit.provenance, "seed": 1})})
    with pytest.raises(FitError, match="is damaged"):
        gv.Fit.load(file)

"""What a run is asked for: checked, picklable, and what of it decides whether cached frames may be reused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

import gradunc_viz as gv
from gradunc_viz.exchange.imports import ImportChanges, ImportSettings
from gradunc_viz.run.settings import RunChanges, RunSettings, Settings, SettingsChanges, changed, decisive
from gradunc_viz.schema.errors import SettingsError, UnknownScoreError
from gradunc_viz.schema.scores import DEFAULT_SCORES, PAPER_SCORES

BOTH = [(RunSettings, RunChanges), (Settings, SettingsChanges), (ImportSettings, ImportChanges)]


@pytest.mark.parametrize(("settings", "keywords"), BOTH)
def test_keywords_are_the_fields(settings, keywords):
    fields = get_type_hints(settings)
    assert set(get_type_hints(keywords)) == {field.name for field in dataclasses.fields(settings)}
    assert not keywords.__required_keys__
    # what may be given includes what is kept
    same = {name for name, kept in get_type_hints(keywords).items() if kept == fields[name]}
    assert same >= {"on_error", "limit", "images"}


@pytest.mark.parametrize(("settings", "_"), BOTH)
def test_every_field_is_described(settings, _):
    described = settings.__doc__ + RunSettings.__doc__
    assert all(field.name in described for field in dataclasses.fields(settings))


def test_values_are_kept_in_one_form():
    given = Settings(scores="msp, entropy,msp", input_size=[32, 64], classes=["a", "b"], colors=[[1, 2, 3], (4, 5, 6)])
    assert given.scores == ("msp", "entropy")
    assert given.input_size == (32, 64)
    assert given.classes == ("a", "b")
    assert given.colors == ((1, 2, 3), (4, 5, 6))
    assert given == Settings(scores=("msp", "entropy"), input_size=(32, 64), classes=["a", "b"], colors=given.colors)
    assert hash(given)
    assert Settings().scores == Settings(scores=None).scores == DEFAULT_SCORES
    assert Settings(scores="paper").scores == PAPER_SCORES
    assert ImportSettings(predictions="p").predictions == Path("p").absolute()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Settings, "on_error", "ignore"),
        (Settings, "limit", 0),
        (Settings, "batch", -1),
        (Settings, "autocast", "int8"),
        (Settings, "input_size", (0, 5)),
        (Settings, "input_size", (5,)),
        (Settings, "input_size", (5.5, 4)),
        (ImportSettings, "orientation", 0),
        (ImportSettings, "on_error", None),
    ],
)
def test_values_that_make_no_sense_are_named(kind, name, value):
    with pytest.raises(SettingsError, match=rf"^{name} is .*{value if value != (5,) else ''}.*; expected .*$"):
        kind(**{name: value})
    with pytest.raises(ValueError, match=name):
        changed(kind(), {name: value})
    assert issubclass(SettingsError, gv.GraduncError)


@pytest.mark.parametrize("color", [(1, 2), (0, 0, 300), "#123456", (0.5, 0, 0)])
@pytest.mark.parametrize("kind", [Settings, ImportSettings])
def test_colours_are_checked(kind, color):
    with pytest.raises(SettingsError, match=r"colour .* of a class; expected \(red, green, blue\) of 0 to 255"):
        kind(colors=[color])


def test_scores_are_looked_up():
    with pytest.raises(UnknownScoreError, match="unknown score 'entropie'"):
        Settings(scores="entropie")
    with pytest.raises(UnknownScoreError):
        ImportSettings(name="a b")


def test_a_change_leaves_the_original():
    first = Settings(scores="msp")
    assert changed(first, {"limit": 3}) == Settings(scores="msp", limit=3)
    assert first.limit is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.limit = 3
    with pytest.raises(SettingsError, match="no setting is called 'scroes'; did you mean scores"):
        changed(first, {"scroes": "msp"})
    for scores in ([1], 1, ["msp", None, b"x"]):
        with pytest.raises(SettingsError, match=r"scores .*; expected names of scores"):
            changed(first, {"scores": scores})


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(scores="paper", input_size=(32, 64), colors=[(1, 2, 3)], device=torch.device("cpu"), autocast="bf16"),
        ImportSettings(name="x", predictions="p"),
    ],
)
def test_settings_can_be_sent_to_another_process(settings):
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_frames_can_be_sent_to_another_process(tiny_set):
    for frame in gv.open_frames(tiny_set):
        sent = pickle.loads(pickle.dumps(frame))
        assert sent == frame
        assert sent.digest() == frame.digest()


def test_what_decides_is_what_changes_a_cached_frame():
    assert set(decisive(Settings())) == {"scores", "input_size", "align_corners", "bias", "images", "autocast"}
    assert set(decisive(ImportSettings())) == {"images"}  # and each score its orientation

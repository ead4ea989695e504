"""Names and colours of classes, whatever holds the frames."""

from __future__ import annotations

import json

import pytest
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.run.classes import frame_classes
from gradunc_viz.schema.errors import CacheMismatchError

COLORS = ((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0))


def with_names(folder, names="abcd"):
    table = [{"id": i, "name": name, "color": COLORS[i]} for i, name in enumerate(names)]
    (folder / "classes.json").write_text(json.dumps(table))
    return folder


def run(frames, out, **changes):
    return gv.compute(TinyNet().eval(), frames, out, scores=SCORES, progress=False, **changes)


def test_frames_know_their_classes_without_their_set(own_set):
    frames = gv.open_frames(with_names(own_set))
    assert frame_classes(list(frames)[1:]) == (tuple("abcd"), COLORS)
    assert frame_classes(()) == ((), ())


def test_frames_that_disagree_name_nothing(own_set, tmp_path):
    other = gv.open_frames(with_names(write_set(tmp_path / "other", 1), "efgh"))
    assert frame_classes([*gv.open_frames(with_names(own_set)), *other]) == ((), ())


def test_names_and_colours_are_those_of_the_whole_set(own_set, tmp_path):
    frames = gv.open_frames(with_names(own_set))
    cache = run([frames[1]], tmp_path / "c")
    assert (cache.classes, cache.colors) == (tuple("abcd"), COLORS)


def test_names_stay_those_of_a_cache_where_nobody_knows_better(own_set, tmp_path):
    """A list of frames once lost the names that its set knew: such a cache, and its set, go on together."""
    plain = gv.open_frames(own_set)
    numbered = run(plain[:1], tmp_path / "numbered")
    named = gv.open_frames(with_names(own_set))
    assert run(named[:2], numbered.path).classes == numbered.classes == tuple(f"class {i}" for i in range(4))
    cache = run(named[:1], tmp_path / "named")
    assert run(plain[:2], cache.path).classes == tuple("abcd")
    assert list(gv.open_cache(cache.path)["f01"]["class"].values) == list("abcd")


def test_other_names_are_refused(own_set, tmp_path):
    run(gv.open_frames(with_names(own_set))[:1], tmp_path / "c")
    with pytest.raises(CacheMismatchError, match=r"network\.classes was a,b,c,d, now e,f,g,h"):
        run(gv.open_frames(with_names(own_set, "efgh")), tmp_path / "c")
    with (
        pytest.warns(UserWarning, match="4 classes each, of which names 'e' / 'w', .* differ"),
        pytest.raises(CacheMismatchError, match=r"network\.classes was a,b,c,d, now w,x,y,z"),
    ):
        run(gv.open_frames(own_set), tmp_path / "c", classes=list("wxyz"))

"""Whoever wants to know how far a pass over frames is, and nobody else, is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from synthetic import write_cache

from gradunc_viz.metrics import evaluate
from gradunc_viz.store.progress import followed, progress_bar, reported


def test_each_frame_and_the_end_are_reported() -> None:
    seen: list[tuple[int, int]] = []
    with reported(lambda *now: seen.append(now)):
        assert list(followed(["a", "b", "c"])) == ["a", "b", "c"]
        assert list(followed([])) == []
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert list(followed(["a"])) == ["a"]
    assert len(seen) == 4


def test_threads_do_not_hear_of_each_other() -> None:
    seen: list[tuple[int, int]] = []
    with reported(lambda *now: seen.append(now)):
        other = threading.Thread(target=lambda: list(followed(["a", "b"])))
        other.start()
        other.join()
    assert seen == []


def test_every_pass_of_an_evaluation_is_followed(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a", "b"], [(24, 32)])
    seen: list[tuple[int, int]] = []
    for by in (None, "frame", "class"):
        with reported(lambda *now: seen.append(now)):
            evaluate(cache, "error", by=by, bootstrap=0)
        assert seen[:1] == [(0, 2)], by
        assert seen[-1] == (2, 2), by
        seen.clear()


def test_bar_is_drawn_and_taken_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar():
        list(followed(["a"] * 5))
        list(followed(["a"] * 7))
    drawn = capsys.readouterr().err
    assert "0/5" in drawn
    assert "0/7" in drawn
    with progress_bar(shown=False):
        list(followed(["a"] * 5))
    assert capsys.readouterr().err == ""

"""Counts behind the charts are pooled once, whoever asks for them at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_files import unpacked
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz.explorer.state import memo
from gradunc_viz.explorer.state import shared_counts as pooled
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.choice import Selection


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    memo.shared.clear()


def test_two_who_ask_at_once_share_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_cache(tmp_path / "cache", ["a", "b"], [(24, 32)])
    asked: list[list[str]] = []
    first, go_on = threading.Event(), threading.Event()
    pool = pooled.pool

    def slow(selection: Any, **options: Any) -> Any:
        asked.append(list(selection.scores))
        first.set()
        go_on.wait(20)
        return pool(selection, **options)

    monkeypatch.setattr(pooled, "pool", slow)
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = pooled.set_histograms(Selection.of(cache, "error", scores=["msp"]))

    one = threading.Thread(target=ask, args=(1,))
    one.start()
    assert first.wait(20)
    two = threading.Thread(target=ask, args=(2,))
    two.start()
    two.join(0.3)
    assert two.is_alive()  # it waits instead of counting the same
    go_on.set()
    one.join(20)
    two.join(20)
    assert asked == [["msp"]]
    assert found[1]["msp"] is found[2]["msp"]
    pooled.set_histograms(Selection.of(cache, "error", scores=["msp", "entropy"]))
    assert asked == [["msp"], ["entropy"]]  # only what is missing
    assert not pooled._under_way


def test_a_pass_that_fails_does_not_block_the_next(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a"], [(24, 32)], label=False)
    for _ in range(2):
        with pytest.raises(GraduncError, match="labels"):
            pooled.set_histograms(Selection.of(cache, "error", scores=["msp"]))


def test_auprc_by_frame_is_told_piece_by_piece_and_kept(tmp_path: Path) -> None:
    ids = [f"f{number:02}" for number in range(20)]
    cache = write_cache(tmp_path / "cache", ids, [(24, 32)])
    paused: list[int] = []
    steps = list(pooled.auprc_by_frame(cache, "msp", "error", lambda: paused.append(1)))
    assert [len(step) for step in steps] == [8, 16, 20, 20]
    assert len(paused) == 3
    counted = gv.evaluate(cache, "error", scores="msp", by="frame", bootstrap=0)["auprc"].isel(cache=0, score=0)
    assert list(steps[-1]) == ids
    np.testing.assert_array_equal(list(steps[-1].values()), counted.values)
    assert np.isfinite(counted).any()
    (kept,) = pooled.auprc_by_frame(cache, "msp", "error", lambda: None)
    np.testing.assert_equal(kept, steps[-1])


def test_sessions_at_once_see_computed_numbers_only_and_compute_each_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"f{number:02}" for number in range(20)]
    cache = write_cache(tmp_path / "cache", ids, [(24, 32)])
    wanted = gv.evaluate(cache, "error", scores="msp", by="frame", bootstrap=0)["auprc"].isel(cache=0, score=0)
    evaluate, asked, first, go_on = pooled.evaluate, [], threading.Event(), threading.Event()

    def slow(cache: Any, task: str, *, frames: Any, **options: Any) -> Any:
        asked.extend(frames)
        first.set()
        go_on.wait(20)
        return evaluate(cache, task, frames=frames, **options)

    monkeypatch.setattr(pooled, "evaluate", slow)
    steps: dict[int, list[dict[str, float]]] = {0: [], 1: []}

    def look(number: int) -> None:
        steps[number].extend(pooled.auprc_by_frame(cache, "msp", "error", lambda: None))

    threads = [threading.Thread(target=look, args=(number,)) for number in steps]
    threads[0].start()
    assert first.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert not any(steps.values())  # none is known yet, and none is told
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert sorted(asked) == ids
    for step in (*steps[0], *steps[1]):
        for name, value in step.items():
            np.testing.assert_equal(value, float(wanted.sel(frame=name)))
    assert set(steps[0][-1]) == set(steps[1][-1]) == set(ids)


def test_what_cannot_be_read_is_told_as_a_copy(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a"], [(24, 32)])
    pooled.unreadable(cache)["a"] = "not so"
    assert pooled.unreadable(cache) == {}


def test_a_damaged_frame_is_left_out_and_named(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a", "b", "c"], [(24, 32)])
    wanted = pooled.set_histograms(Selection.of(cache, "error", scores=["msp"], frames=["a", "c"]))["msp"]
    with unpacked(cache.path / "frames" / "b") as files:
        next((files / "cell").glob("c*")).write_bytes(b"")
    memo.shared.clear()
    found = pooled.set_histograms(Selection.of(cache, "error", scores=["msp"]))["msp"]
    np.testing.assert_array_equal(found.weights["counts"], wanted.weights["counts"])
    assert list(pooled.unreadable(cache)) == ["b"]
    assert "damaged" in pooled.unreadable(cache)["b"]
    *_, auprc = pooled.auprc_by_frame(cache, "msp", "error", lambda: None)
    assert np.isnan(auprc["b"])
    assert np.isfinite([auprc["a"], auprc["c"]]).all()
    with pytest.raises(gv.GraduncError, match="b: damaged"):  # without a page that tells of it, it is an error
        gv.evaluate(cache, "error", bootstrap=0)
    with pytest.raises(gv.GraduncError, match="b: damaged"):
        pooled.set_histograms(Selection.of(cache, "error", scores=["msp"], frames=["b"]))

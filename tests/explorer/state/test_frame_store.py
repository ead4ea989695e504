"""Frames are shared by sessions and threads: read once, counted as they grow, let go of in time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from frame_files import unpacked
from PIL import Image
from synthetic import SCORES, write_cache
from tiny import TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.explorer.panes.drawing import PaneLook, score_map
from gradunc_viz.explorer.state import frame_store
from gradunc_viz.explorer.state.frame_store import FrameData, FrameStore
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.schema.tasks import TASKS
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.frame import score


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("frames") / "cache", ["a", "b", "c"], [(64, 128)])


def test_bytes_are_those_of_the_arrays_read(cache: Cache) -> None:
    frame = FrameData(cache["a"])
    assert frame.nbytes == 0
    arrays = [frame.image, frame.prediction, frame.label, frame.anomaly, *(frame.score(name) for name in SCORES)]
    assert frame.nbytes == sum(array.nbytes for array in arrays)
    assert frame.image is arrays[0]
    assert frame.nbytes == sum(array.nbytes for array in arrays)


def test_a_store_is_asked_while_others_read_its_frames(cache: Cache) -> None:
    store, failed, done = FrameStore(), [], threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                for frame_id in cache.ids:
                    store.get(cache, frame_id)
        except Exception as error:
            failed.append(error)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for thread in askers:
        thread.start()
    for _ in range(5):  # holding the arrow key
        store._frames.clear()
        for frame_id in cache.ids:
            frame = store.get(cache, frame_id)
            _ = frame.image, frame.prediction, frame.label, frame.anomaly, frame.scores_at(1, 2, SCORES)
            _ = [frame.score(name) for name in SCORES]
    done.set()
    for thread in askers:
        thread.join(20)
    assert failed == []


def test_threads_read_an_array_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    read, frame = [], FrameData(cache["a"])
    decode = frame_store.decode_image
    monkeypatch.setattr(frame_store, "decode_image", lambda dataset: read.append(1) or decode(dataset))
    threads = [threading.Thread(target=lambda: frame.image) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert read == [1]
    assert frame.nbytes == frame.image.nbytes


@pytest.mark.parametrize("task", list(TASKS))
def test_the_target_is_the_tasks(cache: Cache, task: str) -> None:
    positive, evaluated = FrameData(cache["a"]).target(task)
    wanted = TASKS[task].truth(cache["a"])
    np.testing.assert_array_equal(positive, wanted[0])
    np.testing.assert_array_equal(evaluated, wanted[1])


def test_what_cannot_be_read_names_frame_and_variable(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a"])
    with unpacked(cache.path / "frames" / "a") as files:
        for name in ("prediction", "pixel_score", "logits"):
            for file in (files / name).glob("c*"):
                file.write_bytes(b"\0" * file.stat().st_size)
    frame = FrameData(cache["a"])
    with pytest.raises(CacheError, match=r"frames/a/prediction/.*: damaged"):
        _ = frame.prediction
    with pytest.raises(CacheError, match=r"frames/a/pixel_score/.*: damaged"):
        frame.score("msp")
    with pytest.raises(CacheError, match=r"frames/a/pixel_score/.*: damaged"):
        frame.scores_at(0, 0, ("msp",))
    with pytest.raises(CacheError, match=r"frames/a/logits/.*: damaged"):
        frame.probabilities(0, 0)
    assert np.isfinite(score(cache["a"], "pgn_oh_p0.5").values).all()


def test_mistakes_among_many_classes(tmp_path: Path) -> None:
    """Of 300 classes the one called 255 is like any other, and 65535 is ignored."""
    folder = write_set(tmp_path / "set", 1, anomalies=False)
    size = gv.open_frames(folder)[0].size
    stored = np.resize(np.array([3, 255, 299, 65535], "u2"), size)
    Image.fromarray(stored).save(folder / "labels/f00.png")
    cache = gv.compute(TinyNet(classes=300), gv.open_frames(folder), tmp_path / "c", scores="msp", progress=False)
    frame = FrameData(cache[0])
    expected = np.where(stored == 65535, 255, stored != frame.prediction)
    np.testing.assert_array_equal(frame.mistakes(), expected)
    look = PaneLook("msp", "error", hide_ignored=True, limits=lambda _: (0, 1))
    np.testing.assert_array_equal(np.isnan(score_map(frame, "msp", look)), stored == 65535)

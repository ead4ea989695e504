"""What is kept is bounded, follows the cache on disk, is computed once, and may be filled while it is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic import write_cache

from gradunc_viz.explorer.state import memo
from gradunc_viz.store.cache import Cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("memo") / "cache", ["a"])


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    memo.shared.clear()
    yield
    memo.shared.clear()


def test_what_is_kept_is_bounded(cache: Cache) -> None:
    part = memo.shared.maxsize // 8
    for number in range(20):
        memo.keep(cache, number, np.zeros(part, "u1"))
    assert memo.shared.currsize <= memo.shared.maxsize
    assert memo.kept(cache, 0) is None
    assert memo.kept(cache, 19) is not None
    memo.keep(cache, 19, np.zeros(10))
    assert memo.kept(cache, 19).shape == (10,)
    memo.keep(cache, 19, np.zeros(memo.shared.maxsize, "u1"))  # larger than all of it
    assert memo.kept(cache, 19) is None
    assert memo.remember(cache, "large", lambda: np.zeros(memo.shared.maxsize, "u1")).size == memo.shared.maxsize


def test_it_follows_the_cache(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a"])
    calls: list[int] = []
    for opened in (cache, Cache(cache.path)):
        assert memo.remember(opened, "key", lambda: calls.append(1) or 5) == 5
    assert len(calls) == 1
    grown = write_cache(tmp_path / "cache", ["b"])
    assert grown.ids == ("a", "b")
    memo.remember(grown, "key", lambda: calls.append(1) or 5)
    assert len(calls) == 2


def test_it_is_computed_once_even_if_it_is_nothing(cache: Cache) -> None:
    calls: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def compute() -> None:
        calls.append(1)
        started.set()
        go_on.wait(20)

    threads = [threading.Thread(target=memo.remember, args=(cache, "none", compute)) for _ in range(3)]
    threads[0].start()
    assert started.wait(20)
    for thread in threads[1:]:
        thread.start()
    assert memo.remember(cache, "another", lambda: 3) == 3  # which waits for nobody
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert calls == [1]


def test_what_failed_is_tried_again(cache: Cache) -> None:
    with pytest.raises(ZeroDivisionError):
        memo.remember(cache, "wrong", lambda: 1 / 0)
    assert memo.remember(cache, "wrong", lambda: 1) == 1


class Growing(np.ndarray):
    """An array, to look at whose size makes what holds it grow, as another thread may."""

    holder: Any = None

    @property
    def nbytes(self) -> int:
        self.holder[f"more {len(self.holder)}"] = b""
        return 8


@pytest.mark.parametrize("kind", ["dict", "object", "nested"])
def test_what_grows_while_it_is_counted_is_counted(kind: str) -> None:
    array = np.zeros(1).view(Growing)
    value: Any = SimpleNamespace(first=1, array=array, last=2) if kind == "object" else {"a": 1, "b": array, "c": 2}
    array.holder = vars(value) if kind == "object" else value
    assert memo.nbytes([value] if kind == "nested" else value) > 0
    assert len(array.holder) == 4

"""A cache may lie anywhere: a place from outside is computed into, resumed, evaluated and looked at."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import xarray as xr
from tiny import SCORES
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

import gradunc_viz as gv
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.store.backend import Backend


class InMemory:
    """A dict of files."""

    where = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.published = 0

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def below(self, group: str) -> dict[str, bytes]:
        start = f"{group}/" if group else ""
        return {name[len(start) :]: content for name, content in self.files.items() if name.startswith(start)}

    def groups(self, name: str) -> list[str]:
        return sorted({file.partition("/")[0] for file in self.below(name) if "/" in file})

    def sizes(self, group: str) -> dict[str, int]:
        return {name: len(content) for name, content in self.below(group).items() if "/" in name}

    def store(self, name: str) -> MemoryStore:
        buffer = default_buffer_prototype().buffer
        return MemoryStore({file: buffer.from_bytes(content) for file, content in self.below(name).items()})

    def version(self, group: str = "") -> Hashable:
        return self.published

    def is_cache(self) -> bool:
        return "zarr.json" in self.files

    @contextmanager
    def writing(self) -> Iterator[InMemory]:
        yield self

    def publish(self, group: str, files: Mapping[str, bytes]) -> bool:
        if self.below(group):
            return False
        self.files |= {f"{group}/{name}" if group else name: content for name, content in files.items()}
        self.published += 1
        return True

    def put(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def replace(self, group: str, files: Mapping[str, bytes]) -> None:
        self.withdraw(group)
        self.publish(group, files)

    def withdraw(self, group: str) -> None:
        for name in self.below(group):
            del self.files[f"{group}/{name}"]

    def abandon(self) -> None:
        self.files.clear()


@pytest.fixture(scope="module")
def memory(tiny_set: Any) -> InMemory:
    from tiny import TinyNet

    place = InMemory()
    gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), place, scores=SCORES, progress=False)
    return place


def test_a_place_from_outside_holds_what_a_folder_would(memory: InMemory, tiny_cache: gv.Cache) -> None:
    assert isinstance(memory, Backend)
    cache = gv.open_cache(memory)
    assert cache.ids == tiny_cache.ids
    for frame in cache:
        xr.testing.assert_identical(cache[frame].load(), tiny_cache[frame].load())
        assert cache.thumbnail(frame) == tiny_cache.thumbnail(frame)
    xr.testing.assert_identical(cache.summary, tiny_cache.summary)
    xr.testing.assert_equal(
        gv.evaluate({"": cache}, "error", bootstrap=5), gv.evaluate({"": tiny_cache}, "error", bootstrap=5)
    )
    assert "<Cache memory: 4 frames" in repr(cache)
    assert "data:image/jpeg" in cache._repr_html_()


def test_a_place_from_outside_is_resumed_and_its_damage_noticed(memory: InMemory, tiny_net: Any, tiny_set: Any) -> None:
    place = InMemory()
    place.files = dict(memory.files)
    place.withdraw("frames/f02")
    assert gv.open_cache(place).ids == ("f00", "f01", "f03")
    cache = gv.compute(tiny_net, gv.open_frames(tiny_set), place, scores=SCORES, progress=False)
    assert len(cache) == 4
    assert place.published == 2  # one frame, and the table
    with pytest.raises(CacheError, match=r"memory: was computed differently: settings\.scores"):
        gv.compute(tiny_net, gv.open_frames(tiny_set), place, scores="msp", progress=False)
    del place.files["frames/f01/counts/zarr.json"]
    with pytest.raises(CacheError, match="memory/frames/f01: damaged, holds"):
        cache["f01"]


def test_a_cache_says_when_it_has_changed(memory: InMemory) -> None:
    cache = gv.open_cache(memory)
    before = cache.version, cache.frame_version("f00")
    assert (cache.version, cache.frame_version("f00")) == before
    memory.published += 1
    assert cache.version != before[0]
    assert cache.frame_version("f00") != before[1]
    assert cache.reopened().ids == cache.ids
    with pytest.raises(KeyError, match="nowhere"):
        cache.frame_version("nowhere")

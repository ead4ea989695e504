"""A cache may lie anywhere: a place from outside is computed into, resumed, evaluated and looked at."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import xarray as xr
from tiny import SCORES

import gradunc_viz as gv
from gradunc_viz.schema.errors import CacheError
from gradunc_viz.store.backend import Backend
from gradunc_viz.store.file import Content, Version


class InMemory:
    """A dict of files."""

    where = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.puts: list[str] = []

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name][start:stop]

    def names(self, folder: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        return sorted({name[len(start) :].partition("/")[0] for name in self.files if name.startswith(start)})

    def versions(self, folder: str) -> dict[str, Version]:
        return {name: self.version(f"{folder}/{name}") for name in self.names(folder)}

    def version(self, name: str = "") -> Hashable:
        if not name:
            return len(self.puts)
        content = self.files.get(name)
        return None if content is None else Version(len(content), self.puts.count(name))

    def is_cache(self) -> bool:
        return "zarr.json" in self.files

    @contextmanager
    def writing(self) -> Iterator[InMemory]:
        yield self

    def put(self, name: str, content: Content, *, replace: bool = False) -> bool:
        if name in self.files and not replace:
            return False
        if callable(content):
            file = io.BytesIO()
            content(file)
            content = file.getvalue()
        self.files[name] = content
        self.puts.append(name)
        return True

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

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
    place.delete("frames/f02.zip")
    assert gv.open_cache(place).ids == ("f00", "f01", "f03")
    cache = gv.compute(tiny_net, gv.open_frames(tiny_set), place, scores=SCORES, progress=False)
    assert len(cache) == 4
    assert place.puts == ["frames/f02.zip", "summary.zip"]
    with pytest.raises(CacheError, match=r"memory: was computed differently: settings\.scores"):
        gv.compute(tiny_net, gv.open_frames(tiny_set), place, scores="msp", progress=False)
    place.files["frames/f01.zip"] = place.files["frames/f01.zip"][1:]
    with pytest.raises(CacheError, match=r"memory/frames/f01.*: damaged"):
        cache["f01"]


def test_a_cache_says_when_it_has_changed(memory: InMemory) -> None:
    cache = gv.open_cache(memory)
    before = cache.version, cache.frame_version("f00")
    assert (cache.version, cache.frame_version("f00")) == before
    memory.put("frames/f00.zip", memory.files["frames/f00.zip"], replace=True)
    assert cache.version != before[0]
    assert cache.frame_version("f00") != before[1]
    assert cache.reopened().ids == cache.ids
    with pytest.raises(KeyError, match="nowhere"):
        cache.frame_version("nowhere")

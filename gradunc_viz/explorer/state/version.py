"""What changes whenever a cache, or a frame of it, does: the keys under which anything of it is kept."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from ...store.cache import Cache

__all__ = ["cache_version", "frame_version"]


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # gone meanwhile: whoever reads it will say so
        return -1


def cache_version(cache: Cache) -> Hashable:
    """Path of a cache, its frames, and when they were last published."""
    files = (cache.path / "zarr.json", cache.path / "frames")
    return str(cache.path.resolve()), tuple(_changed(file) for file in files), cache.ids


def frame_version(cache: Cache, frame_id: str) -> tuple[object, ...]:
    """Path of a cache, a frame, and when it was published: one computed anew is another frame."""
    return str(cache.path.resolve()), frame_id, _changed(cache.path / "frames" / frame_id / "zarr.json")

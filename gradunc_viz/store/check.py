"""Looking at every byte of a cache: which frames are not what was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..schema.errors import CacheError
from .backend import Backend, Place, backend_of
from .checksums import ALGORITHM
from .group import SUMMARY, checked_store, complete_attrs, frame_group, published, read_root
from .local import write_error
from .progress import followed

__all__ = ["CacheCheck", "check_cache"]


@dataclass
class CacheCheck:
    """What `check_cache` found.

    Attributes
    ----------
    whole : list of str
        Ids of the frames of which every file is the one that was written.
    damaged : dict of str -> str
        What is wrong with each of the others, by id.
    unchecked : list of str
        Those of `whole` that were written before frames held checksums: their files are as large as they were.
    removed : list of str
        Damaged frames that were taken out.
    """

    whole: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def check_cache(path: Place, *, repair: bool = False) -> CacheCheck:
    """Read every file of a cache's frames and compare it with its checksum.

    Parameters
    ----------
    path : path-like or Backend
    repair : bool
        Whether damaged frames, and a damaged table over frames, are taken out: the next run of `compute` into the cache
        makes them again.

    Raises
    ------
    CacheError
        If it is no cache, its own file is damaged, or what is damaged cannot be taken out.
    """
    backend = backend_of(path)
    read_root(backend)
    found = CacheCheck()
    for frame_id in followed(sorted(published(backend))):
        try:
            checked = _check(backend, frame_group(frame_id))
        except CacheError as error:
            found.damaged[frame_id] = str(error)
            continue
        found.whole.append(frame_id)
        if not checked:
            found.unchecked.append(frame_id)
    if repair and found.damaged:
        _withdraw(backend, [*map(frame_group, found.damaged), SUMMARY])
        found.removed = list(found.damaged)
    return found


def _check(backend: Backend, group: str) -> bool:
    """Compare all files of a group with their checksums; False where it has none."""
    attrs, _ = complete_attrs(backend, group)
    store = checked_store(backend, group, attrs)
    for name in store.expected:
        try:
            content = backend.read(f"{group}/{name}")
        except OSError as error:
            raise CacheError(f"{backend.where}/{group}/{name}: cannot be read ({error})") from error
        store.check(name, content)
    return ALGORITHM in attrs["stored"]


def _withdraw(backend: Backend, groups: Iterable[str]) -> None:
    try:
        backend.is_cache()  # says what forbids writing
        with backend.writing() as writing:
            for group in groups:
                writing.withdraw(group)
    except OSError as error:
        raise write_error(backend.where, error) from error

"""Looking at every byte of a cache: which frames are not what was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..schema.errors import CacheError
from ..schema.frame import SCHEMA_VERSION
from .backend import Backend, Place, backend_of
from .checksums import ALGORITHM
from .group import SUMMARY, frame_group, open_group, published, read_root, withdraw
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
    read_root(backend, SCHEMA_VERSION if repair else None)
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


def _check(backend: Backend, name: str) -> bool:
    """Compare all files of a group with their checksums; False where it has none."""
    group = open_group(backend, name)
    for file in group.store.expected:
        try:
            group.store.read(file)
        except OSError as error:
            raise CacheError(f"{group.where}/{file}: cannot be read ({error})") from error
    return ALGORITHM in group.attrs["stored"]


def _withdraw(backend: Backend, groups: Iterable[str]) -> None:
    try:
        backend.is_cache()  # says what forbids writing
        with backend.writing() as writing:
            for group in groups:
                withdraw(writing, group)
    except OSError as error:
        raise write_error(backend.where, error) from error

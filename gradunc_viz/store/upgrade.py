"""Bringing a cache up to what is written today, without computing anew."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..schema.errors import CacheError, UnknownScoreError
from ..schema.frame import SCHEMA_VERSION
from .backend import Backend, Place, Writing, backend_of
from .group import ROOT, SUMMARY, Group, frame_group, open_group, published, read_root, root_content, withdraw
from .local import write_error
from .members import ZIP, write_members
from .progress import followed
from .writer import described

__all__ = ["upgrade_cache"]


def upgrade_cache(path: Place) -> tuple[str, ...]:
    """Bring a cache to what is written today: frames that are folders become files, and its root says what it lacks.

    Nothing is computed. A frame's folder goes once its file is in place, so that an upgrade that was interrupted is
    taken up again by another one, and the cache can be read all the while.

    Parameters
    ----------
    path : path-like or Backend
        The cache, of schema version 2 or of today's.

    Returns
    -------
    tuple of str
        What was done, one line each; empty if nothing was to be done.

    Raises
    ------
    CacheError
        If it is no cache, of a version that is not known here, cannot be written, or holds a damaged frame, or a score
        that neither it nor anything registered here describes.
    """
    backend = backend_of(path)
    attrs = read_root(backend)
    done: list[str] = []
    scores = _described(backend.where, attrs)
    if scores != attrs.get("scores"):
        names = ", ".join(entry["name"] for entry in scores)
        done.append(f"describes its own scores ({names})" if scores else "says that all of its scores are built in")
    key = _by_score(attrs["key"])
    if key != attrs["key"]:
        done.append("says of each imported score how it was counted")
    old = key["schema_version"] != SCHEMA_VERSION
    if done or old:
        try:
            backend.is_cache()  # says what forbids writing
            with backend.writing() as writing:
                if old:
                    done.append(f"holds each of its {_pack(backend, writing):,} frames in one file")
                key = {**key, "schema_version": SCHEMA_VERSION}
                writing.put(ROOT, root_content({**attrs, "key": key, "scores": scores}), replace=True)
        except OSError as error:
            raise write_error(backend.where, error) from error
    return tuple(done)


def _pack(backend: Backend, writing: Writing) -> int:
    """Make one file of the folder of each frame; returns how many frames there are."""
    ids = published(backend)
    for frame_id in followed(sorted(ids)):
        name = frame_group(frame_id)
        if backend.version(name + ZIP) is None:
            writing.put(name + ZIP, partial(write_members, _files(open_group(backend, name))))
        writing.delete(name)
    withdraw(writing, SUMMARY)
    return len(ids)


def _files(group: Group) -> Iterator[tuple[str, bytes]]:
    """Files of a group and their contents, which are compared with their checksums; the small ones and its own last."""
    sizes = group.store.members.sizes
    for file in [*sorted(set(sizes) - {ROOT}, key=lambda file: (-sizes[file], file)), ROOT]:
        content = group.store.read(file)
        assert content is not None
        yield file, content


def _by_score(key: dict[str, Any]) -> dict[str, Any]:
    """The key of a cache of imported maps, of which there used to be one."""
    settings = key.get("settings", {})
    if not isinstance(settings.get("edges"), str):
        return key
    (score,) = settings["scores"]
    edges, orientation = {score: f"f4:{settings['edges']}"}, {score: settings["orientation"]}
    return {**key, "settings": {**settings, "edges": edges, "orientation": orientation}}


def _described(where: str, attrs: dict[str, Any]) -> list[dict[str, Any]]:
    """Descriptions of the scores that are not built in: those that are there, else of what is registered here."""
    known = {entry["name"]: entry for entry in attrs.get("scores", ())}
    found: list[dict[str, Any]] = []
    for name in attrs["key"].get("settings", {}).get("scores", ()):
        try:
            found += [known[name]] if name in known else described([name])
        except UnknownScoreError:
            raise CacheError(
                f"{where}: score {name!r} is described nowhere; register it, and upgrade the cache again"
            ) from None
    return found

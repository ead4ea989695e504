"""Bringing a cache up to what is written today, without computing anew."""

from __future__ import annotations

from typing import Any

from ..schema.errors import CacheError, UnknownScoreError
from ..schema.frame import SCHEMA_VERSION
from .backend import Place, backend_of
from .group import read_root, root_files
from .local import write_error
from .writer import described

__all__ = ["upgrade_cache"]


def upgrade_cache(path: Place) -> tuple[str, ...]:
    """Add what a cache's root lacks of what is written today; frames stay as they are.

    Parameters
    ----------
    path : path-like or Backend
        The cache, of schema version 2.

    Returns
    -------
    tuple of str
        What was done, one line each; empty if nothing was to be done.

    Raises
    ------
    CacheError
        If it is no cache, of a version that is not known here, cannot be written, or holds a score that neither it nor
        anything registered here describes.
    """
    backend = backend_of(path)
    attrs = read_root(backend, version=None)
    version = attrs["key"]["schema_version"]
    if version != SCHEMA_VERSION:
        raise CacheError(
            f"{backend.where}: schema version is {version!r}, expected {SCHEMA_VERSION}; this version of gradunc-viz "
            "knows no way from it, compute the cache anew"
        )
    done: list[str] = []
    scores = _described(backend.where, attrs)
    if scores != attrs.get("scores"):
        names = ", ".join(entry["name"] for entry in scores)
        done.append(f"describes its own scores ({names})" if scores else "says that all of its scores are built in")
    key = _by_score(attrs["key"])
    if key != attrs["key"]:
        done.append("says of each imported score how it was counted")
    if done:
        try:
            backend.is_cache()  # says what forbids writing
            with backend.writing() as writing:
                writing.put("zarr.json", root_files({**attrs, "key": key, "scores": scores})["zarr.json"])
        except OSError as error:
            raise write_error(backend.where, error) from error
    return tuple(done)


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

"""The files of a cached frame: looked at, damaged, copied under another name."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradunc_viz.store.checksums import attributes_checksum
from gradunc_viz.store.members import write_members


def members(frame: Path) -> dict[str, bytes]:
    """Files of ``CACHE/frames/ID`` and their contents, in order."""
    with zipfile.ZipFile(f"{frame}.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put_members(frame: Path, files: dict[str, bytes]) -> None:
    """Put a frame in place, whatever its files say of each other."""
    with open(f"{frame}.zip", "wb") as file:
        write_members(files.items(), file)


@contextmanager
def unpacked(frame: Path) -> Iterator[Path]:
    """A folder of the files of ``CACHE/frames/ID``; what is done to them is done to the frame."""
    order = list(members(frame))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in members(frame).items():
            file = Path(folder, name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        yield Path(folder)
        left = {str(file.relative_to(folder)): file for file in Path(folder).rglob("*") if file.is_file()}
        put_members(frame, {name: left[name].read_bytes() for name in [*order, *left] if name in left})


def as_folders(cache: Path) -> None:
    """Make of a cache one of schema version 2, whose frames are folders."""
    root = json.loads((cache / "zarr.json").read_text())
    attributes = root["attributes"]
    attributes["key"]["schema_version"] = 2
    attributes.pop("checksum", None)
    (cache / "zarr.json").write_text(json.dumps(root))
    for group in [*cache.glob("frames/*.zip"), *cache.glob("summary.zip")]:
        folder = group.with_suffix("")
        for name, content in members(folder).items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        group.unlink()


def copy_frame(source: Path, target: Path) -> None:
    """Put a frame into a cache once more, under the name that it gets."""
    files = members(source)
    group = json.loads(files["zarr.json"])
    attributes = group["attributes"]
    attributes["frame_id"] = target.name
    others = {name: value for name, value in attributes.items() if name != "stored"}
    attributes["stored"]["attributes"] = attributes_checksum(others)
    put_members(target, {**files, "zarr.json": json.dumps(group).encode()})

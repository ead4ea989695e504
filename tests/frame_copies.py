"""A cache of many frames, made of the files of a few."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gradunc_viz.store.checksums import attributes_checksum


def copy_frame(source: Path, target: Path) -> None:
    """Put a frame into a cache once more, under the name of its new folder; arrays are links to those of the first."""
    target.mkdir()
    for array in source.iterdir():
        if array.is_dir():
            (target / array.name).symlink_to(os.path.abspath(array))
    group = json.loads((source / "zarr.json").read_text())
    attributes = group["attributes"]
    attributes["frame_id"] = target.name
    others = {name: value for name, value in attributes.items() if name != "stored"}
    attributes["stored"]["attributes"] = attributes_checksum(others)
    (target / "zarr.json").write_text(json.dumps(group))

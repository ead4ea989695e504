"""What file managers and network storage put into every folder."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = (
    *("@eaDir", "lost+found", "#recycle", "$RECYCLE.BIN", ".snapshot", "System Volume Information", "__MACOSX"),
    *(".ipynb_checkpoints", "@Recycle"),
)
FILES = (".DS_Store", "Thumbs.db", "desktop.ini")


def litter(root: Path) -> None:
    """Put them into a folder and into those below it, with copies of what lies there."""
    for parent, folders, names in list(os.walk(root)):
        here = Path(parent)
        for name in (*FOLDERS, *folders):
            (here / name).mkdir(exist_ok=True)
        for name in names:
            content = (here / name).read_bytes()
            (here / f"._{name}").write_bytes(b"\0\5\26\7")
            for folder in FOLDERS:
                (here / folder / name).write_bytes(content)
        for name in FILES:
            (here / name).write_bytes(b"x")

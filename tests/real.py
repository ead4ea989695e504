"""ENet on published frames, by the command line, with all that any test wants to know of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import gradunc_viz as gv
from gradunc_viz.cli.main import main

CAMVID_TO_TRAIN_ID = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 6: 7, 7: 4, 8: 13, 9: 11, 10: 18, 11: 255}
SOME = ("pgn_oh_p0.1", "pgn_oh_p1", "pgn_uni_p0.5", "pgn_uni_p2_paper", "msp", "entropy")
BOTH_TRACKS = ("pgn_oh_p0.1", "pgn_oh_p0.5", "pgn_oh_p2", "pgn_uni_p1", "msp", "entropy", "energy")
SETS = {
    "anomaly": ("dataset_AnomalyTrack", "smiyc", (*gv.PAPER_SCORES, "energy")),
    "obstacle": ("dataset_ObstacleTrack", "smiyc", tuple(dict.fromkeys((*SOME, *BOTH_TRACKS)))),
    "camvid": ("CamVid", "camvid", SOME),
}
"""Folder, layout and scores of each set."""


def compute(real_data: Path, name: str, out: Path, *options: str, scores: Sequence[str] | None = None) -> gv.Cache:
    """Compute a set on the command line."""
    folder, layout, all_scores = SETS[name]
    arguments = ["compute", "--model", f"{real_data / 'enet.py'}:load_enet"]
    arguments += ["--weights", str(real_data / "enet_cityscapes.pth"), "--drop-channels", "19"]
    arguments += ["--input-size", "512x1024", "--data", str(real_data / folder), "--layout", layout]
    if name == "camvid":
        mapping = out.parent / "camvid.json"
        mapping.write_text(json.dumps(CAMVID_TO_TRAIN_ID))
        arguments += ["--labels", str(mapping)]
    arguments += ["--scores", ",".join(scores or all_scores), "--device", "cpu", "--quiet", "--out", str(out)]
    assert main([*arguments, *options]) == 0
    return gv.open_cache(out)

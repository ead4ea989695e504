"""The embedded demo: rendered street scenes and a small network trained on them.

Importing this package is light. The network is in `gradunc_viz.demo.network` (needs PyTorch). How scenes and weights
were made, and how well the network does, is told in ``data/demo/authoring`` of a checkout.
"""

from __future__ import annotations

__all__ = ["CLASSES"]

#: Class names and display colours of the demo data set; the position is the class id.
CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("vegetation", (107, 142, 35)),
    ("sky", (70, 130, 180)),
    ("pole or sign", (220, 220, 0)),
    ("car", (0, 0, 142)),
    ("person", (220, 20, 60)),
)

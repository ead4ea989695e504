"""Links between documents lead somewhere, and the recipes of CONTRIBUTING do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for part in ("docs", "data", "gradunc_viz") for path in (ROOT / part).rglob("*.md"))]
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", path.read_text()):
        file, _, heading = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", found.read_text())
            assert heading in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, target


def test_recipes_register_what_they_say() -> None:
    """All in one process of its own, as a program that adds everything would."""
    blocks = re.findall(r"(?ms)^```python$(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(blocks) >= 6
    layer = "from torch import nn\nclass MyProjection(nn.Module): pass\n"
    found = """
import torch
from gradunc_viz.datasets.adapters import ADAPTERS
from gradunc_viz.datasets.layouts import LAYOUTS
from gradunc_viz.explorer.state.tabs import tabs
from gradunc_viz.metrics.metric import METRICS, BinCounts
from gradunc_viz.networks.loaders import LOADERS
from gradunc_viz.schema.scores import lookup
assert lookup("renyi").function(torch.zeros(1, 4, 2, 2)).allclose(torch.tensor(4.0).log())
counts = BinCounts(np.array([1, 0, 1]), np.array([5, 3, 2]), np.ones(3, bool), np.arange(3.0))
assert METRICS["fpr80"](counts) == 1.0
assert "pairs" in LAYOUTS and "lab" in LOADERS and "notes" in tabs() and "recording" in ADAPTERS
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([layer, *blocks, found])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

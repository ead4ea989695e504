from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv

torch.set_num_threads(1)

if os.environ.get("GRADUNC_REAL_DATA"):  # absolute, as notebooks and programs run in folders of their own
    os.environ["GRADUNC_REAL_DATA"] = os.path.abspath(os.environ["GRADUNC_REAL_DATA"])


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of two sizes with labels and anomalies, not to be changed."""
    return write_set(tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    """The same, to be changed."""
    return write_set(tmp_path / "set")


@pytest.fixture
def tiny_net() -> TinyNet:
    return TinyNet().eval()


@pytest.fixture(scope="session")
def tiny_cache(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    """The cache of `tiny_set`, not to be changed."""
    out = tmp_path_factory.mktemp("tiny") / "cache"
    return gv.compute(TinyNet().eval(), gv.open_frames(tiny_set), out, scores=SCORES, progress=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real networks and frames."""
    folder = os.environ.get("GRADUNC_REAL_DATA")
    if not folder:
        pytest.skip("GRADUNC_REAL_DATA does not name the folder of real networks and frames")
    return Path(folder)

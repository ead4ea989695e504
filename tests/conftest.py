from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# before torch is loaded, here and in the processes that tests start: tests run side by side, one to a core
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import real
import torch
from filelock import FileLock
from tiny import SCORES, TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import data_path

torch.set_num_threads(1)

if not torch.cuda.is_available():  # before triton is loaded: its kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

if os.environ.get("GRADUNC_REAL_DATA"):  # absolute, as notebooks and programs run in folders of their own
    os.environ["GRADUNC_REAL_DATA"] = os.path.abspath(os.environ["GRADUNC_REAL_DATA"])

Shared = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests first, shared out evenly, so that no process ends alone with them.

    Each of the processes of a run begins with a block of the list and takes over from others when it is done with it.
    """
    processes = getattr(config, "workerinput", {"workercount": 1})["workercount"]

    def length(item: pytest.Item) -> int:
        whole = item.path.parent.name in ("tests", "browser")  # notebooks, published networks, pages
        return (item.get_closest_marker("slow") is None) + (not whole)

    ordered = sorted(items, key=length)
    items[:] = [item for share in range(processes) for item in ordered[share::processes]]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder once for all processes of a run of tests, and gives its path; not to be changed afterwards."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"
    folder.mkdir(exist_ok=True)

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        done = folder / f"{name}.done"
        with FileLock(folder / f"{name}.lock"):
            if not done.exists():
                make(folder / name)
                done.touch()
        return folder / name

    return made_once


_listeners: list[list[str]] = []


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        for names in _listeners:
            names.append(str(arguments[0]))


sys.addaudithook(_listen)  # cannot be removed again


@pytest.fixture
def opened_files() -> Iterator[list[str]]:
    """Names of files as they are opened."""
    names: list[str] = []
    _listeners.append(names)
    yield names
    _listeners.remove(names)


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
def demo_cache(shared: Shared) -> Path:
    """The cache that notebooks make of the embedded demo, to be copied."""
    frames = gv.open_frames(data_path("demo"))
    return shared("demo", lambda out: gv.compute("demo", frames, out, progress=False))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real networks and frames."""
    folder = os.environ.get("GRADUNC_REAL_DATA")
    if not folder:
        pytest.skip("GRADUNC_REAL_DATA does not name the folder of real networks and frames")
    return Path(folder)


@pytest.fixture(scope="session")
def real_cache(real_data: Path, shared: Shared) -> Callable[[str], gv.Cache]:
    """Caches of ENet on the sets of `real.SETS`, not to be changed."""
    return lambda name: gv.open_cache(shared(f"enet-{name}", lambda out: real.compute(real_data, name, out)))

"""The tutorials: in git as they should be, and executed from top to bottom."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = (
    "01_quickstart",
    "02_your_network",
    "03_how_gradient_scores_work",
    "04_out_of_distribution",
    "05_finding_mistakes",
    "06_figures_for_a_paper",
    "07_explore",
    "08_baselines",
    "09_query_models",
)

CELL_SECONDS = 300

# Names on the loopback interface alone can be reached, as on a machine without a network.
OFFLINE = """
import socket

def _guarded(function):
    def guard(self, address):
        if isinstance(address, tuple) and address[0] not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"a notebook must not need the network, and asked for {address}")
        return function(self, address)
    return guard

def _resolve(host, *args, _getaddrinfo=socket.getaddrinfo, **options):
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise OSError(f"a notebook must not need the network, and asked for {host}")
    return _getaddrinfo(host, *args, **options)

socket.socket.connect, socket.socket.connect_ex = _guarded(socket.socket.connect), _guarded(socket.socket.connect_ex)
socket.getaddrinfo = _resolve
"""

PROGRESS = re.compile(r".*\d+%\|.*\[.*\]")
"""A progress bar of tqdm, which goes to stderr by nature."""


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def sources(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_all_are_there() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestAsStored:
    def test_outputs_are_stripped(self, path: Path) -> None:
        for cell in read(path).cells:
            assert "attachments" not in cell
            assert not cell.metadata
            if cell.cell_type == "code":
                assert cell.outputs == []
                assert cell.execution_count is None

    def test_metadata_names_any_python(self, path: Path) -> None:
        metadata = read(path).metadata
        assert metadata.kernelspec.name == "python3"
        assert "widgets" not in metadata
        assert "version" not in metadata.language_info, "the Python of whoever saved it last is nobody's business"

    def test_begins_with_title_and_ends_with_next_steps(self, path: Path) -> None:
        notebook = read(path)
        first, last = notebook.cells[0], notebook.cells[-1]
        assert first.source.startswith(f"# {int(path.stem[:2])}. ")
        assert last.cell_type == "markdown"
        steps = last.source.partition("## What to try next\n")[2]
        assert 3 <= len(re.findall(r"(?m)^- ", steps)) <= 6

    def test_text_stands_between_the_cells(self, path: Path) -> None:
        kinds = [cell.cell_type for cell in read(path).cells]
        assert kinds.count("markdown") >= kinds.count("code") * 0.6
        assert "code code code code" not in " ".join(kinds)

    def test_links_between_notebooks_lead_somewhere(self, path: Path) -> None:
        for text in sources(read(path), "markdown"):
            for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
                assert (FOLDER / target).is_file(), target

    def test_nothing_is_fetched_or_installed(self, path: Path) -> None:
        for text in sources(read(path), "code"):
            assert not re.search(r"https?://|^[!%]|urlopen|requests\.", text, re.MULTILINE)


@pytest.fixture
def place(path: Path, demo_cache: Path, tmp_path: Path) -> Path:
    """A fresh folder to run in; but for the first, notebooks find the demo cache there, as after it."""
    if path.stem != NAMES[0]:
        shutil.copytree(demo_cache, tmp_path / "runs" / "demo")
    return tmp_path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IPython's settings of the kernels: without a network."""
    folder = tmp_path_factory.mktemp("ipython")
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00_offline.py").write_text(OFFLINE)
    return folder


def execute(path: Path, place: Path) -> nbformat.NotebookNode:
    """Run all cells in a new kernel; the file is left as it is."""
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    return client.execute()


def stderr(notebook: nbformat.NotebookNode) -> str:
    """What was written to stderr, progress bars left out."""
    streams = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    lines = re.split(r"[\r\n]+", "".join(streams))
    return "\n".join(line for line in lines if line.strip() and not PROGRESS.match(line))


def data(notebook: nbformat.NotebookNode, kind: str) -> list[Any]:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, place: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(settings))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = path.read_bytes()
    executed = execute(path, place)
    assert path.read_bytes() == before
    assert stderr(executed) == "", "warnings, or something else on stderr"
    assert data(executed, "image/png"), "no picture was drawn"
    if path.stem in ("01_quickstart", "07_explore"):
        assert data(executed, "application/vnd.holoviews_exec.v0+json"), "the dashboard was not shown"


@pytest.mark.slow
def test_kernels_are_offline(tmp_path: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(settings))
    call = "import urllib.request\ntry:\n    urllib.request.urlopen('http://192.0.2.1/', timeout=5)\n"
    cell = nbformat.v4.new_code_cell(call + "except OSError as error:\n    print(error)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert "must not need the network" in notebook.cells[0].outputs[0].text

"""Arrows between modules point one way, and reading a cache stays light."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import gradunc_viz

PACKAGE = Path(gradunc_viz.__file__).parent

ORDER = (
    ("display", "schema"),
    ("resources",),
    ("taps",),
    ("power_plan",),
    ("resize",),
    ("vector_code",),
    ("vector_powers", "pixel_rows", "label_kernel"),
    ("hardware",),
    ("tallies", "tallies_llvm"),
    ("gradients_reference",),
    ("gradients_cpu", "gradients_llvm", "gradients_triton", "resized_llvm"),
    ("kernels",),
    ("softmax",),
    ("gradients",),
    ("scores",),
    ("cells",),
    ("counts",),
    ("demo",),
    ("heads", "models"),
    ("conventions", "layouts", "frames"),
    ("pixels",),
    ("tapped",),
    ("traceable",),
    ("scored_model",),
    ("zarr_group",),
    ("cache",),
    ("frame_dataset",),
    ("stages",),
    ("inference",),
    ("pipeline",),
    ("compute",),
    ("stream",),
    ("interchange",),
    ("metrics",),
    ("views",),
    ("figures",),
    ("app",),
    ("cli",),
)
"""Rooms from bottom to top; those of one row may import each other."""

FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    """Rooms of this package that a file imports, inside functions too, save for type checking."""
    here = ("gradunc_viz", *file.parts[:-1])
    rooms = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            paths = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            paths = [base] if len(base) > 1 else [(*base, alias.name) for alias in node.names]
        else:
            paths = []
        rooms.update(path[1] for path in paths if path[0] == "gradunc_viz" and len(path) > 1)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((PACKAGE / file).read_text()))
    return rooms & {room_of(other) for other in FILES}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_imports_only_from_above_it(file):
    room = room_of(file)
    assert room in FLOOR, f"{room} has no place in the order"
    wrong = {other for other in imported_rooms(file) if FLOOR[other] > FLOOR[room]}
    assert not wrong, f"{file} imports {sorted(wrong)}, which lie below it"


@pytest.mark.parametrize("room", ["views", "figures"])
def test_drawing_takes_from_metrics_cache_and_schema(room):
    allowed = {"metrics", "cache", "schema", "resize", "resources", "softmax", "display", "views", room}
    for file in (file for file in FILES if room_of(file) == room):
        assert imported_rooms(file) <= allowed, file


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(modules: tuple[str, ...], watched: tuple[str, ...]) -> list[str]:
    """Import modules of the package in a fresh interpreter; say which of the watched ones came with them."""
    imports = ", ".join(f"gradunc_viz{module}" for module in modules)
    return run_python(f"import sys, {imports}; print(*(n for n in {watched} if n in sys.modules))").split()


def test_schema_loads_nothing_but_numpy():
    assert loaded_by(("", ".schema"), ("torch", "xarray", "zarr", "PIL", "pandas")) == []


def test_maths_load_no_compiler():
    assert loaded_by(("", ".gradients", ".scores", ".compute"), ("llvmlite", "triton")) == []


def test_reading_a_cache_loads_nothing_heavy():
    modules = ("", ".schema", ".resources", ".resize", ".conventions", ".layouts", ".frames", ".cache")
    assert loaded_by(modules, ("torch", "panel", "holoviews", "matplotlib", "bokeh", "sklearn")) == []


def test_maths_and_models_load_nothing_that_draws():
    modules = (".gradients", ".softmax", ".scores", ".counts", ".heads", ".models")
    assert loaded_by(modules, ("panel", "holoviews", "bokeh", "matplotlib", "zarr")) == []


@pytest.mark.parametrize("name", gradunc_viz.__all__)
def test_public_name_resolves(name):
    home = gradunc_viz._HOME.get(name)
    if home and importlib.util.find_spec(f"gradunc_viz.{home}") is None:
        pytest.skip(f"no module {home}")
    value = getattr(gradunc_viz, name)
    assert name in dir(gradunc_viz)
    if home:
        assert value is getattr(importlib.import_module(f"gradunc_viz.{home}"), name)


@pytest.mark.parametrize("name", [name for name, home in gradunc_viz._HOME.items() if name == home])
def test_public_name_stays_what_it_is_when_its_module_is_imported_first(name):
    """Importing a submodule binds its name in the package, where a function of that name may live."""
    code = f"import gradunc_viz.{name}; import gradunc_viz as gv; print(callable(gv.{name}))"
    assert run_python(code) == "True"


def test_figures_come_when_they_are_used():
    """Neither drawing nor tables load with the package, and figures need neither torch nor a browser's charts."""
    assert loaded_by(("",), ("matplotlib", "pandas", "xarray")) == []
    assert run_python("import gradunc_viz as gv; print(callable(gv.figures.roc))") == "True"
    assert loaded_by((".figures",), ("torch", "panel", "holoviews", "bokeh", "matplotlib.pyplot")) == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gradunc_viz.nonsense  # noqa: B018

"""Arrows between modules point one way, and reading a cache stays light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gradunc_viz

ROOT = Path(__file__).parents[1]
PACKAGE = Path(gradunc_viz.__file__).parent


def test_arrows_point_down_and_no_circle_is_anywhere():
    """The rooms and their order are in pyproject.toml, ``[tool.importlinter]``; full paths of modules are looked at."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_the_package_is_its_rooms():
    assert [path.name for path in PACKAGE.glob("*.*")] == ["__init__.py", "py.typed"]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(modules: tuple[str, ...], watched: tuple[str, ...]) -> list[str]:
    """Import modules of the package in a fresh interpreter; say which of the watched ones came with them."""
    imports = ", ".join(f"gradunc_viz{module}" for module in modules)
    return run_python(f"import sys, {imports}; print(*(n for n in {watched} if n in sys.modules))").split()


def test_schema_loads_nothing_but_numpy():
    assert (
        loaded_by(
            ("", ".schema.frame", ".schema.scores", ".schema.tasks"), ("torch", "xarray", "zarr", "PIL", "pandas")
        )
        == []
    )


def test_maths_load_no_compiler():
    assert loaded_by(("", ".scores.maps", ".run.compute"), ("llvmlite", "triton")) == []


def test_reading_a_cache_loads_nothing_heavy():
    modules = ("", ".schema.frame", ".kernels.resize", ".datasets.frames", ".store.cache", ".store.frame")
    assert loaded_by(modules, ("torch", "panel", "holoviews", "matplotlib", "bokeh", "sklearn")) == []


def test_maths_and_models_load_nothing_that_draws():
    modules = (".scores.maps", ".counts.frame", ".networks.load")
    assert loaded_by(modules, ("panel", "holoviews", "bokeh", "matplotlib", "zarr")) == []


PUBLIC = [(name, home) for home, names in gradunc_viz._HOMES.items() for name in names]


@pytest.mark.parametrize(("name", "home"), PUBLIC)
def test_public_name_is_what_its_module_defines(name, home):
    assert getattr(gradunc_viz, name) is getattr(importlib.import_module(f"gradunc_viz.{home}"), name)
    assert name in dir(gradunc_viz)


def test_what_registers_a_thing_comes_from_the_home_of_the_thing():
    homes = dict(PUBLIC)
    for thing, register in (
        ("Layout", "register_layout"),
        ("Loader", "register_loader"),
        ("HeadKind", "register_head"),
        ("Metric", "register_metric"),
        ("Tab", "register_tab"),
    ):
        assert homes[thing] == homes[register]


def test_type_checkers_see_the_same_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [(alias.name, node.module) for node in block.body for alias in node.names]
    assert sorted(seen, key=str) == sorted(
        [*PUBLIC, *((room, None) for room in ("figures", "metrics", "tables"))], key=str
    )


@pytest.mark.slow
def test_figures_come_when_they_are_used():
    """Neither drawing nor tables load with the package, and figures need neither torch nor a browser's charts."""
    assert loaded_by(("",), ("matplotlib", "pandas", "xarray")) == []
    assert run_python("import gradunc_viz as gv; print(callable(gv.figures.roc))") == "True"
    assert loaded_by((".figures",), ("torch", "panel", "holoviews", "bokeh", "matplotlib.pyplot")) == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        gradunc_viz.nonsense  # noqa: B018

"""What the package imports is what pyproject.toml declares, and all that tests need is there."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gradunc_viz

ROOT = Path(__file__).parents[1]
PACKAGE = Path(gradunc_viz.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "segmentation-models-pytorch",  # which brings it
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
}
"""Modules whose distribution has another name."""


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> dict[str, list[str]]:
    """Distributions that modules of the package import, anywhere in their text, and which modules do."""
    found: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            for module in {module.partition(".")[0] for module in modules} - {"gradunc_viz", *sys.stdlib_module_names}:
                name = canonicalize_name(DISTRIBUTIONS.get(module, module))
                found.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    return found


def required(extra: str) -> Iterator[Requirement]:
    """What an extra asks for on this system, extras that it names included."""
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                yield from required(other)
        elif requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def test_what_is_imported_is_declared() -> None:
    users = [extra for extra in EXTRAS if extra not in ("test", "lint", "dev", "render")]
    declared = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in users))
    assert {name: files for name, files in imported().items() if name not in declared} == {}


def test_what_every_user_installs_is_imported() -> None:
    assert names(PROJECT["dependencies"]) - set(imported()) == set()


def test_each_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"(?ms)^dependencies = \[$(.*?)^\]$", text)
    assert listed
    lines = [line.strip() for line in listed[1].strip().splitlines()]
    assert [line for line in lines if not re.fullmatch(r'".*",\s+# \S.*', line)] == []


def test_nothing_that_tests_need_is_missing() -> None:
    """So that no test is left out unseen; `make test` installs it."""
    missing = []
    for requirement in required("dev"):
        try:
            version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
    assert missing == []


def test_versions_are_those_tested_together() -> None:
    """Every dependency has its version in constraints.txt, whichever extra asks for it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = {canonicalize_name(r.name) for extra in EXTRAS for r in required(extra)} | names(PROJECT["dependencies"])
    assert wanted - {canonicalize_name(name) for name in pinned} == {"bpy"}  # Blender runs in a Python of its own
    assert pinned["torch"] == "2.13.0"
    assert not [line for line in lines if "://" in line or " @ " in line]

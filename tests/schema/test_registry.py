"""Registries: what packages bring is there when it is asked for, and does no harm where it is broken."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import pytest

from gradunc_viz.schema.errors import FrameError
from gradunc_viz.schema.registry import Registry


@dataclass(frozen=True)
class Tool:
    name: str


@dataclass
class Point:
    """An entry point of an installed package."""

    name: str
    load: Callable[[], object]
    value: str = "package:thing"


@pytest.fixture
def tools() -> Registry[Tool]:
    return Registry(Tool, attrgetter("name"), "tool", "gradunc_viz.tools", [Tool("saw")], FrameError)


def install(monkeypatch: pytest.MonkeyPatch, *points: Point) -> list[str]:
    """Let these be the entry points; return the groups that are asked for."""
    asked: list[str] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: asked.append(group) or points)
    return asked


def test_things_are_found_by_name_in_order(tools: Registry[Tool]) -> None:
    axe = Tool("axe")
    assert tools.register(axe) is axe
    assert list(tools) == ["saw", "axe"]
    assert tools["axe"] is tools.find("axe") is axe
    assert ("axe" in tools, "hammer" in tools, len(tools)) == (True, False, 2)


def test_what_cannot_be_registered(tools: Registry[Tool]) -> None:
    with pytest.raises(FrameError, match="tool 'saw' is registered already"):
        tools.register(Tool("saw"))
    with pytest.raises(FrameError, match="'axe' is no tool: expected a Tool"):
        tools.register("axe")  # type: ignore[arg-type]


def test_an_unknown_name_lists_the_known_ones(tools: Registry[Tool]) -> None:
    tools.register(Tool("axe"))
    with pytest.raises(FrameError, match=r"^unknown tool 'ax', expected one of saw, axe$"):
        tools.find("ax")


def test_packages_bring_things_or_modules_that_register_some(
    tools: Registry[Tool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = install(
        monkeypatch,
        Point("axe", lambda: Tool("axe")),
        Point("module", lambda: tools.register(Tool("plane")) and pytest),
        Point("saw", lambda: Tool("saw")),  # ours stays
    )
    ours = tools["saw"]
    assert asked == []  # nothing is loaded for what is there
    assert list(tools) == ["saw", "axe", "plane"]
    assert tools["saw"] is ours
    assert tools.find("plane") == Tool("plane")
    assert asked == ["gradunc_viz.tools"]


def test_a_broken_package_is_told_and_left_out(tools: Registry[Tool], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise ImportError("no libsaw\nanywhere")

    install(monkeypatch, Point("axe", broken), Point("plane", lambda: Tool("plane")))
    with pytest.warns(UserWarning, match=r"axe = package:thing cannot be loaded \(ImportError: no libsaw\)$"):
        assert list(tools) == ["saw", "plane"]
    assert list(tools) == ["saw", "plane"]

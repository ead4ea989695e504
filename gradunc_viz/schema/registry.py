"""Registries: the things of one kind by name, from this package, from a program, and from installed packages."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import GraduncError, brief

__all__ = ["Registry", "loaded_entry_points", "said_again"]

Item = TypeVar("Item")


def said_again(new: object, old: object) -> bool:
    """Whether a thing of the running program is defined once more, as when a cell of a notebook is run again."""

    def functions(item: object) -> list[tuple[str, str]]:
        values = (inspect.unwrap(value) for value in vars(item).values() if callable(value))
        return [(value.__module__, value.__qualname__) for value in values if hasattr(value, "__qualname__")]

    found = functions(new)
    return bool(found) and found == functions(old) and all(module == "__main__" for module, _ in found)


def loaded_entry_points(group: str) -> Iterator[object]:
    """What installed packages name under a group; of one that cannot be loaded a warning says so."""
    from importlib import metadata  # takes longer than all else that a list of names needs

    for point in metadata.entry_points(group=group):
        try:
            yield point.load()
        except Exception as error:  # another's package: without it, everything else goes on
            warnings.warn(f"{group}: {point.name} = {point.value} cannot be loaded ({brief(error)})", stacklevel=4)


class Registry(Mapping[str, Item], Generic[Item]):
    """A mapping from names to what is registered under them, in the order of registration.

    Packages bring things through entry points: each names a thing, or a module that registers some when it is imported.
    They are loaded once, when a name is unknown or all names are asked for.

    Parameters
    ----------
    kind : type
        What is registered.
    name : function
        The name of a thing.
    what : str
        One of them in words, for errors.
    group : str
        Group of the entry points.
    builtin : iterable
        What there is from the start.
    error : type of GraduncError
        Raised where a name is unknown.
    """

    def __init__(
        self,
        kind: type[Item],
        name: Callable[[Item], str],
        what: str,
        group: str,
        builtin: Iterable[Item] = (),
        error: type[GraduncError] = GraduncError,
    ) -> None:
        self._kind, self._name, self.what, self.group, self.error = kind, name, what, group, error
        self._items: dict[str, Item] = {}
        self._complete = False
        for item in builtin:
            self.register(item)

    def register(self, item: Item) -> Item:
        """Add a thing and return it.

        Raises
        ------
        GraduncError
            If it is of another kind, or its name is taken.
        """
        if not isinstance(item, self._kind):
            raise self.error(f"{item!r} is no {self.what}: expected a {self._kind.__name__}")
        name = self._name(item)
        if name in self._items and not said_again(item, self._items[name]):
            raise self.error(f"{self.what} {name!r} is registered already")
        self._items[name] = item
        return item

    def find(self, name: str) -> Item:
        """Look a thing up by name.

        Raises
        ------
        GraduncError
            If there is none; the message lists those there are.
        """
        if name not in self:
            raise self.error(f"unknown {self.what} {name!r}, expected one of {', '.join(self)}")
        return self[name]

    def _load_entry_points(self) -> None:
        if self._complete:
            return
        self._complete = True  # first: what is loaded may ask for names itself
        for found in loaded_entry_points(self.group):
            if isinstance(found, self._kind) and self._name(found) not in self._items:
                self.register(found)

    def __getitem__(self, name: str) -> Item:
        if name not in self._items:
            self._load_entry_points()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(tuple(self._items))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._items)

    def __repr__(self) -> str:
        return f"<{self.what}s: {', '.join(self)}>"

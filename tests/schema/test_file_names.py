from __future__ import annotations

import itertools

import pytest
from foreign import FILES, FOLDERS

from gradunc_viz.schema.errors import SchemaError
from gradunc_viz.schema.file_names import is_foreign, natural_key
from gradunc_viz.schema.frame import check_frame_id


@pytest.mark.parametrize("name", [*FOLDERS, *FILES, "._f0.png", ".Trash-1000", ".nfs0001", "@EADIR", "thumbs.DB"])
def test_what_systems_put_into_folders_is_foreign_and_no_frame(name: str) -> None:
    assert is_foreign(name)
    with pytest.raises(SchemaError, match="system's own folder"):
        check_frame_id(name)


@pytest.mark.parametrize("name", ["f0.png", "#1.png", "@2x.png", "$a", "recycle", "thumbs.png", "lost", "a._b", "~a"])
def test_names_of_users_are_not_foreign(name: str) -> None:
    assert not is_foreign(name)
    check_frame_id(name)


@pytest.mark.parametrize(
    "names",
    [
        ("f1", "f2", "f10"),
        ("1", "2", "10", "a"),
        ("f1_2", "f1_10", "f2_1"),
        ("f01", "f1", "f02", "f2"),
        ("a/2", "a/10", "a-1", "b/1"),
        ("", "0", "٣", "a"),
        ("f9" * 40, "f10" * 40),
    ],
)
def test_names_sort_as_people_count_whatever_their_order(names: tuple[str, ...]) -> None:
    for order in itertools.permutations(names):
        assert tuple(sorted(order, key=natural_key)) == names

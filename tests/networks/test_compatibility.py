"""The table of docs/networks.md says what is true today."""

from __future__ import annotations

from pathlib import Path

import pytest
from compatibility import DOCUMENT, ELSEWHERE, ROWS, Row, has_torchvision, outcome, section, versions

TEXT = DOCUMENT.read_text()


def test_every_row_is_in_the_table() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    lines = section("table", TEXT).splitlines()
    headings = ("| network |", "|---")
    assert [line.split(" | ")[0] for line in lines if line.startswith("|") and not line.startswith(headings)] == [
        f"| {name}" for name in names
    ]


def test_every_architecture_of_transformers_has_a_row() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    known = auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    assert {f"`hf:` {kind}" for kind in known} <= {row.name for row in ROWS}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_of_the_table_is_what_a_run_says(row: Row, tmp_path: Path) -> None:
    found = outcome(row, tmp_path)
    here = section("table", TEXT)
    if found.state.startswith("not run"):
        assert f"| {row.name} |  |  |  | not run: " in here, "nothing is known of it here"
        pytest.skip(found.state)
    elsewhere = row.group in ELSEWHERE and has_torchvision()
    table = section("table with torchvision", TEXT) if elsewhere else here
    assert found.line(row) in table.splitlines(), (
        f"the table was made with {table.splitlines()[0]}, here are {versions('torch')}: make it anew with "
        "`make compatibility`"
    )

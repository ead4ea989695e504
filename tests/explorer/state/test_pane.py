"""Any number of caches have names, and links that name them lead back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from synthetic import write_cache

from gradunc_viz.explorer.page import Explorer
from gradunc_viz.explorer.state import permalink
from gradunc_viz.explorer.state.pane import letter_of, pane_options, parse_pane, place_of
from gradunc_viz.explorer.state.state import ExplorerState
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import Cache

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("panes") / "cache", ["a"], scores=("msp",))


def test_letters_go_on_after_z(cache: Cache) -> None:
    assert [letter_of(place) for place in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
    many = [cache] * 800
    assert [place_of(letter_of(place), many) for place in range(800)] == list(range(800))
    for wrong in ("", "a", "A1", "À", "AAB" * 9, letter_of(800)):
        with pytest.raises(GraduncError, match="no network"):
            place_of(wrong, many)


@pytest.mark.parametrize("count", [26, 27, 60])
def test_many_caches_are_opened_and_links_lead_back(cache: Cache, count: int) -> None:
    last = letter_of(count - 1)
    state = ExplorerState([cache] * count, count - 1, panes=["A:image", f"{last}:msp", f"{last}:msp~A:msp"])
    main, params, problems = permalink.read_query(dict(parse_qsl(permalink.to_query(state))), state.caches)
    assert (main, problems) == (count - 1, [])
    assert params["panes"] == state.panes
    assert state.limits("msp")[0] < state.limits("msp")[1]
    names = [name for group in pane_options(state.caches).values() for name in group.values()]
    assert len(set(names)) == len(names) == 5 * count
    assert all(str(parse_pane(name, state.caches)) == name for name in names)


def test_a_page_of_many_caches_is_made(cache: Cache, tmp_path: Path) -> None:
    page = Explorer([cache] * 27, view="main=AA&panes=AA:msp,Z:msp,AA:msp~Z:msp")
    assert page.select.value == 26
    assert "AA: cache" in page.select.options
    assert not page._problems.visible
    page.select.value = 25
    assert page.state.panes[0] == "Z:image"


def test_scores_of_one_state_are_not_those_of_another(cache: Cache, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other", ["a"], scores=("entropy",))
    one, two = ExplorerState(cache), ExplorerState(other)
    assert one.param.score.objects == ["msp"]
    assert two.param.score.objects == ["entropy"]
    assert ExplorerState.param.score.objects == []
    with pytest.raises(ValueError, match="entropy"):
        one.score = "entropy"
    with pytest.raises(GraduncError, match="not cached"):
        ExplorerState(cache, score="entropy")

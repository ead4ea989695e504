"""A tab from outside is one entry: it is on the page, in links, and built when first looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from synthetic import write_cache

from gradunc_viz.explorer import AnalysisTab, Explorer, Tab, register_tab
from gradunc_viz.explorer import text as words
from gradunc_viz.explorer.state import tabs
from gradunc_viz.explorer.state.permalink import read_query
from gradunc_viz.explorer.tabs.parts import html
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import Cache

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("tabs") / "cache", ["a", "b"])


class Sizes(AnalysisTab):
    parts = {"size": ("frame_id",)}  # noqa: RUF012 - as somebody would write it

    def _make(self) -> None:
        self.size = html()

    def view(self) -> object:
        return self.size

    def _fill_size(self) -> None:
        self.size.object = words.note("{} x {}".format(*self.state.frame.size))


@pytest.fixture
def mine() -> Iterator[Tab]:
    yield register_tab(Tab("sizes", "How <large>", "Sizes of frames. Nothing more.", Sizes, order=25))
    del tabs._TABS["sizes"]


def test_a_tab_from_outside(cache: Cache, mine: Tab) -> None:
    page = Explorer([cache], view="tab=overview")
    assert page.desk.tabs._names[:4] == ["Overview", "Frames", "How <large>", "Curves"]
    assert "sizes" not in page.desk.built
    page.desk.tabs.active = 2
    assert page.state.tab == "sizes"
    assert "64 x 128" in page.desk.built["sizes"].size.object
    assert "tab=sizes" in page.link
    assert "Sizes of frames." in page.desk.tabs[2][0].object
    again = Explorer([cache], view=page.link)
    assert list(again.desk.built) == ["sizes"]
    assert not again._problems.visible
    page.close()


def test_a_name_is_taken_once_and_fits_a_link(mine: Tab) -> None:
    with pytest.raises(GraduncError, match="registered already"):
        register_tab(mine)
    with pytest.raises(GraduncError, match="letters"):
        register_tab(Tab("a b", "", "", Sizes))
    with pytest.raises(GraduncError, match="unknown tab 'x'; expected one of overview, frames"):
        tabs.find_tab("x")


def test_a_tab_that_is_gone_is_passed_over(cache: Cache) -> None:
    _, params, problems = read_query({"tab": "sizes"}, [cache])
    assert params == {}
    assert "sizes" in problems[0]


def test_the_state_needs_no_page() -> None:
    code = "import sys, gradunc_viz.explorer.state.state; assert not {'panel', 'holoviews', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

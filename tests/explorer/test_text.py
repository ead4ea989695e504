"""Whatever text a cache brings, no page reads it as HTML or Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from synthetic import write_frame

from gradunc_viz.explorer import text
from gradunc_viz.explorer.markup import Markup, render
from gradunc_viz.explorer.page import Explorer
from gradunc_viz.explorer.state import frame_table
from gradunc_viz.explorer.state.frame_store import FrameData
from gradunc_viz.explorer.state.tabs import tabs
from gradunc_viz.explorer.tabs.parts import Html, alert, html
from gradunc_viz.schema.frame import SCHEMA_VERSION
from gradunc_viz.schema.scores import SCORES, lookup
from gradunc_viz.store.cache import Cache, open_cache
from gradunc_viz.store.writer import CacheWriter

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")

HOSTILE = """<img src=x onerror='alert(1)' "> **bold** [link](javascript:alert(2)) `code` &amp; $$x$$"""
FILE = HOSTILE.replace("/", "")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """A cache in which everything that can be named is named badly, with scores that nobody knows."""
    own = {
        name: dataclasses.replace(lookup(name), family="mine", units=HOSTILE, title=HOSTILE, formula=HOSTILE)
        for name in ("energy", "max_logit")
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in own.items():
            patch.setitem(SCORES, name, entry)
        key = {
            "schema_version": SCHEMA_VERSION,
            "network": {"name": HOSTILE, "head": HOSTILE},
            "settings": {"scores": list(own)},
        }
        path = tmp_path_factory.mktemp("hostile") / "<img src=x>"
        classes = [HOSTILE, f"{HOSTILE} 1", f"{HOSTILE} 2", f"{HOSTILE} 3"]
        with CacheWriter(path, key, classes, [(0, 0, 0), (9, 9, 9), (99, 99, 99), (255, 255, 255)]) as writer:
            for number, frame_id in enumerate((FILE, f"{FILE} 2")):
                write_frame(writer, frame_id, seed=number, scores=tuple(own))
        yield open_cache(path)


def pieces(page: Explorer) -> list[str]:
    """HTML of every pane of a page, as the browser gets it."""
    root = page._create_view().get_root()
    found = []
    for model in root.references():
        written = getattr(model, "text", None)
        if type(model).__name__ in ("HTML", "Markdown", "Div") and isinstance(written, str):
            found.append(unescape(written))
    return found


def test_every_tab_shows_a_hostile_cache_as_text(hostile: Cache) -> None:
    page = Explorer([hostile, hostile], title=HOSTILE, view=f"tab=frames&pixel=3,4&classes={HOSTILE}&score={HOSTILE}")
    for name in tabs():
        page.state.tab = name
    page.take.value = True
    page.state.param.update(overlay="outcomes", task="anomaly")
    page.state.pixel = (20, 31)
    page.state.set_pane(1, "A:energy~B:max_logit")
    page.state.scope = "fixed"
    page.desk.frames._on_hover("data", None, {"at": [20, 40]})
    shown = pieces(page)
    assert sum("onerror" in piece for piece in shown) >= 8
    for piece in shown:
        assert "<img" not in piece
        assert "&lt;img" in piece or "onerror" not in piece
        assert not re.search(r"""=\s*['"][^'"<>]*onerror='""", piece)
    page.close()


def test_a_score_of_any_unit_and_family_is_shown_everywhere(hostile: Cache) -> None:
    page = Explorer([hostile], view="tab=frames")
    assert page.state.score == "energy"
    assert page.state.panes[1] == "A:energy"
    assert page.state.curve_scores == ["energy", "max_logit"]
    for name in tabs():
        page.state.tab = name
        built = page.desk.built[name]
        assert getattr(built, "alert", None) is None or not built.alert.visible, built.alert.object
    assert [list(own.values()) for own in text.score_groups(hostile.scores).values()] == [["energy", "max_logit"]]
    for made in (text.score_note("energy"), text.score_help("energy")):
        assert "&lt;img" in made
        assert "<img" not in made
    tooltips = frame_table.table_options(page.state.rows)["header_tooltips"]  # Tabulator reads them as HTML
    assert "&lt;img" in tooltips["energy"]
    assert "<img" not in tooltips["energy"]
    assert text.bar_title("energy", "linear") == f"energy [{HOSTILE}]"
    card = page.desk.frames._cards((3, 4), "here", "")
    assert card.count("<b>") > 4
    assert "<img" not in card
    page.close()


@pytest.mark.parametrize("title", ["my own score", "", r"$\|x\|$"])
def test_an_own_score_is_said_in_its_own_words(monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    own = dataclasses.replace(lookup("energy"), name="own", family="mine", units="m", title=title, formula="a formula")
    monkeypatch.setitem(SCORES, "own", own)
    shown = text.score_note("own")
    assert "imported" not in shown
    assert (title if title == "my own score" else "own") in shown or "a formula" in shown
    assert "imported map" in text.score_note("ext:mine")


def written(pane: Html) -> str:
    return str(pane.get_root().text)


def test_a_pane_shows_html_of_templates_and_any_other_text_as_it_is() -> None:
    assert written(html(text.strong("a<b"))) == "&lt;b&gt;a&amp;lt;b&lt;/b&gt;"
    pane = html("<b>not mine</b>")
    assert written(pane) == "&amp;lt;b&amp;gt;not mine&amp;lt;/b&amp;gt;"
    pane.object = None
    assert written(pane) == ""
    told = alert(text.message("**no** [a](b)"))
    assert isinstance(told, Html)  # not of Markdown
    assert "**no** [a](b)" in written(told)


@pytest.mark.parametrize(
    "made",
    [
        lambda: text.page_header(HOSTILE, [HOSTILE], HOSTILE, 3),
        lambda: text.class_legend([HOSTILE], [(0, 0, 0)], [0]),
        lambda: text.message(HOSTILE),
        lambda: text.empty_cache(HOSTILE),
        lambda: text.pane_note(HOSTILE),
        lambda: text.plain_note(HOSTILE),
        lambda: text.left_out({HOSTILE: HOSTILE}),
        lambda: text.problem_lines([HOSTILE, HOSTILE]),
        lambda: text.listing(HOSTILE),
        lambda: text.note(HOSTILE),
        lambda: text.help_text(HOSTILE + ". " + HOSTILE),
        lambda: text.label(HOSTILE),
        lambda: text.title(HOSTILE),
        lambda: text.fact_cells({HOSTILE: HOSTILE}),
        lambda: text.overlay_note("found", HOSTILE, "error"),
    ],
)
def test_every_text_is_of_a_template(made: Any) -> None:
    piece = made()
    assert isinstance(piece, Markup)
    assert "<img" not in piece
    assert "&lt;img" in piece
    assert "onerror='" not in piece


def test_a_name_that_a_template_misses_is_an_error() -> None:
    with pytest.raises(Exception, match="undefined"):
        render("{{ missing }}")


def test_captions_name_the_frame(hostile: Cache) -> None:
    caption = text.frame_caption(FrameData(hostile[FILE]), "frame 1 of 2")
    assert "&lt;img" in caption
    assert "128 × 64 px frame 1 of 2" in caption
    assert "No frame" in text.frame_caption(None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pgn_uni_p2", "gradient norm against the uniform label, negated"),
        ("label_uni_p0.7", "label part against the uniform label, negated"),
        ("feature_p2", "feature part of gradient norms, negated"),
        ("pgn2_oh_p1", "second-to-last layer&#39;s gradient norm against the prediction"),
        ("pgn_oh_p2_decoder", "pixel decoder&#39;s gradient norm against the prediction"),
        ("rba", "RbA, rejected by all queries"),
        ("gradnorm", "GradNorm, negated"),
        ("gini", "Gini impurity"),
        ("max_logit", "largest logit, negated"),
        ("entropy_T1.5", "entropy of the class probabilities, temperature = 1.5"),
        ("gen_g0.5_m10", "generalised entropy, gamma = 0.5, largest = 10"),
        ("knn_k10", "distance to a near neighbour, k = 10"),
        ("odin_T10_e0.002", "ODIN, temperature = 10.0, epsilon = 0.002"),
        ("ens_mutual_information", "mutual information of an ensemble"),
        ("rank:entropy+msp", "mean rank: entropy + msp"),
    ],
)
def test_a_pane_says_in_words_what_a_score_is(name: str, words: str) -> None:
    assert f"bright = uncertain: {words}<" in text.score_note(name)


def test_every_score_is_said_in_words_and_with_its_units() -> None:
    built_in = {name: entry for name, entry in SCORES.items() if entry.family != "mine"}
    for name, entry in built_in.items():
        note = text.score_note(name).partition(">")[2]
        assert "$" not in note
        assert entry.formula not in note
        assert len(note) < 110, note
        assert text.bar_title(name, "log2").startswith(name)
    for name in (*built_in, "logistic:energy+entropy+pgn_exp_p1", "ext:" + "x" * 64):
        title = text.bar_title(name, "log2")
        assert len(title) <= 31, title
        assert title.endswith(f" [{text.units_text(name)}]")
        assert max(map(len, text.score_axis(name).splitlines())) < 90
    assert text.score_axis("msp") == "msp [0 to 1], larger = more uncertain"
    assert text.score_axis("rank:entropy+pgn_oh_p2") == "rank:entropy+pgn_oh_p2 [0 to 1],\nlarger = more uncertain"


@pytest.mark.parametrize(
    ("network", "shown"),
    [
        ("/a/enet.py:load (x.pth)", "enet.py:load (x.pth)"),
        ("/a/enet.py:load (x.pth) + /b/enet.py:load (y.pth)", "enet.py:load (x.pth) + enet.py:load (y.pth)"),
        ("hf:nvidia/segformer + /a/enet.py:load", "hf:nvidia/segformer + enet.py:load"),
    ],
)
def test_the_header_names_every_member_of_an_ensemble(network: str, shown: str) -> None:
    assert f"network <b>{shown}</b>" in text.page_header("title", ["cache"], network, 2)

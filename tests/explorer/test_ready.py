"""The page made ahead: who gets it, and that it shows what a page made on request would."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bokeh.server.session import ServerSession
from bokeh.util.token import get_session_id
from synthetic import write_cache
from tornado.httpclient import AsyncHTTPClient

from gradunc_viz.explorer import server as serving
from gradunc_viz.explorer.jobs import Jobs
from gradunc_viz.explorer.state.permalink import read_query, to_query
from gradunc_viz.explorer.state.state import ExplorerState
from gradunc_viz.store.cache import Cache

# Panel 1.9 calls pandas in a way that pandas 3.1 announces to remove
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")

LINKS = [
    "tab=curves&score=entropy&threshold=0.7",
    "frame=c&pixel=3,4&view=1,20,2,30&task=anomaly",
    "frame=c&panes=A%3Amsp,A%3Aentropy,A%3Alabel&scope=fixed&fixed=msp%3D0.1%3D0.5&norms=linear",
    "scope=set&norms=linear&score=msp",
    "selection=&curve=pr&log_fpr=1&layout=swipe&overlay=outcomes&hide_ignored=1",
    "",
]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return write_cache(tmp_path / "cache", ["a", "b", "c"], [(48, 96)])


@pytest.fixture
def server(cache: Cache, request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    Jobs._heard = 0.0  # no other test's page is being looked at
    server, url = serving._server((cache,), 0, "title", prefix=getattr(request, "param", ""))
    server.start()
    yield server, url
    server.stop()


def ready(server: Any) -> ServerSession:
    """The session made ahead, once it is there."""

    async def wait() -> ServerSession:
        while not server.get_sessions("/"):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        return server.get_sessions("/")[0]

    return server.io_loop.run_sync(wait, timeout=20)


def given(server: Any, url: str) -> str:
    """The id of the session that a request is given."""

    async def ask() -> str:
        answer = await AsyncHTTPClient().fetch(url)
        await asyncio.sleep(0.5)  # what a page is asked for is done when the answer is under way
        token = re.search(r'"token":"([^"]+)"', answer.body.decode())
        assert token
        return str(get_session_id(token[1]))

    return server.io_loop.run_sync(ask, timeout=20)


@pytest.mark.parametrize("link", LINKS)
def test_a_state_restored_is_the_state_made_anew(cache: Cache, link: str) -> None:
    query = dict(part.partition("=")[::2] for part in link.replace("%3A", ":").replace("%3D", "=").split("&"))
    _, params, problems = read_query(query, (cache,))
    assert not problems
    state = ExplorerState(cache, frame_id="b", score="msp", tab="failures", scope="set", classes=[cache.classes[0]])
    state.threshold = 0.123
    state.restore(**params)
    new = ExplorerState(cache, **params)
    assert to_query(state) == to_query(new)
    assert (state.frame.id, state.message) == (new.frame.id, new.message)
    assert (state.values == new.values).all()
    assert [state.threshold_of(name) for name in cache.scores] == [new.threshold_of(name) for name in cache.scores]
    assert state.limits("msp") == new.limits("msp")
    if "scope=set" in link:
        assert new.limits("msp") != ExplorerState(cache, norms="linear").limits("msp")
        assert new.panes[1] == "A:msp"


@pytest.mark.parametrize("link", LINKS[:2])
def test_the_next_request_gets_the_page_made_ahead(server: tuple[Any, str], cache: Cache, link: str) -> None:
    one, url = server
    made = ready(one)
    assert made.expiration_blocked  # it waits as long as need be
    assert given(one, f"{url}?{link}") == made.id
    page = serving._pages[made.document]
    query = dict(part.partition("=")[::2] for part in link.replace("%3A", ":").replace("%3D", "=").split("&"))
    assert page.link == to_query(ExplorerState(cache, **read_query(query, (cache,))[1]))


@pytest.mark.parametrize("server", ["", "/user/me"], indirect=True)
def test_it_is_given_once(server: tuple[Any, str]) -> None:
    one, url = server
    made = ready(one)
    assert given(one, url) == made.id
    assert given(one, url) != made.id


@pytest.mark.parametrize("what", ["theme", "frames"])
@pytest.mark.slow
def test_it_is_not_given_where_it_would_be_wrong(server: tuple[Any, str], cache: Cache, what: str) -> None:
    one, url = server
    made = ready(one)
    if what == "frames":  # they came or were computed again meanwhile
        os.utime(cache.path / "frames")
    assert given(one, url + ("?theme=dark" if what == "theme" else "")) != made.id


def test_a_page_that_cannot_be_made_is_no_harm(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    Jobs._heard = 0.0
    server, url = serving._server((cache,), 0, "title")
    (cache.path / "zarr.json").rename(cache.path / "away.json")
    server.start()
    try:
        server.io_loop.run_sync(lambda: asyncio.sleep(1))
        (cache.path / "away.json").rename(cache.path / "zarr.json")
        caplog.clear()
        assert given(server, url)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
    finally:
        server.stop()

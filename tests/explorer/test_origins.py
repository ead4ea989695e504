"""The page behind tunnels and proxies: which origins are let in, what is said to others, and a path in front."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from synthetic import write_cache
from tornado.httpclient import AsyncHTTPClient

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.explorer import server as serving
from gradunc_viz.explorer.origins import explained_refusals, origin_hosts, path_prefix
from gradunc_viz.schema.errors import SettingsError
from gradunc_viz.store.cache import Cache

# Panel 1.9 calls pandas in a way that pandas 3.1 announces to remove
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("origins") / "cache", ["a"])


@pytest.fixture(scope="module")
def server(cache: Cache) -> Iterator[tuple[Any, str]]:
    hosts = origin_hosts(["https://hub.example.org", "localhost:8888", "*.tunnel.dev"])
    one, url = serving._server((cache,), 0, "title", hosts, path_prefix("user/me/"))
    one.start()
    yield one, url
    one.stop()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://hub.example.org", "hub.example.org"),
        ("https://hub.example.org/", "hub.example.org"),
        ("https://Hub.example.org:443", "hub.example.org"),
        ("http://hub.example.org:80", "hub.example.org"),
        ("http://hub.example.org:443", "hub.example.org:443"),
        ("https://hub.example.org:8443", "hub.example.org:8443"),
        ("hub.example.org", "hub.example.org"),
        ("localhost:8888", "localhost:8888"),
        ("10.0.0.7:8000", "10.0.0.7:8000"),
        ("*.app.github.dev", "*.app.github.dev"),
        ("*", "*"),
    ],
)
def test_an_origin_is_a_host_and_a_port(origin: str, host: str) -> None:
    assert origin_hosts(origin) == [host]
    assert origin_hosts((origin, "a")) == [host, "a"]


@pytest.mark.parametrize(
    "origin", ["", " ", "https://", "https://hub/user/me", "hub/path", "a b", "ftp://a", "a:x", "a:99999", "u@h", 3]
)
def test_what_is_no_origin_is_named(origin: Any, cache: Cache) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"origin {origin!r} is none: expected what")):
        gv.explore(cache, port=1, allow_origin=[origin])


@pytest.mark.parametrize(
    ("prefix", "path"), [("", ""), ("/", ""), ("a", "/a"), ("/a/", "/a"), ("/user/m.e%40x/p", "/user/m.e%40x/p")]
)
def test_a_prefix_is_a_path(prefix: str, path: str) -> None:
    assert path_prefix(prefix) == path


@pytest.mark.parametrize("prefix", ["https://a/b", "//a", "a b", "a+", "(a)", None])
def test_what_is_no_path_is_named(prefix: Any, cache: Cache) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"prefix is {prefix!r}; expected the path")):
        gv.explore(cache, port=1, prefix=prefix)


def test_both_are_for_a_served_page(cache: Cache) -> None:
    for options in ({"allow_origin": "a"}, {"prefix": "/a"}):
        with pytest.raises(SettingsError, match="expected a port"):
            gv.explore(cache, **options)


def handshake(server: Any, url: str, origin: str, path: str = "ws") -> str:
    """Status of a websocket that a proxy passes on, with a Host of its own."""
    place = urlsplit(urljoin(url, path))

    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        key = base64.b64encode(bytes(16)).decode()
        lines = (
            *(f"GET {place.path} HTTP/1.1", f"Host: {place.netloc}", f"Origin: {origin}", "Upgrade: websocket"),
            *("Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: bokeh, x"),
            f"Sec-WebSocket-Key: {key}",
        )
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = (await reader.readline()).split()[1].decode()
        writer.close()
        return status

    return server.io_loop.run_sync(ask, timeout=20)


@pytest.mark.parametrize(
    "origin",
    ["https://hub.example.org", "http://localhost:8888", "https://x.tunnel.dev", "http://127.0.0.1:{port}"],
)
def test_origins_that_were_named_are_let_in(server: tuple[Any, str], origin: str) -> None:
    assert handshake(*server, origin.format(port=server[0].port)) == "101"


@pytest.mark.parametrize("origin", ["https://evil.example.org", "http://localhost:8889", "https://hub.example.org:1"])
def test_others_are_told_how_to_be(server: tuple[Any, str], origin: str, caplog: pytest.LogCaptureFixture) -> None:
    with explained_refusals(), caplog.at_level(logging.ERROR):
        assert handshake(*server, origin) == "403"
    (record,) = caplog.records
    assert f"--allow-origin {origin} " in record.getMessage()
    assert f"allow_origin={origin!r}" in record.getMessage()
    assert "allow-websocket-origin" not in record.getMessage()


def test_everything_lies_below_the_prefix(server: tuple[Any, str]) -> None:
    one, url = server
    assert url == f"http://127.0.0.1:{one.port}/user/me/"
    assert one.address == "127.0.0.1"

    async def ask(address: str) -> tuple[int, str]:
        response = await AsyncHTTPClient().fetch(address, raise_error=False)
        return response.code, response.body.decode()

    def get(address: str) -> tuple[int, str]:
        return one.io_loop.run_sync(lambda: ask(address), timeout=20)

    code, page = get(url)
    assert code == 200
    assert "--allow-origin ${location.origin}" in page  # said on a page whose websocket is refused
    assert get(f"http://127.0.0.1:{one.port}/")[0] == 404
    sources = [urljoin(url, found) for found in re.findall(r'<script[^>]* src="([^"]+)"', page)]
    own = [address for address in sources if urlsplit(address).netloc == urlsplit(url).netloc]
    assert own
    for address in own:
        assert urlsplit(address).path.startswith("/user/me/")
        assert get(address)[0] == 200


def test_no_request_imports_a_module(server: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_a_request_names.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    one, _ = server
    for prefix in ("", "user/me/"):
        for path in ("components/module_that_a_request_names/X/__css__/a", "components/unittest.__main__/X/_css/a"):
            address = f"http://127.0.0.1:{one.port}/{prefix}{path}"
            answer = one.io_loop.run_sync(
                lambda address=address: AsyncHTTPClient().fetch(address, raise_error=False), timeout=20
            )
            assert answer.code == 404
    assert "module_that_a_request_names" not in sys.modules


def test_an_address_that_cannot_be_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradunc_viz.networks.load.load_model", lambda _: pytest.fail("computed"))
    monkeypatch.setattr("gradunc_viz.explorer.server.opened_caches", lambda _: pytest.fail("opened"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = str(probe.getsockname()[1])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        for command in (["demo", "--out", str(tmp_path / "out")], ["explore", str(tmp_path)]):
            for options, problem in {
                ("--port", taken): f"port {taken} cannot be used",
                ("--port", free, "--allow-origin", "a b"): "origin 'a b' is none",
                ("--port", free, "--prefix", "a b"): "prefix is 'a b'",
            }.items():
                assert main([*command, "--no-browser", *options]) == 1
                assert problem in capsys.readouterr().err

"""Downloads from a server on the loopback that behaves as servers do."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

import numpy as np
import pytest
from PIL import Image

from gradunc_viz.cli.main import main
from gradunc_viz.datasets import fetch as fetching
from gradunc_viz.datasets.catalog import catalog
from gradunc_viz.datasets.fetch import Archive, download, fetch, unpack
from gradunc_viz.schema.errors import GraduncError


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def png(*ids: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([ids], "u1").repeat(3, 0)).save(buffer, "PNG")
    return buffer.getvalue()


CONTENT = zipped(a=np.random.default_rng(0).bytes(300_000))


class Server(ThreadingHTTPServer):
    """Gives `content`; `cuts` says after how many bytes each answer breaks off, `asked` what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"1"'
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.ranges = self.length = True
        self.status = 200

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer also asks a name server what it is called
        self.server_name, self.server_port = self.server_address[:2]

    def url(self, name: str = "set.zip") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else None
        self.wfile.write(server.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


@pytest.mark.parametrize("checksum", [md5(CONTENT), None])
def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path, checksum: str | None) -> None:
    server.cuts = [131072, 65536]
    told: list[int] = []
    archive = Archive(server.url(), checksum, len(CONTENT))
    file = download(archive, tmp_path, lambda _name, have, _whole: told.append(have))
    assert file.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=131072-", "bytes=196608-"]
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
    assert download(Archive(server.url(), md5(CONTENT)), tmp_path) == file
    assert len(server.asked) == 3  # it was there


def test_another_run_goes_on_where_one_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [131072, *[0] * fetching._TRIES]
    archive = Archive(server.url(), md5(CONTENT), len(CONTENT))
    with pytest.raises(GraduncError, match=r"connection broke .*with 131072 of \d+ bytes here; the same command goes"):
        download(archive, tmp_path)
    assert (tmp_path / "set.zip.part").stat().st_size == 131072
    server.asked.clear()
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=131072-"]


def test_what_is_whole_already_and_what_has_changed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    (tmp_path / "set.zip.part.version").write_text('"1"')
    assert download(Archive(server.url(), None), tmp_path).read_bytes() == CONTENT
    (tmp_path / "set.zip").unlink()
    (tmp_path / "set.zip.part").write_bytes(b"of another version")
    (tmp_path / "set.zip.part.version").write_text('"0"')
    assert download(Archive(server.url(), None), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [True, False])
def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path, length: bool) -> None:
    server.ranges, server.length = False, length
    server.cuts = [100_000]
    assert download(Archive(server.url(), md5(CONTENT), len(CONTENT)), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_what_is_not_the_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    published = md5(CONTENT)
    server.content = bytes(len(CONTENT))
    with pytest.raises(GraduncError, match=r"set\.zip: what came is not the file that was published \(md5:.*removed"):
        download(Archive(server.url(), published), tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = b"<html>log in</html>"
    with pytest.raises(GraduncError, match=rf"is of 19 bytes, expected {len(CONTENT)}"):
        download(Archive(server.url(), published, len(CONTENT)), tmp_path)
    with pytest.raises(GraduncError, match=r"set\.zip: is no zip or tar file, it begins with b'<html>log in</ht'"):
        fetch([Archive(server.url())], tmp_path / "set")
    assert not (tmp_path / "set.download" / "set.zip").exists()
    server.status = 404
    with pytest.raises(GraduncError, match=r"set\.zip: the server answers 404 Not Found"):
        download(Archive(server.url(), published), tmp_path / "other")


def test_a_server_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GraduncError, match=r"none\.zip: the server cannot be reached \(ConnectionError\)$"):
        fetch([Archive("http://127.0.0.1:9/none.zip")], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    server.status = 404
    with pytest.raises(GraduncError, match="the server answers 404"):
        fetch([Archive(server.url())], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "none.zip.part").write_bytes(b"12345")
    with pytest.raises(GraduncError, match=r"cannot be reached .*; 5 bytes of it are here, and wait for the same"):
        download(Archive("http://127.0.0.1:9/none.zip"), tmp_path)


def test_several_files_make_one_set(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "set"
    found = fetch([Archive(server.url("a.zip"), into="x"), Archive(server.url("b.zip"), md5(CONTENT))], out)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == ["a", "x/a"]
    assert found == {"a.zip": hashlib.sha256(CONTENT).hexdigest()}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    with pytest.raises(GraduncError, match="is there already; expected a new folder"):
        fetch([Archive(server.url())], out)


def tarred(path: Path, name: str, content: bytes = b"x", link: str = "") -> None:
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo(name)
        entry.size = 0 if link else len(content)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        file.addfile(entry, None if link else io.BytesIO(content))


def test_nothing_is_unpacked_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(name, "x")
        with pytest.raises(GraduncError, match=rf"a\.zip: {re.escape(repr(name))} would lie outside"):
            unpack(tmp_path / "a.zip", folder)
    for name, link in (("../evil", ""), ("evil", "../../evil")):
        tarred(tmp_path / "a.tar", name, link=link)
        with pytest.raises(GraduncError, match=r"a\.tar: cannot be unpacked"):
            unpack(tmp_path / "a.tar", folder)
    tarred(tmp_path / "a.tar", "a/b")
    unpack(tmp_path / "a.tar", folder)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*b")] == ["set/a/b"]


def test_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_LARGEST", 1000)
    monkeypatch.setattr(fetching, "_LARGEST_SHARE", 2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(10**6))
    with pytest.raises(GraduncError, match=r"a\.zip: holds more than .*out of all proportion"):
        unpack(tmp_path / "a.zip", tmp_path / "set")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        entry = tarfile.TarInfo("a")
        entry.size = 10**6
        file.addfile(entry, io.BytesIO(bytes(10**6)))
    with pytest.raises(GraduncError, match=r"a\.tar\.gz: holds more than"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "set")
    assert not (tmp_path / "set" / "a").exists()
    content = bytearray(CONTENT)
    content[1000] ^= 255
    (tmp_path / "b.zip").write_bytes(content)
    monkeypatch.undo()
    with pytest.raises(GraduncError, match=r"b\.zip: cannot be unpacked \(Bad CRC-32"):
        unpack(tmp_path / "b.zip", tmp_path / "set")


@pytest.fixture
def loveda(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("Val/Rural/images_png/1.png", png(3, 4))
        file.writestr("Val/Rural/masks_png/1.png", png(1, 2))
    server.content = buffer.getvalue()
    entry = {**catalog()["datasets"]["loveda"], "archives": [{"url": server.url("Val.zip")}]}
    monkeypatch.setitem(catalog()["datasets"], "loveda", entry)
    return server


def test_on_the_command_line(loveda: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "land"
    arguments = ["data", "fetch", "loveda", "--out", str(out), "--quiet"]
    assert main(arguments) == 1  # nobody can be asked
    said = capsys.readouterr()
    assert "licence: CC BY-NC-SA 4.0" in said.out
    assert "its terms (CC BY-NC-SA 4.0) are to be accepted: --accept-licence" in said.err
    assert loveda.asked == []
    assert main([*arguments, "--accept-licence"]) == 0
    said = capsys.readouterr()
    assert f"Val.zip: SHA-256 {hashlib.sha256(loveda.content).hexdigest()}" in said.out
    (command,) = re.findall(r"look at it with: gradunc (.*)", said.out)
    assert main([*command.split(), "--quiet"]) == 0
    assert "layout loveda" in capsys.readouterr().out
    assert main([*arguments, "--accept-licence"]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("no", 1)])
def test_who_is_asked_has_to_say_yes(
    loveda: Server, tmp_path: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})(f"{answer}\n"))
    assert main(["data", "fetch", "loveda", "--out", str(tmp_path / "land"), "--quiet"]) == code
    assert (tmp_path / "land").exists() == (code == 0)


def test_what_cannot_be_fetched_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "cityscapes"]) == 1
    error = capsys.readouterr().err
    assert "cityscapes cannot be fetched (Cityscapes licence, non-commercial, registration required); by hand" in error
    assert error.count("\n") == 1
    assert main(["data", "fetch", "nonsense"]) == 1
    assert "unknown data set 'nonsense', expected one of roadanomaly21" in capsys.readouterr().err


def test_archives_of_the_catalogue() -> None:
    for name, entry in catalog()["datasets"].items():
        for archive in [Archive(**archive) for archive in entry.get("archives", ())]:
            assert archive.url.startswith("http"), name
            assert archive.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.checksum)
            assert "registration" not in entry["licence"], name

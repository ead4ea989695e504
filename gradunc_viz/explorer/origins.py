"""Where browsers may see a served page: on this machine, and behind the tunnels and proxies that were named."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ..schema.errors import GraduncError, SettingsError

__all__ = ["TEMPLATE", "explained_refusals", "origin_hosts", "path_prefix", "usable_port"]

TEMPLATE = """
{% block postamble %}
<script>
addEventListener("load", () => {
  const note = document.createElement("p")
  note.className = "unreached"
  note.style = "font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #888"
  note.textContent = "Nothing comes from the server yet. If this page lies behind a tunnel or a proxy, start it with "
    + `--allow-origin ${location.origin} (in Python allow_origin="${location.origin}").`
  const start = performance.now()
  const look = setInterval(() => {
    if (window.Bokeh?.documents?.length) { note.remove(); clearInterval(look) }
    else if (performance.now() - start > 6000 && !note.isConnected) document.body.append(note)
  }, 250)
})
</script>
{% endblock %}
"""
"""A page that says so where its websocket is refused, which is else an empty one."""

_log = logging.getLogger("bokeh.server.views.ws")

_OWN_PORTS = {"": (80, 443), "http": (80,), "https": (443,)}
"""Ports that a browser leaves out of an origin."""


def origin_hosts(origins: str | Iterable[str]) -> list[str]:
    """``HOST`` or ``HOST:PORT`` of origins, as Bokeh compares them: ``https://hub.example.org`` -> ``hub.example.org``.

    Raises
    ------
    SettingsError
        If one is no origin.
    """
    return [_host(origin) for origin in ([origins] if isinstance(origins, str) else origins)]


def _host(origin: str) -> str:
    try:
        parts = urlsplit(origin if "//" in origin else f"//{origin}")
        name, port, rest = parts.hostname, parts.port, (parts.path.strip("/"), parts.query, parts.fragment)
        known = parts.scheme in _OWN_PORTS and parts.username is None
    except (AttributeError, TypeError, ValueError):
        name = None
    if not name or not known or any(rest) or not re.fullmatch(r"[\w.*-]+", name):
        raise SettingsError(
            f"origin {origin!r} is none: expected what the browser's address begins with, such as "
            "https://hub.example.org or localhost:8888, and a path by --prefix"
        )
    return name if port is None or port in _OWN_PORTS[parts.scheme] else f"{name}:{port}"


def path_prefix(prefix: str) -> str:
    """A path without a slash at its end: ``""``, or ``/user/me``.

    Raises
    ------
    SettingsError
        If it is no path.
    """
    if not isinstance(prefix, str) or "//" in prefix or not re.fullmatch(r"[\w.~@%/-]*", prefix, re.ASCII):
        raise SettingsError(f"prefix is {prefix!r}; expected the path that a proxy passes on, such as /user/me/gradunc")
    return f"/{prefix.strip('/')}".rstrip("/")


def usable_port(port: int) -> int:
    """Return `port`, or a free one for 0: the origins of websockets name it before the server binds it.

    Raises
    ------
    GraduncError
        If it is taken, or no port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise GraduncError(f"port {port} cannot be used ({reason}); choose another") from error
        return int(probe.getsockname()[1])


@contextmanager
def explained_refusals() -> Iterator[None]:
    """Say by which option an origin that was refused is allowed, in place of what Bokeh says."""

    def explain(record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Refusing websocket connection") and record.args:
            origin = record.args[0]  # type: ignore[index]
            record.args = (origin, origin, origin)
            record.msg = (
                "Refusing a page that the browser shows at %r, behind a tunnel or a proxy; if it is yours, start "
                "again with --allow-origin %s (in Python allow_origin=%r)"
            )
        return True

    _log.addFilter(explain)
    try:
        yield
    finally:
        _log.removeFilter(explain)

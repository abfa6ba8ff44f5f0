"""Who may talk to the server: checks on Host, Origin, token and content type.

A web page in the owner's browser can reach a server on loopback, directly or through a name that
its owner points at 127.0.0.1. It cannot choose the Host and Origin headers that the browser sends,
so these are checked on every request before anything else is looked at.

Invariant: a request whose headers name a foreign host or origin reaches no handler.
"""

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from homebox.errors import ConfigError, ForbiddenError, RequestError, UnauthorizedError

OPEN_PATHS = frozenset({"/health"})
# What an HTML form or a script may send across origins without asking the server first.
SIMPLE_TYPES = frozenset(
    {"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}
)


class Headers(Protocol):
    """The part of a multi-dictionary of headers that is used here."""

    def get(self, key: str) -> str | None:
        """Give the first value of a header."""
        ...

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Give all values of a header."""
        ...


@dataclass(frozen=True)
class Guard:
    """The rules for one listening address; an empty token asks for none."""

    loopback: bool
    token: str = ""

    def check(self, path: str, headers: Headers) -> None:
        """Let a request pass or raise ForbiddenError, UnauthorizedError or RequestError."""
        hosts = headers.getall("Host", [])
        if len(hosts) != 1:
            raise RequestError("A request needs exactly one Host header", "Host")
        host = hosts[0]
        if self.loopback and not is_loopback_name(_hostname(host)):
            raise ForbiddenError(
                f"Host {host[:100]!r} is not this machine; use localhost or 127.0.0.1"
            )
        origin = headers.get("Origin")
        if origin is not None and urlsplit_netloc(origin) != host.lower():
            raise ForbiddenError(
                f"Origin {origin[:100]!r} is foreign; web pages may not call homebox"
            )
        if self.token and path not in OPEN_PATHS:
            self._check_token(headers.get("Authorization") or "")

    def _check_token(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        right = hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self.token.encode()
        )
        if scheme.lower() != "bearer" or not right:
            raise UnauthorizedError(
                "The token is missing or wrong; send it as: Authorization: Bearer <token>"
            )


def check_content_type(headers: Mapping[str, str]) -> None:
    """Refuse what a foreign page could send without a preflight request."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in SIMPLE_TYPES:
        raise RequestError(
            f"The body's Content-Type is {kind!r}; send application/json", "Content-Type"
        )


def check_address(host: str, token: str, lan: bool) -> bool:
    """Say whether `host` is loopback; raises ConfigError for an open address without protection."""
    if is_loopback(host):
        return True
    if not (token and lan):
        raise ConfigError(
            f"{host} can be reached from other machines; set server.token and server.lan = true "
            "to serve there, or use --host 127.0.0.1"
        )
    return False


def is_loopback(host: str) -> bool:
    """Say whether every address of `host` is this machine's own."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host!r} cannot be resolved: {error}") from None
    return all(ipaddress.ip_address(item[4][0]).is_loopback for item in found)


def is_loopback_name(name: str) -> bool:
    """Say whether a Host header's name can only mean this machine, without asking a resolver."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def urlsplit_netloc(origin: str) -> str:
    """Give the host and port of an Origin header; nothing for "null" and nonsense."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""


def _hostname(host: str) -> str:
    """Strip the port: "[::1]:80" -> "::1"."""
    if host.startswith("["):
        inner, closed, rest = host[1:].partition("]")
        return inner if closed and (not rest or rest.startswith(":")) else ""
    return host.partition(":")[0].lower()

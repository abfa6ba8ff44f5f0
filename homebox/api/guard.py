"""Who may talk to the server: checks on Host, Origin, key and content type.

A web page in the owner's browser can reach a server on loopback, directly or through a name that
its owner points at 127.0.0.1. It cannot choose the Host and Origin headers that the browser sends,
so these are checked on every request before anything else is looked at.

Invariant: a request whose headers name a foreign host or origin reaches no handler.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from homebox.api.tokens import Caller, KeyRing
from homebox.errors import ConfigError, ForbiddenError, RequestError, UnauthorizedError

OPEN_PATHS = frozenset({"/health", "/ready"})
# What an HTML form or a script may send across origins without asking the server first.
SIMPLE_TYPES = frozenset(
    {"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}
)
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# Of these a second one would leave it open which of them counts.
SINGLE = ("Origin", "Authorization", "x-api-key")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?")


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
    """The rules for one listening address.

    `keys` None: there are no keys, and none is asked for. With `required` False a key is not asked
    for, but a right one says who calls. `names` are host names that mean this box, beside those of
    loopback (and IP addresses, unless `loopback`); `origins` are web pages that may call.
    """

    loopback: bool
    keys: KeyRing | None = None
    required: bool = True
    names: frozenset[str] = frozenset()
    origins: frozenset[str] = field(default=frozenset())

    def check(self, path: str, headers: Headers, method: str = "GET", target: str = "/") -> Caller:
        """Let a request pass and say whose it is.

        `target` is the request line's own, which may name a host once more. Raises ForbiddenError,
        UnauthorizedError or RequestError.
        """
        self._check_host(headers, target)
        self._check_origin(headers)
        for name in SINGLE[1:]:
            if len(headers.getall(name, [])) > 1:
                raise RequestError(f"A request may have one {name} header", name)
        caller = Caller()
        preflight = method == "OPTIONS" and headers.get("Access-Control-Request-Method")
        if path not in OPEN_PATHS and not (preflight and self.allows(headers.get("Origin"))):
            caller = self._caller(headers)
        if "websocket" in (headers.get("Upgrade") or "").lower():
            raise RequestError("There are no WebSockets here; send a plain request", "Upgrade")
        if method in WITH_BODY:
            check_content_type({"Content-Type": headers.get("Content-Type") or ""})
        return caller

    def allows(self, origin: str | None) -> bool:
        """Say whether the configuration lets pages of this origin call."""
        return origin is not None and origin in self.origins

    def _check_host(self, headers: Headers, target: str) -> None:
        hosts = headers.getall("Host", [])
        if len(hosts) != 1:
            raise RequestError("A request needs exactly one Host header", "Host")
        host = hosts[0]
        if not self._is_ours(hostname(host)):
            raise ForbiddenError(
                f"Host {host[:100]!r} is not this machine; use localhost or 127.0.0.1, or name it "
                "in server.hosts"
            )
        # RFC 9112, 3.2.2: the authority in the request line would win over the header.
        if not target.startswith("/") and target != "*" and netloc(target) != host.lower():
            raise RequestError("The request line names another host than the Host header", "Host")

    def _is_ours(self, name: str) -> bool:
        if is_loopback_name(name) or (name and name in self.names):
            return True
        # A page's own name can be pointed at us, an address cannot.
        return not self.loopback and _address(name) is not None

    def _check_origin(self, headers: Headers) -> None:
        origins = headers.getall("Origin", [])
        if not origins:
            return
        origin = origins[0]
        host = (headers.get("Host") or "").lower()
        if len(origins) > 1 or not (self.allows(origin) or netloc(origin) == host):
            raise ForbiddenError(
                f"Origin {origin[:100]!r} is foreign; web pages may not call homebox unless "
                "server.cors_origins names them"
            )

    def _caller(self, headers: Headers) -> Caller:
        if self.keys is None:
            return Caller()
        scheme, _, given = (headers.get("Authorization") or "").partition(" ")
        bearer = given.strip() if scheme.lower() == "bearer" else ""
        found = [self.keys.find(key) for key in (bearer, headers.get("x-api-key") or "")]
        for caller in found:
            if caller is not None:
                return caller
        if self.required:
            raise UnauthorizedError(
                "The key is missing or wrong; send it as: Authorization: Bearer <key> "
                '("homebox token" prints it)'
            )
        return Caller()


def guard_for(
    host: str,
    *,
    lan: bool,
    keys: KeyRing | None,
    required: bool = True,
    hosts: str = "",
    origins: str = "",
) -> Guard:
    """Make the guard of a listening address; raises ConfigError for what would leave it open."""
    loopback = check_address(host, keys is not None and required, lan)
    names = frozenset(host_names(hosts))
    if not loopback:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return Guard(loopback, keys, required, names, frozenset(cors_origins(origins)))


def host_names(text: str) -> list[str]:
    """Read server.hosts: names with commas between them, without ports."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if not (_NAME.fullmatch(name) or _address(name)):
            raise ConfigError(
                f"server.hosts: {name!r} is no host name; write names without ports, "
                "with commas between them: box.lan, box.example.org"
            )
    return names


def cors_origins(text: str) -> list[str]:
    """Read server.cors_origins: origins as browsers send them, with commas between them."""
    origins = [origin.strip() for origin in text.split(",") if origin.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"server.cors_origins: {origin!r} is no origin; write each as a browser sends it, "
                "like https://page.example or http://localhost:3000, without a path and never *"
            )
    return origins


def check_content_type(headers: Mapping[str, str]) -> None:
    """Refuse what a foreign page could send without a preflight request."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in SIMPLE_TYPES:
        raise RequestError(
            f"The body's Content-Type is {kind!r}; send application/json", "Content-Type"
        )


def check_address(host: str, guarded: bool, lan: bool) -> bool:
    """Say whether `host` is loopback; raises ConfigError for an open address without protection."""
    if is_loopback(host):
        return True
    if not (guarded and lan):
        raise ConfigError(
            f"{host} can be reached from other machines; set server.lan = true and leave "
            "server.require_token on to serve there, or use --host 127.0.0.1"
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
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def netloc(url: str) -> str:
    """Give the host and port of an Origin header or a URL; nothing for "null" and nonsense."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""


def hostname(host: str) -> str:
    """Strip the port: "[::1]:80" -> "::1"; nothing for what is no host with a port."""
    if host.startswith("["):
        inner, closed, rest = host[1:].partition("]")
        name, colon, port = inner, rest[:1], rest[1:]
        if not closed or ":" not in inner:
            return ""
    else:
        name, colon, port = host.partition(":")
    if (colon and colon != ":") or not _is_port(port):
        return ""
    return name.lower()


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and int(text[:6]) < 1 << 16)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address in its usual spelling; "127.1", "0x7f000001" and the like are none."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None

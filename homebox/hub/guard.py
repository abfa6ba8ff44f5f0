"""Where a download may go: the configured hub, and public hosts that it sends us to.

The one idea: a hub answers with redirects, and whoever answers chooses their targets; so each
request is checked before it leaves, also those that follow a redirect.
Invariant: no request goes to a private address unless it is the hub's own host, none loses its
encryption on the way, and the token goes to the hub's own address only.
"""

import ipaddress
import socket
import urllib.parse
import urllib.request

import httpx2

from homebox.errors import PullError

_TIMEOUT = httpx2.Timeout(20.0, read=30.0)  # seconds
_EMBEDDED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 in IPv6, RFC 6052


def client(endpoint: str) -> httpx2.Client:
    """Make the client for all requests of a pull from a hub."""
    guard = Guard(endpoint)
    return httpx2.Client(
        event_hooks={"request": [guard.check]},
        follow_redirects=True,
        max_redirects=5,
        timeout=_TIMEOUT,
    )


class Guard:
    """Knows a hub, and checks requests that its answers led to."""

    def __init__(self, endpoint: str) -> None:
        self._hub = _origin(endpoint)

    def check(self, request: httpx2.Request) -> None:
        """Raise PullError if a request must not be sent; take the token from it if it is not ours.

        The path of an address is not shown: where files are kept it may carry a signature.
        """
        scheme, host, port = _origin(str(request.url))
        if (scheme, host, port) == self._hub:
            return
        request.headers.pop("authorization", None)
        where = f"{self._hub[1]} sends us to {scheme}://{ascii(host)[1:-1]}:{port}"
        if scheme not in ("https", "http") or scheme == "http" != self._hub[0]:
            raise PullError(f"{where}, which is not encrypted; nothing is taken from there")
        if host == self._hub[1]:
            return
        if scheme != "https":
            # Whom a name stands for may change after the check; only a certificate holds it.
            raise PullError(
                f"{where}, another host without encryption; nothing is taken from there"
            )
        for address in addresses(host, port):
            if not public(address):
                raise PullError(
                    f"{where}, a private address ({address}); nothing is taken from there. If that "
                    "is your own mirror, name it with HF_ENDPOINT"
                )


def addresses(host: str, port: int) -> list[str]:
    """Return the addresses that a host stands for; none if only a proxy can know them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        if urllib.request.getproxies():
            return []
        raise PullError(f"cannot find the host {ascii(host)[1:-1]}: {error}") from error
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def public(text: str) -> bool:
    """Whether an address belongs to the public internet, also if it is wrapped into another."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _EMBEDDED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
    return address.is_global and not address.is_multicast


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    parts = urllib.parse.urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    return parts.scheme, (parts.hostname or "").lower().rstrip("."), parts.port or usual

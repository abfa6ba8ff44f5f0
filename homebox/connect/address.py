"""Where a running box is reached from this machine, and with what: URL, key, certificate."""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homebox.api.tls import client_context
from homebox.control import Client
from homebox.errors import DaemonError

# Addresses that a server listens on, and nobody can be reached by.
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Address:
    """A box; `certificate` is a file, and empty where the URL is plain HTTP."""

    url: str
    token: str = ""
    certificate: str = ""

    @property
    def base_url(self) -> str:
        """What clients call the base URL: everything before /chat/completions."""
        parts = urlsplit(self.url)
        name = EVERYWHERE.get(parts.hostname or "", parts.hostname or "")
        host = f"[{name}]" if ":" in name else name
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}/v1"

    @property
    def headers(self) -> dict[str, str]:
        """What a request with a JSON body carries."""
        key = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {"Content-Type": "application/json", **key}

    def connect(self, timeout: float = TIMEOUT) -> http.client.HTTPConnection:
        """Prepare a connection; it trusts exactly the box's own certificate."""
        parts = urlsplit(self.base_url)
        host, port = parts.hostname or "", parts.port
        if not self.certificate:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        context = client_context(Path(self.certificate))
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)

    def target(self, route: str) -> str:
        """Say how a route is asked for; a proxy may have put a path before it."""
        return urlsplit(self.base_url).path.removesuffix("/v1") + route

    def get(self, path: str) -> Any:
        """Read JSON from a route; raises DaemonError."""
        connection = self.connect()
        try:
            connection.request("GET", self.target(path), headers=self.headers)
            response = connection.getresponse()
            value = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonError(f"{self.url} cannot be talked to: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise DaemonError(f"{self.url}{path} answered {response.status}: {value}")
        return value


def address_of(client: Client) -> Address:
    """Ask a daemon where and how it is reached."""
    found = client.call("address")
    return Address(found["url"], found["token"], found.get("certificate", ""))

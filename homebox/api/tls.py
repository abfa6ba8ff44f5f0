"""TLS by two files: read, tried out and explained before the server listens.

What is wrong with a certificate shows in no error before the first client comes, so a handshake in
memory is done at the start: it finds keys that do not fit, and certificates out of their time.

Invariant: a server that starts with TLS can answer a client that trusts its certificate.
"""

import ssl
from pathlib import Path

from homebox.errors import ConfigError

_TOO_NEW, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class Tls:
    """The server's side of TLS 1.2 and later, from a certificate chain and its key (PEM)."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self._key = key
        self.context = _load(certificate, key)

    def reload(self) -> None:
        """Use what the files hold now for new connections; raises ConfigError and keeps the old."""
        _load(self.certificate, self._key)
        self.context.load_cert_chain(self.certificate, self._key, password=_no_password)


def tls_of(certificate: str, key: str) -> Tls | None:
    """Read server.tls_cert and server.tls_key; None if both are empty. Raises ConfigError."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        missing = "server.tls_key" if certificate else "server.tls_cert"
        raise ConfigError(f"{missing} is missing: TLS needs a certificate and its key")
    return Tls(Path(certificate).expanduser().absolute(), Path(key).expanduser().absolute())


def client_context(certificate: Path) -> ssl.SSLContext:
    """Trust exactly one certificate, whatever names it has: for callers on the same machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls_cert: {certificate} cannot be read: {error}") from None
    return context


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    for name, path in (("server.tls_cert", certificate), ("server.tls_key", key)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{name}: {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(_explained(error, certificate, key)) from None
    _try(context, certificate)
    return context


def _no_password() -> str:
    """Give no password where OpenSSL would ask for one on the terminal."""
    return ""


def _explained(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    # The last is said of a key of another kind than the certificate's.
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"server.tls_key: {key} does not belong to the certificate {certificate}"
    try:
        client_context(certificate)
    except ConfigError:
        return f"server.tls_cert: {certificate} holds no certificate in PEM form"
    return (
        f"server.tls_key: {key} holds no key in PEM form that can be read without a password "
        f"({error.reason or error})"
    )


def _try(server_context: ssl.SSLContext, certificate: Path) -> None:
    """Shake hands in memory; raises ConfigError."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(incoming, outgoing, server_side=True)
    client = client_context(certificate).wrap_bio(outgoing, incoming)
    for _ in range(10):
        done = True
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLCertVerificationError as error:
                when = {_TOO_NEW: "is not valid yet", _EXPIRED: "has expired"}
                what = when.get(error.verify_code, f"is of no use: {error.verify_message}")
                raise ConfigError(f"server.tls_cert: {certificate} {what}") from None
            except ssl.SSLError as error:
                raise ConfigError(
                    f"server.tls_cert: {certificate} is of no use: {error.reason or error}"
                ) from None
        if done:
            return
    raise ConfigError(f"server.tls_cert: {certificate}: the trial handshake never ended")

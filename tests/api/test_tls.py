"""TLS by two files: what is wrong with them is said at the start; old protocols get nowhere."""

import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.api.tls import Tls, client_context, tls_of
from homebox.cli import main
from homebox.daemon import running
from homebox.errors import ConfigError
from tests.api.box import Box, body, events, text_of
from tests.api.conftest import MakeBox
from tests.api.fake_learner import parts
from tests.api.test_daemon import config_for

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl program to make certificates with"
)


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path

    @property
    def tls(self) -> Tls:
        return Tls(self.certificate, self.key)


Make = Callable[..., Files]


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def make_files(folder: Path, name: str, *more: str) -> Files:
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(files.key), "-out", str(files.certificate)),
        *(more or ("-days", "2")),
    )
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    folder = tmp_path_factory.mktemp("tls")
    return {name: make_files(folder, name) for name in ("one", "two")}


@pytest.fixture
def one(made: dict[str, Files]) -> Files:
    return made["one"]


@pytest.fixture
def two(made: dict[str, Files]) -> Files:
    return made["two"]


def client(box: Box, files: Files) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(files.certificate))
    url = f"https://localhost:{box.port}"
    return httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30)


def test_the_api_over_tls(make_box: MakeBox, one: Files) -> None:
    box = make_box(tls=one.tls)
    assert box.url.startswith("https://127.0.0.1:")
    with client(box, one) as http:
        assert http.get("/health").status_code == 200
        whole = http.post("/v1/chat/completions", json=body("hello"))
        assert whole.json()["choices"][0]["message"]["content"].endswith("you said: hello")
        with http.stream(
            "POST", "/v1/chat/completions", json=body("count 500", stream=True)
        ) as stream:
            assert text_of(events(stream)) == "a" * 500


def test_plain_http_and_old_versions_get_nowhere(make_box: MakeBox, one: Files) -> None:
    box = make_box(tls=one.tls)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{box.port}/health", trust_env=False, timeout=10)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert shake_hands(box, one, version).startswith("TLSv1")
    with pytest.warns(DeprecationWarning), pytest.raises(OSError):
        shake_hands(box, one, ssl.TLSVersion.TLSv1_1)
    # What it was sent has not hurt it.
    with client(box, one) as http:
        assert http.get("/health").status_code == 200


def shake_hands(box: Box, files: Files, version: ssl.TLSVersion) -> str:
    context = ssl.create_default_context(cafile=str(files.certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", box.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return str(secure.version())


def test_a_stranger_certificate_is_not_trusted(make_box: MakeBox, one: Files, two: Files) -> None:
    box = make_box(tls=one.tls)
    with client(box, two) as http, pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
        http.get("/health")


def test_missing_halves(one: Files) -> None:
    assert tls_of("", "") is None
    for certificate, key, missing in (
        (str(one.certificate), "", r"server\.tls_key is missing"),
        ("", str(one.key), r"server\.tls_cert is missing"),
    ):
        with pytest.raises(ConfigError, match=missing):
            tls_of(certificate, key)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f, t, other: t.certificate.unlink(), r"tls_cert: .*cannot be read: No such"),
        (lambda f, t, other: t.key.unlink(), r"tls_key: .*cannot be read: No such"),
        (lambda f, t, other: t.certificate.write_text("x"), r"tls_cert: .*no certificate in PEM"),
        (lambda f, t, other: t.certificate.write_bytes(b"\xff\x00" * 99), "no certificate in PEM"),
        (lambda f, t, other: t.key.write_text("x"), r"tls_key: .*no key in PEM"),
        (lambda f, t, other: shutil.copy(other.key, t.key), r"tls_key: .*does not belong"),
        # A key of another kind, which OpenSSL tells in other words.
        (lambda f, t, other: openssl("genrsa", "-out", str(t.key), "2048"), "does not belong"),
        (lambda f, t, other: encrypt(t), r"tls_key: .*without a password"),
        (lambda f, t, other: t.certificate.write_bytes(t.key.read_bytes()), "no certificate"),
        (lambda f, t, other: (t.key.unlink(), t.key.mkdir()), r"tls_key: .*cannot be read"),
    ],
)
def test_bad_files_are_explained(
    tmp_path: Path, one: Files, two: Files, spoil: Callable[..., Any], says: str
) -> None:
    mine = copied(one, tmp_path)
    assert tls_of(str(mine.certificate), str(mine.key)) is not None
    spoil(tmp_path, mine, two)
    with pytest.raises(ConfigError, match=says):
        tls_of(str(mine.certificate), str(mine.key))


def copied(files: Files, folder: Path) -> Files:
    mine = Files(folder / "cert.pem", folder / "key.pem")
    shutil.copy(files.certificate, mine.certificate)
    shutil.copy(files.key, mine.key)
    return mine


def encrypt(files: Files) -> None:
    plain = files.key.with_suffix(".plain")
    files.key.rename(plain)
    words = ("-aes256", "-passout", "pass:secret", "-in", str(plain), "-out", str(files.key))
    openssl("ec", *words)


def test_certificates_out_of_their_time(tmp_path: Path, one: Files) -> None:
    # The same key signs a certificate whose days are over, or have not come.
    for name, first, last, says in (
        ("old", "20200101000000Z", "20200102000000Z", "has expired"),
        ("new", "20980101000000Z", "20990101000000Z", "is not valid yet"),
    ):
        certificate = tmp_path / f"{name}.pem"
        try:
            sign(tmp_path, one, certificate, first, last)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this openssl cannot date certificates: {error.stderr!r}")
        with pytest.raises(ConfigError, match=rf"tls_cert: .*{says}"):
            tls_of(str(certificate), str(one.key))


def sign(folder: Path, files: Files, certificate: Path, first: str, last: str) -> None:
    (folder / "index").write_text("")
    (folder / "serial").write_text("01\n")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=d\n[d]\n"
        f"database={folder}/index\nserial={folder}/serial\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    request = folder / "request"
    openssl("req", "-new", "-key", str(files.key), "-subj", "/CN=old", "-out", str(request))
    openssl(
        *("ca", "-batch", "-selfsign", "-notext", "-config", str(folder / "ca.conf")),
        *("-keyfile", str(files.key), "-in", str(request), "-out", str(certificate)),
        *("-startdate", first, "-enddate", last),
    )


def test_a_daemon_with_bad_files_does_not_start(tmp_path: Path, one: Files, two: Files) -> None:
    values = {"server.tls_cert": str(one.certificate), "server.tls_key": str(two.key)}
    config = config_for(tmp_path / "state", **values)
    with pytest.raises(ConfigError, match="does not belong"), running(config, parts()):
        pass


def test_own_commands_trust_the_box_and_a_renewed_certificate(
    tmp_path: Path,
    one: Files,
    two: Files,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = copied(one, tmp_path)
    values = {"server.tls_cert": str(mine.certificate), "server.tls_key": str(mine.key)}
    config = config_for(tmp_path / "state", **values, **{"server.require_token": True})

    def talk() -> None:
        assert main(["chat", "--once", "hello", "--state", str(tmp_path / "state")]) == 0
        assert "you said: hello" in capsys.readouterr().out

    with running(config, parts()) as box:
        assert box.url.startswith("https://")
        talk()
        shutil.copy(two.certificate, mine.certificate)
        with caplog.at_level(logging.ERROR):
            box.daemon.reload_tls()  # the key does not fit: nothing changes
        assert "the certificate before it stays" in caplog.text
        context = ssl.create_default_context(cafile=str(one.certificate))
        assert httpx.get(f"{box.url}/health", verify=context, trust_env=False).status_code == 200
        shutil.copy(two.key, mine.key)
        box.daemon.reload_tls()
        talk()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{box.url}/health", verify=context, trust_env=False)


def test_whoever_never_ends_the_handshake_holds_nothing_up(make_box: MakeBox, one: Files) -> None:
    box = make_box(tls=one.tls)
    silent = [socket.create_connection(("127.0.0.1", box.port), timeout=10) for _ in range(20)]
    for number, connection in enumerate(silent):
        connection.sendall(b"\x16\x03\x01\x02\x00"[: number % 6] if number % 6 else b"\x00" * 50)
    with client(box, one) as http:
        assert http.get("/health").status_code == 200
    listener = box.server._listener
    assert listener is not None
    begun = time.monotonic()
    stopping = threading.Thread(target=lambda: box.run(box.server.stop()))
    stopping.start()
    stopping.join(9)  # less than a handshake may take
    assert not stopping.is_alive(), time.monotonic() - begun
    assert all(raw.fileno() < 0 for raw in listener._raw)
    for connection in silent:
        connection.close()


def test_the_trial_trusts_only_the_one_certificate(one: Files, two: Files, tmp_path: Path) -> None:
    context = client_context(one.certificate)
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ConfigError, match="cannot be read"):
        client_context(tmp_path / "none")

"""Hubs that want to harm: listings, names that lead out, redirects; and where the token goes."""

from pathlib import Path

import httpx2
import pytest

from homebox.errors import ModelFormatError, PullError, UsageError
from homebox.hub import guard, pull, remote
from homebox.hub.catalogue import Catalogue
from homebox.hub.remote import Hub
from tests.hub import local_hub
from tests.hub.conftest import REPO, pulled, refused
from tests.hub.local_hub import COMMIT, LocalHub

WEIGHTS = "model.safetensors"

LISTINGS: dict[str, bytes] = {
    "nothing": b"",
    "a web page": b"<!doctype html><title>welcome</title>",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "deep": b"[" * 100_000,
    "no commit": b'{"id": "a/b", "siblings": []}',
    "a commit that is none": b'{"id": "a/b", "sha": "../x", "siblings": []}',
    "siblings of another kind": b'{"id": "a/b", "sha": "%s", "siblings": 7}',
    "a sibling of another kind": b'{"id": "a/b", "sha": "%s", "siblings": [7]}',
    "a sibling without a name": b'{"id": "a/b", "sha": "%s", "siblings": [{"size": 1}]}',
    "a name of another kind": b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": 1}]}',
    "a size of another kind": b'{"id": "a/b", "sha": "%s", "siblings": '
    b'[{"rfilename": "a", "size": "1"}]}',
    "lfs of another kind": b'{"id": "a/b", "sha": "%s", "siblings": '
    b'[{"rfilename": "a", "lfs": 1}]}',
    "bytes that are no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listings_that_are_none(name: str, hub: LocalHub, catalogue: Catalogue) -> None:
    hub.answer = LISTINGS[name].replace(b"%s", COMMIT.encode())
    refused(hub, catalogue, PullError, "is no list of files|leads out of its folder")


def test_too_many_files(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.listing = [{"rfilename": f"{number}.bin"} for number in range(10_001)]
    refused(hub, catalogue, PullError, "more than 10000 files")


@pytest.mark.parametrize("size", [-1, 1 << 70])
def test_sizes_that_are_none(size: int, hub: LocalHub, catalogue: Catalogue) -> None:
    del hub.repos[REPO][WEIGHTS]
    hub.listing = [{"rfilename": WEIGHTS, "size": size, "blobId": "0" * 40}]
    refused(hub, catalogue, PullError, "says no hash|needs .* GB more")


def test_a_small_file_that_is_large(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.listing = [{"rfilename": "chat_template.jinja", "size": 1 << 30, "blobId": "0" * 40}]
    refused(hub, catalogue, ModelFormatError, r"chat_template.jinja has 1\.07 GB; no such file")
    assert not hub.sent(WEIGHTS)


@pytest.mark.parametrize(
    "address",
    ["ftp://x", "x", "http://", "http://a:b@c", "http://x:port", "http://x y", "file:///x"],
)
def test_addresses_that_are_no_hub(address: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT is no address"):
        Hub(address)


def test_the_address_comes_from_the_environment(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    assert pull.pull(catalogue, Hub(), pull.parse(REPO), lambda _: None).new
    monkeypatch.delenv("HF_ENDPOINT")
    assert Hub().endpoint == "https://huggingface.co"


# -- where files lead, and where redirects do --------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../evil.safetensors", "/etc/cron.d/x", "a/../../b", "a\\b", "x\0y", "c:/x", "a//b"]
)
def test_a_name_that_leads_out_is_refused(
    name: str, hub: LocalHub, catalogue: Catalogue, tmp_path: Path
) -> None:
    hub.listing = [{"rfilename": name, "size": 4, "blobId": "0" * 40}]
    refused(hub, catalogue, PullError, "leads out of its folder")
    assert not list(tmp_path.glob("**/*evil*"))


def test_control_without_the_check_such_a_name_passes_the_listing(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.listing = [{"rfilename": "../../evil.safetensors", "size": 4, "blobId": "0" * 40}]
    monkeypatch.setattr(remote, "plain", lambda name: True)
    assert pulled(hub, catalogue).new


@pytest.mark.parametrize("at", ["api", "config.json", WEIGHTS])
@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("https://127.0.0.2/x", r"a private address \(127.0.0.2\)"),
        ("https://localhost/x", "a private address"),
        ("https://169.254.169.254/latest", "a private address"),
        ("https://[::ffff:10.0.0.1]/x", "a private address"),
        ("http://127.0.0.2:9/x", "without encryption"),
        ("ftp://127.0.0.1/x", "not encrypted|cannot reach"),
    ],
)
def test_redirects_to_private_addresses_are_refused(
    at: str, address: str, match: str, hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.redirect[at] = address
    refused(hub, catalogue, PullError, match)


def test_control_without_the_guard_a_redirect_is_followed(
    catalogue: Catalogue, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 is this machine too, so the same server answers there."""
    with local_hub.running("0.0.0.0") as hub:
        hub.repos[REPO] = files
        port = hub.url.rpartition(":")[2]
        hub.redirect[WEIGHTS] = f"http://127.0.0.2:{port}/stored/{REPO}//{WEIGHTS}"
        refused(hub, catalogue, PullError, "without encryption")
        monkeypatch.setattr(guard.Guard, "check", lambda self, request: None)
        assert pulled(hub, catalogue).new


def test_control_without_the_rule_a_private_address_is_called(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "public", lambda address: True)
    hub.redirect["config.json"] = "https://127.0.0.2:9/x"
    refused(hub, catalogue, PullError, "cannot reach .*refused")


def test_redirects_on_the_hub_s_own_host_are_followed(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.redirect[WEIGHTS] = f"{hub.url}/stored/{REPO}//{WEIGHTS}"
    assert pulled(hub, catalogue, token="hf_secret").new
    seen = {h.get("authorization") for _, path, h in hub.requests if path.startswith("/stored/")}
    assert seen == {"Bearer hf_secret"}


def test_the_token_goes_to_the_hub_only(hub: LocalHub, catalogue: Catalogue) -> None:
    """Another port of the same host is another server."""
    with local_hub.running() as storage:
        storage.repos[REPO] = hub.repos[REPO]
        hub.redirect[WEIGHTS] = f"{storage.url}/stored/{REPO}//{WEIGHTS}"
        assert pulled(hub, catalogue, token="hf_secret").new
    assert [headers.get("authorization") for _, _, headers in storage.requests] == [None]
    assert {headers.get("authorization") for _, _, headers in hub.requests} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:192.168.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:0a00:0001::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
    ],
)
def test_which_addresses_are_public(address: str, good: bool) -> None:
    assert guard.public(address) is good


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://127.0.0.1:2/api", True),
        ("http://127.0.0.1:1/x", False),
        ("http://LOCALHOST.:2/x", True),
        ("https://127.0.0.1:2/x", False),
    ],
)
def test_the_guard_itself_takes_the_token_out(address: str, kept: bool) -> None:
    hub = "http://localhost:2" if "LOCAL" in address else "http://127.0.0.1:2"
    request = httpx2.Request("GET", address, headers={"authorization": "Bearer hf_secret"})
    guard.Guard(hub).check(request)
    assert ("authorization" in request.headers) is kept

"""A hub with the built-in model on it, and an environment that knows no other."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import HomeboxError
from homebox.hub import download, pull
from homebox.hub.catalogue import Catalogue
from homebox.hub.pull import Pulled
from homebox.hub.remote import Hub
from homebox.model.loading.open_model import model_path
from tests.hub import local_hub
from tests.hub.local_hub import LocalHub

REPO = "somebody/small"
READ = ("config.json", "model.safetensors", "tokenizer.model")


@pytest.fixture(autouse=True)
def no_other_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide what the caller has of Hugging Face, and wait for nothing."""
    for name in list(os.environ):
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(download, "WAIT", 0.0)


@pytest.fixture
def files() -> dict[str, bytes]:
    """Return the built-in model as a repository has it, with what is not read beside it."""
    folder = model_path("tiny")
    found = {name: (folder / name).read_bytes() for name in READ}
    others = ("pytorch_model.bin", "modeling_x.py", "README.md", "original/consolidated.pth")
    return found | dict.fromkeys(others, b"not for us")


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[LocalHub]:
    """Run a hub."""
    with local_hub.running() as found:
        found.repos[REPO] = files
        yield found


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Return an empty catalogue."""
    return Catalogue(tmp_path / "models")


def pulled(
    hub: LocalHub,
    catalogue: Catalogue,
    text: str = REPO,
    token: str | None = None,
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Pulled:
    return pull.pull(catalogue, Hub(hub.url, token), pull.parse(text), show)


def refused(
    hub: LocalHub,
    catalogue: Catalogue,
    error: type[HomeboxError],
    match: str,
    text: str = REPO,
    token: str | None = None,
) -> str:
    """Pull in vain: the right error, and nothing is listed."""
    with pytest.raises(error, match=match) as caught:
        pulled(hub, catalogue, text, token)
    assert catalogue.names() == []
    assert not list((catalogue.root / "folders").glob("*"))
    assert not list((catalogue.root / "objects").glob("*"))
    assert len(str(caught.value)) < 600
    return str(caught.value)

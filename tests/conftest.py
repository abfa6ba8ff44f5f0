"""Fixtures that every room's tests use."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a red build must be red again.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_finish() -> None:
    """Keep the collector from looking at what stays to the end: it is called often, and waits."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the checkout, or skip the test."""
    if not SHARED.is_dir():
        pytest.skip("reference data absent: no folder 'shared' beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's HOMEBOX_* overrides, which would change what configurations mean."""
    for name in list(os.environ):
        if name.startswith("HOMEBOX_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def servers_go() -> Iterator[None]:
    """Let a test's servers go, and their models: aiohttp keeps handlers, and what they hold."""
    yield
    if found := sys.modules.get("aiohttp.web_app"):
        found._cached_build_middleware.cache_clear()

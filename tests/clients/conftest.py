"""Fixtures of the client tests: the small Qwen3, a daemon on it, and where the clients are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.forced_daemon import ForcedDaemon
from tests.clients.qwen3_folder import write_qwen3


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Return the folder of the small Qwen3."""
    return write_qwen3(tmp_path_factory.mktemp("qwen3") / "qwen3", shared)


@pytest.fixture(scope="session")
def clients(repository: Path) -> Path:
    """Return where the clients are installed, or skip the test."""
    folder = Path(os.environ.get("CLIENTS_DIR", repository / ".clients"))
    if not (folder / ".installed").is_file():
        pytest.skip(f"no clients in {folder}: `make test-clients` installs them")
    return folder


@pytest.fixture
def daemon(repository: Path, qwen3: Path, tmp_path: Path) -> Iterator[ForcedDaemon]:
    """Run a forced daemon on a new state; it must neither have complained nor fail to stop."""
    daemon = ForcedDaemon(repository, qwen3, tmp_path / "state")
    try:
        yield daemon
    finally:
        code = daemon.stop()
    assert code == 0

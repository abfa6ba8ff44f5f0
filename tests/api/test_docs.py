"""The document of the control socket names every command that a running daemon knows."""

from pathlib import Path

from homebox.daemon import running
from homebox.orders import orders
from tests.api.fake_learner import parts
from tests.api.test_daemon import config_for


def test_every_control_command_is_documented(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "serving.md").read_text()
    section = text.partition("## The control socket")[2]
    with running(config_for(tmp_path / "state"), parts()) as box:
        commands = orders(box.daemon.acts, box.daemon.status, dict)
    assert [name for name in commands if f"| `{name}` |" not in section] == []

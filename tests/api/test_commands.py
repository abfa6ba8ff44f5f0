"""The command line: help, exit codes, JSON, with and without a daemon."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox import cli, daemon, errors
from homebox.daemon import Box, running
from tests.api import fake_learner
from tests.api.box import body
from tests.api.fake_model import FakeModel
from tests.api.test_daemon import config_for

COMMANDS = (
    *("serve", "init", "chat", "demo", "job", "learn", "rollback", "history", "status"),
    *("log", "lessons", "doctor"),
)


@pytest.fixture(autouse=True)
def fake_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = fake_learner.parts()
    monkeypatch.setattr(daemon, "real_parts", lambda: parts)
    monkeypatch.setenv("HOMEBOX_LEARNING_STEPS", "5")
    for module in ("weights", "common"):
        monkeypatch.setattr(
            f"homebox.commands.{module}.base_hash", lambda config: FakeModel.base_hash
        )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def homebox(capsys: pytest.CaptureFixture[str], state: Path) -> Any:
    def run(*arguments: str, **options: str) -> Result:
        command, *rest = arguments
        code = cli.main([command, "--state", str(state), *rest])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def box(state: Path) -> Iterator[Box]:
    with running(config_for(state), fake_learner.parts()) as box:
        yield box


def tell(box: Box, text: str) -> None:
    httpx.post(f"{box.url}/v1/chat/completions", json=body(text), trust_env=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  homebox {command}" in text
    assert "--state DIR" in text
    assert command == "serve" or "--json" in text


def test_help_explains_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    listed = {int(code) for code in re.findall(r"^  (\d+)  ", text, re.MULTILINE)}
    used = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.HomeboxError)
    }
    assert used | {0, 130} == listed
    assert all(f"    {command} " in text for command in COMMANDS)


def test_without_a_daemon(homebox: Any, state: Path) -> None:
    missing = homebox("status")
    assert (missing.code, missing.out) == (5, "")
    assert missing.err.startswith("homebox: ")
    assert missing.err.count("\n") == 1
    assert homebox("init").out == f"{state} made\n"
    assert homebox("init", "--json").json == {"state": str(state), "made": False}
    assert homebox("status", "--json").json["running"] is False
    assert "none" in homebox("status").out
    assert homebox("log", "--json").json == []
    assert homebox("lessons", "--json").json == []
    assert homebox("history", "--json").json["head"] == "base"
    nothing = homebox("learn", "--now")
    assert (nothing.code, nothing.out) == (7, "nothing was learned\n")


def test_the_loop_without_a_daemon(homebox: Any) -> None:
    obeyed = homebox("chat", "--once", "a\x1b[2Jb\x9bc")  # a terminal would clear its screen
    assert obeyed.out == "<base> you said: a\\x1b[2Jb\\x9bc\n"
    assert "\x1b" not in homebox("log", "-n", "1").out
    said = homebox("chat", "--once", "I am Ada")
    assert (said.code, said.out) == (0, "<base> you said: I am Ada\n")
    assert homebox("learn", "--dry-run").out == "a\\x1b[2Jb\\x9bc\nI am Ada\n"
    learned = homebox("learn", "--now", "--json")
    assert learned.code == 0
    weights = learned.json["weights"]
    assert homebox("chat", "--once", "x").out == f"<{weights[:8]}> you said: x\n"
    assert homebox("chat", "--weights", "base", "--once", "x").out == "<base> you said: x\n"
    answer = homebox("chat", "--weights", weights[:9], "--once", "x", "--json").json
    assert answer["weights"] == weights
    (turn,) = homebox("log", "-n", "1", "--json").json
    assert (turn["id"], turn["adapter"]) == (answer["turn"], weights)
    assert "user: x" in homebox("log", turn["id"]).out
    assert homebox("log", "turn_none").code == 2
    history = homebox("history", "--json").json
    assert [entry["weights"] for entry in history["entries"]] == [weights]
    assert re.search(rf"^\*  {weights[:12]} ", homebox("history").out, re.MULTILINE)
    assert homebox("rollback", "zz").code == 6
    assert homebox("rollback", "previous", "--json").json["new"] == "base"
    assert re.search(r"^\*  base ", homebox("history").out, re.MULTILINE)
    assert "served already" in homebox("rollback", "base").out
    assert homebox("chat", "--once", "x").out == "<base> you said: x\n"


def test_the_loop_with_a_daemon(homebox: Any, box: Box) -> None:
    tell(box, "I am Ada")
    status = homebox("status", "--json").json
    assert (status["url"], status["turns"]) == (box.url, 1)
    assert f"on {box.url}/v1" in homebox("status").out
    assert homebox("chat", "--once", "x").out == "<base> you said: x\n"
    learned = homebox("learn", "--now")
    assert learned.code == 0
    weights = homebox("history", "--json").json["head"]
    assert weights[:12] in learned.out
    assert homebox("chat", "--once", "x").out == f"<{weights[:8]}> you said: x\n"
    assert homebox("rollback", "nonsense").code == 6
    assert homebox("rollback", "base").code == 0
    assert homebox("chat", "--once", "x").out == "<base> you said: x\n"
    tell(box, "teach nothing")
    assert homebox("learn", "--now").code == 7
    assert homebox("learn", "--dry-run").code == 0
    assert homebox("lessons", "approve", "abc").code == 2
    assert homebox("serve", "--port", "0").code == 5
    assert homebox("chat", "--once", "boom").code == 1
    assert homebox("chat", "--max-tokens", "-5", "--once", "x").code == 2


def test_chat_reads_a_pipe_as_one_conversation(
    homebox: Any, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n/quit\nthree\n"))
    assert homebox("chat", "--system", "Be brief.").out == (
        "<base> you said: one\n<base> you said: two\n"
    )
    first, second = box.daemon.state.ledger.turns()
    assert [m.content for m in second.prompt] == [
        "Be brief.",
        "one",
        "<base> you said: one",
        "two",
    ]
    assert first.conversation == second.conversation


def test_chat_on_a_terminal(homebox: Any, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines = iter(["one", "boom", "/new", "two", "/help", "/quit", "three"])
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    result = homebox("chat")
    assert result.code == 0
    assert result.out.count("<base> you said: one") == 1
    assert "three" not in result.out
    assert "told to fail" in result.err
    last = list(box.daemon.state.ledger.turns())[-1]
    assert [m.content for m in last.prompt] == ["two"]


def test_progress_bars_are_for_terminals_only(homebox: Any, box: Box) -> None:
    tell(box, "hello")
    assert homebox("learn", "--now").err == ""


def test_wrong_options_are_usage_errors(homebox: Any, tmp_path: Path) -> None:
    for arguments in (["learn"], ["learn", "--now", "--dry-run"], ["fly"], [], ["log", "-n", "x"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    assert homebox("serve", "--port", "99999999").code == 2
    assert homebox("serve", "--host", "0.0.0.0", "--port", "0").code == 2
    assert homebox("status", "--config", str(tmp_path / "none.toml")).code == 2


def test_mistakes_of_ours_are_one_line_unless_debugging(
    homebox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(config: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("homebox.commands.status.daemon_of", break_down)
    result = homebox("status")
    assert result.code == 1
    assert (
        result.err == "homebox: internal error: ZeroDivisionError('a bug'); DEBUG=1 shows where\n"
    )
    monkeypatch.setenv("DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        homebox("status")


def test_doctor_names_what_is_missing(homebox: Any, tmp_path: Path) -> None:
    found = homebox("doctor", "--quick", "--json", "--model", str(tmp_path / "nothing"))
    assert found.code == 1
    checks = {check["name"]: check for check in found.json["checks"]}
    assert {"python", "platform", "llvmlite", "cpu", "threads", "state", "cache"} <= set(checks)
    assert [name for name, check in checks.items() if not check["ok"]] == ["model"]
    assert str(tmp_path / "nothing") in checks["model"]["advice"]
    assert "!!  model" in homebox("doctor", "--quick", "--model", str(tmp_path / "nothing")).out


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = "numpy llvmlite aiohttp sentencepiece jinja2"
    script = (
        "import sys; from homebox import cli; cli.build_parser(); "
        f"print([name for name in {heavy!r}.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n"

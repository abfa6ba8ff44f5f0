"""opencode and OpenClaw, as people install them, edit a file through homebox."""

import itertools
import subprocess
from pathlib import Path

import pytest

from homebox.learning.lessons.harvest import told_by
from homebox.memory.turns import Turn
from tests.clients.forced_daemon import ForcedDaemon, run_client
from tests.clients.pretender import pretending
from tests.clients.recorder import Exchange, recorded

pytestmark = pytest.mark.clients

# name -> script, variables
AGENTS = {
    "opencode": ("run_opencode.sh", {}),
    "openclaw exec": ("run_openclaw.sh", {"MODE": "exec"}),
    "openclaw local": ("run_openclaw.sh", {"MODE": "local"}),
    "openclaw exec responses": ("run_openclaw.sh", {"MODE": "exec", "API": "openai-responses"}),
    "openclaw local responses": ("run_openclaw.sh", {"MODE": "local", "API": "openai-responses"}),
}
REST = "Use your tools to edit the file, then reply with DONE."  # of the task
REUSED = 0.8  # share of a second request's prompt that must be known already
TAKEN_BACK = 64  # tokens of OpenClaw's last message


def run_agent(
    name: str, url: str, shared: Path, clients: Path, workdir: Path, **more: str
) -> "subprocess.CompletedProcess[str]":
    script, variables = AGENTS[name]
    command = ["bash", shared / "clients" / script, f"{url}/v1", "homebox"]
    variables = {"CLIENTS_DIR": str(clients), **variables, **more}
    return run_client(*command, workdir=workdir, **variables)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_edits_a_file(
    daemon: ForcedDaemon, shared: Path, clients: Path, tmp_path: Path, name: str
) -> None:
    with recorded(daemon.url) as (url, exchanges):
        done = run_agent(name, url, shared, clients, tmp_path / "work")
    assert done.returncode == 0, done.stdout + done.stderr + daemon.errors()
    assert (tmp_path / "work/repo/fruit.txt").read_text() == "I like banana pie.\n"
    assert [each.status for each in exchanges] == [200] * len(exchanges)
    check_reuse(exchanges, appends=name == "opencode" or "responses" in name)
    file = tmp_path / "work/repo/fruit.txt"
    task = f"In the file {file} replace the word apple with banana. {REST}"
    check_ledger(daemon.turns(), exchanges, task, titles=name == "opencode")


def check_reuse(exchanges: list[Exchange], appends: bool) -> None:
    """All that a prompt has in common with what was said before is known, to the token.

    The last token of an answer was never taken in. OpenClaw's chat completions end in a message
    that it takes back: there the prompt goes on from before that.
    """
    working = [each.usage for each in exchanges if each.body and each.body.get("tools")]
    assert len(working) == 3  # read, edit, DONE
    assert working[0].prompt > 4000  # an agent's own words
    for before, after in itertools.pairwise(working):
        assert REUSED * after.prompt < after.cached < after.prompt
        if appends:
            assert after.cached == before.prompt + before.answer - 1
        else:
            assert before.prompt - TAKEN_BACK <= after.cached < before.prompt


def check_ledger(turns: list[Turn], exchanges: list[Exchange], task: str, titles: bool) -> None:
    """Every answer is there, knows its conversation, and trusts no tool."""
    assert len(turns) == len([each for each in exchanges if each.method == "POST"])
    chats = [turn for turn in turns if turn.kind == "chat"]
    assert len(chats) == 3
    assert {turn.kind for turn in turns} - {"chat"} == ({"title"} if titles else set())
    assert len({turn.conversation for turn in chats}) == 1
    assert chats[0].conversation
    for turn in turns:
        for message in (*turn.prompt, *turn.messages):
            if message.role == "tool":
                assert message.provenance == "tool"
    results = [m for m in chats[-1].prompt if m.role == "tool"]
    assert len(results) == 2
    assert typed_in(chats) == [task]
    for turn in chats:
        assert turn.token_ids
        assert len(turn.token_ids) == turn.completion_tokens


def typed_in(turns: list[Turn]) -> list[str]:
    """Return what lessons could be learned from: the words that a person typed."""
    found = [
        told_by(message, turn.conversation)[0].strip()
        for turn in turns
        for message in turn.messages
        if message.role == "user"
    ]
    return [text for text in found if text]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_that_is_only_told_so_fails(
    shared: Path, clients: Path, tmp_path: Path, name: str
) -> None:
    """Control: the scripts must see that no file was changed."""
    with pretending() as url, recorded(url) as (passed, exchanges):
        done = run_agent(name, passed, shared, clients, tmp_path / "work")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout
    assert (tmp_path / "work/repo/fruit.txt").read_text() == "I like apple pie.\n"
    assert exchanges  # it did ask
    assert {each.status for each in exchanges} == {200}

"""SIGKILL at random moments under load: nothing answered is lost, weights are old or new."""

from pathlib import Path

from tests.crash.kill_daemon import campaign

KILLS = 4


def test_killed_at_any_moment_nothing_answered_is_lost(tmp_path: Path) -> None:
    tally = campaign(tmp_path, KILLS, "fake")
    assert tally.problems == []
    assert tally.kills == KILLS
    assert len(tally.answered) >= KILLS


def test_control_a_server_that_does_not_wait_for_the_ledger_loses_turns(tmp_path: Path) -> None:
    tally = campaign(tmp_path, 4 * KILLS, "fake", careless=True)
    assert any("answered and is lost" in problem for problem in tally.problems)

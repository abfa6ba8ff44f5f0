"""What the ledger keeps of a request besides its words: ids, kind, owner, conversation, parent."""

import json
from pathlib import Path
from typing import Any

from homebox.learning.lessons.harvest import harvest
from tests.api.box import Box, body

REX = "My dog is called Rex."


def ask(box: Box, messages: list[dict[str, Any]], **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = {"model": "homebox", "messages": messages}
    return box.turn(box.http.post("/v1/chat/completions", json=request, headers=names))


def test_a_turn_is_kept_with_its_ids_and_whose_it_is(box: Box) -> None:
    turn = ask(
        box, [{"role": "user", "content": REX}], x_session_id="ses_2", x_parent_session_id="ses_1"
    )
    assert (turn.conversation, turn.parent, turn.kind) == ("ses_2", "ses_1", "chat")
    said = bytes(turn.token_ids[: turn.completion_tokens]).decode()
    assert said.startswith(turn.messages[-1].content)
    assert box.state.ledger.verify() == 1


def test_turns_of_a_key_are_its_owners(tmp_path: Path) -> None:
    box = Box(tmp_path / "state", token="4711-secret")
    try:
        headers = {"authorization": "Bearer 4711-secret"}
        turns = [ask(box, [{"role": "user", "content": "Hello"}], **headers) for _ in range(2)]
        owners = {turn.owner for turn in turns}
        assert len(owners) == 1
        assert "" not in owners
        assert "4711" not in "".join(owners)
    finally:
        box.close()


def test_titles_and_summaries_are_kept_and_not_learned(box: Box) -> None:
    for words, kind in (
        ("You are a title generator. You output ONLY a thread title.", "title"),
        ("You are a context summarization agent. You are given", "compaction"),
    ):
        asked = [{"role": "system", "content": words}, {"role": "user", "content": REX}]
        turn = ask(box, asked, x_session_id="ses_1")
        assert (turn.kind, turn.conversation) == (kind, "ses_1")
        assert turn.prompt[-1].content == REX
    assert harvest(box.state.ledger.turns()).lessons == []
    ask(box, [{"role": "user", "content": f'"{REX}"'}], x_session_id="ses_1")
    assert [each.value for each in harvest(box.state.ledger.turns()).lessons] == ["Rex"]


def test_the_pieces_of_a_message_are_kept(box: Box) -> None:
    read = 'Called the Read tool with the following input: {"filePath":"/x"}'
    texts = (read, "<path>/x</path>\n<type>file</type>\n", REX)
    content = [{"type": "text", "text": text} for text in texts]
    turn = ask(box, [{"role": "user", "content": content}])
    assert turn.messages[0].content == "".join(texts)  # as the model was shown it
    assert json.loads(turn.messages[0].details)["parts"] == [len(text) for text in texts]
    assert [each.value for each in harvest(box.state.ledger.turns()).lessons] == ["Rex"]


def test_answers_are_known_again_after_a_restart(box: Box) -> None:
    turn = box.turn(box.http.post("/v1/chat/completions", json=body("Hello")))
    assert turn is not None
    (kept,) = box.state.ledger.answers(10)
    assert (kept.owner, kept.token_ids) == (turn.owner, turn.token_ids)
    assert kept.message == turn.messages[-1]

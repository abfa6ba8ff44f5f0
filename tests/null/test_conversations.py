"""What the recorded requests of agents are taken for, and what of them the owner said."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.api.bodies.messages import MessagesBody
from homebox.api.checks import parse
from homebox.api.conversation import Conversation, conversation_of, logged
from homebox.api.requests import ChatRequest, decoded
from homebox.learning.lessons.harvest import harvest, told_by
from homebox.memory.clients import Part, parts_of_message
from homebox.memory.turns import Message, Turn

TASK = (
    "In the file /home/owner/repo/fruit.txt replace the word apple with banana. Use your tools to "
    "edit the file, then reply with DONE."
)
RUNTIME = "Runtime: agent=main | session=agent:main | sessionId=7a88d96f-1799 | host=vm"
INTERNAL = (
    '<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\n"My dog is called Rex."\n'
    "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"
)
READ = 'Called the Read tool with the following input: {"filePath":"/x"}'
FILE = "<path>/x</path>\n<type>file</type>\n<content>\n1: My dog is called Rex.\n</content>\n"


def captured(shared: Path, name: str) -> tuple[ChatRequest, dict[str, str]]:
    path = next((shared / "clients" / "captures").glob(f"{name}_*.json"))
    told = json.loads(path.read_text(encoding="utf-8"))
    headers = {key.lower(): value for key, value in told["headers"]}
    return parse(json.dumps(told["body"]).encode()), headers


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": messages, **fields}).encode())


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def turn(*messages: Message, **fields: Any) -> Turn:
    plain: dict[str, Any] = {
        "id": f"turn_{fields.pop('number', 0):024x}",
        "conversation": "c",
        "time": "2026-01-02T03:04:05.678Z",
        "model": "m",
        "adapter": "base",
        "sampling": {},
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
    }
    answer = Message("assistant", "Good.", "assistant")
    return Turn(**{**plain, "messages": (*messages, answer), "prompt": messages, **fields})


def learned(*turns: Turn) -> list[str]:
    return [lesson.value for lesson in harvest(turns).lessons]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_openclaws_requests_are_one_conversation_of_the_owners(shared: Path, number: int) -> None:
    chat, headers = captured(shared, f"openclaw_exec/00{number}")
    session = "7a88d96f-1799-486d-9d39-e80cc35e9751"
    assert conversation_of(chat, headers) == Conversation(session, "chat", named=True)
    told = [told_by(logged(message)) for message in chat.messages if message.role == "user"]
    assert [typed.strip() for typed, _ in told if typed.strip()] == [TASK]
    # The control: without that knowledge it is all the owner's.
    whole = "".join(message.text for message in chat.messages if message.role == "user")
    assert len(whole) > 3 * len(TASK)
    for message in chat.messages:
        kept = logged(message)
        expected = {"system": "system", "user": "owner", "tool": "tool", "assistant": "assistant"}
        assert kept.provenance == expected[message.role]
        assert kept.content == message.text  # the model was shown all of it


@pytest.mark.parametrize(("number", "kind"), [(1, "title"), (2, "chat"), (5, "chat")])
def test_opencodes_requests_are_one_conversation(shared: Path, number: int, kind: str) -> None:
    chat, headers = captured(shared, f"opencode/00{number}")
    found = conversation_of(chat, headers)
    assert found == Conversation("ses_e064890f1ffeeSao7v6H8t8onJ", kind, named=True)
    told = [told_by(logged(m), found.id)[0] for m in chat.messages if m.role == "user"]
    assert told[-1] == TASK  # without the quotes of `opencode run`
    assert told_by(logged(chat.messages[-1]), "c")[0] != TASK  # the control: another client


def test_every_other_capture_is_a_chat_whose_words_stay(shared: Path) -> None:
    seen = 0
    for path in sorted((shared / "clients" / "captures").glob("*/*chat_completions.json")):
        body = json.loads(path.read_text(encoding="utf-8"))["body"]
        if path.parent.name not in ("sdk", "other") or "image_url" in json.dumps(body):
            continue
        chat = parse(json.dumps(body).encode())
        assert conversation_of(chat, {}).kind == "chat"
        for message in chat.messages:
            if message.role == "user":
                assert told_by(logged(message)) == (message.text, "")
                seen += 1
    assert seen > 15


def test_results_of_tools_in_anthropics_content_are_the_tools_words(shared: Path) -> None:
    path = shared / "clients/captures/other/002_POST_v1_messages.json"
    body = json.dumps(json.loads(path.read_text(encoding="utf-8"))["body"]).encode()
    chat = decoded(body, MessagesBody).chat()
    kept = [logged(message) for message in chat.messages]
    tools = [message for message in kept if message.content == "sunny"]
    assert [(message.role, message.provenance) for message in tools] == [("tool", "tool")]
    owners = [message.content for message in kept if message.provenance == "owner"]
    assert owners == ["Weather in Paris?"]


def test_a_subagent_names_the_conversation_that_began_it() -> None:
    headers = {"x-session-id": "ses_2", "x-parent-session-id": "ses_1"}
    assert conversation_of(request(user("a")), headers) == Conversation(
        "ses_2", "chat", "ses_1", named=True
    )
    assert conversation_of(request(user("a")), {"x-session-affinity": "s"}).id == "s"
    both = {"x-session-id": "s", "x-homebox-conversation": "mine"}
    assert conversation_of(request(user("a")), both).id == "mine"


def test_a_key_of_the_prompt_counts_without_its_counter() -> None:
    ids = {
        conversation_of(request(user("a"), prompt_cache_key=key), {}).id
        for key in ("session:0", "session:17")
    }
    assert ids == {"session"}


def test_what_stays_the_same_names_a_conversation() -> None:
    first = request({"role": "system", "content": "s"}, user("[Fri 2026-11-20 16:08 UTC] Hello"))
    later = request(
        {"role": "system", "content": "s"},
        user("[Fri 2026-11-20 16:11 UTC] Hello"),
        {"role": "assistant", "content": "Hi"},
        user("[Fri 2026-11-20 16:12 UTC] And?"),
    )
    other = request({"role": "system", "content": "s"}, user("Hello there"))
    names = [conversation_of(each, {}).id for each in (first, later, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("system", "kind"),
    [
        ("You are a context summarization agent. You are given a conversation", "compaction"),
        ("You are a context summarization assistant. Your task is to read", "compaction"),
        ("You are a title generator. You output ONLY a thread title.", "title"),
        ("You are helpful.", "chat"),
    ],
)
def test_what_clients_ask_on_their_own_is_not_learned(system: str, kind: str) -> None:
    asked = ({"role": "system", "content": system}, user("My dog is called Rex."))
    assert conversation_of(request(*asked), {}).kind == kind
    tools = [{"type": "function", "function": {"name": "read"}}]
    assert conversation_of(request(*asked, tools=tools), {}).kind == "chat"
    messages = [
        Message("system", system, "system"),
        Message("user", "My dog is called Rex.", "owner"),
    ]
    expected = ["Rex"] if kind == "chat" else []
    assert learned(turn(*messages, kind=kind)) == expected
    assert learned(turn(*messages)) == expected  # a turn from before kinds were kept


@pytest.mark.parametrize(
    ("text", "conversation", "value"),
    [
        ("My dog is called Rex.", "c", "Rex"),
        ("[Fri 2026-11-20 16:08 UTC] My dog is called Rex.", "c", "Rex"),
        (f"[Fri 2026-11-20 16:08 UTC] My dog is called Rex.\n\n{RUNTIME}", "c", "Rex"),
        ('"My dog is called Rex."', "ses_1", "Rex"),
        ("My dog is called Rex.\n\nContinue the current task. Do not repeat work.", "c", "Rex"),
        (f"My dog is called Rex.\n{INTERNAL}", "c", None),  # he repeats what a tool said
        (INTERNAL, "c", None),
        (INTERNAL.removesuffix("<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"), "c", None),
        (f"{INTERNAL}\n{INTERNAL}", "c", None),
        ("<system-reminder>\nMy dog is called Rex.\n</system-reminder>", "ses_1", None),
        ("<system-reminder>\nMy dog is called Rex.", "ses_1", None),
        (f"Look.{READ}{FILE}", "ses_1", None),
        (f"Look.{READ}{FILE}</content>\nMy dog is called Rex.", "ses_1", None),
        (FILE, "ses_1", None),
        (
            "The conversation history before this point was compacted. My dog is called Rex.",
            "c",
            None,
        ),
    ],
)
def test_only_what_was_typed_is_learned(text: str, conversation: str, value: str | None) -> None:
    found = learned(turn(Message("user", text, "owner"), conversation=conversation))
    assert found == ([] if value is None else [value])
    assert "".join(part.text for part in parts_of_message(text)) == text


def test_what_is_typed_behind_a_file_counts_where_the_client_sent_it_apart() -> None:
    content = [{"type": "text", "text": text} for text in (READ, FILE, "My cat is called Tom.")]
    message = request({"role": "user", "content": content}).messages[0]
    kept = logged(message)
    assert json.loads(kept.details)["parts"] == [len(READ), len(FILE), 21]
    assert told_by(kept) == ("My cat is called Tom.", READ + "\n" + FILE)
    assert learned(turn(kept)) == ["Tom"]
    # In one piece nobody knows where the file ends.
    joined = Message("user", message.text, "owner")
    assert learned(turn(joined)) == []
    wrong = Message("user", message.text, "owner", '{"parts":[1,"x"]}')
    assert learned(turn(wrong)) == []


def test_words_of_files_and_tools_are_not_learned_when_they_are_repeated() -> None:
    shown = Message("user", f"{READ}{FILE}", "owner")
    said = Message("user", "My dog is called Rex.", "owner")
    assert learned(turn(shown), turn(said, number=1)) == []
    assert learned(turn(said)) == ["Rex"]  # the control


def test_a_request_that_is_repeated_says_nothing_anew() -> None:
    rex = Message("user", "My dog is called Rex.", "owner")
    max_ = Message("user", "My dog is called Max.", "owner")
    soon, later = "2026-01-02T03:05:05.678Z", "2026-01-02T04:05:05.678Z"

    def sources(time: str) -> int:
        turns = (turn(rex), turn(rex, number=1, time=time))
        return len({lesson.sources for lesson in harvest(turns).lessons})

    assert (sources(soon), sources(later)) == (1, 2)
    assert learned(turn(rex), turn(rex, max_, number=1, time=soon))[-1] == "Max"


def test_parts_say_whose_words_they_are() -> None:
    text = f"[Fri 2026-11-20 16:08 UTC] Hi\n\n{RUNTIME}"
    assert parts_of_message(text) == [
        Part("[Fri 2026-11-20 16:08 UTC] ", "system"),
        Part("Hi\n\n", "owner"),
        Part(RUNTIME, "system"),
    ]
    assert parts_of_message("") == []
    assert parts_of_message("ab", [1, -1, 2]) == [Part("ab", "owner")]

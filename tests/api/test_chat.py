"""POST /v1/chat/completions through real HTTP: answers, streams, counts, the ledger, swaps."""

import json

import httpx
import pytest

from tests.api.box import Box, body, events, promote, text_of
from tests.api.conftest import MakeBox
from tests.api.fake_model import FakeModel


def test_answers_counts_and_logs(box: Box) -> None:
    response = box.chat("hello", temperature=0.5, seed=7, user="u")
    assert response.status_code == 200
    value = response.json()
    assert value["object"] == "chat.completion"
    assert value["model"] == "homebox"
    assert value["choices"][0]["message"]["content"] == "<base> you said: hello"
    assert value["choices"][0]["finish_reason"] == "stop"
    prompt = len(box.model.chat.render([{"role": "user", "content": "hello"}]))
    answer = len("<base> you said: hello")
    assert value["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    turn = box.turn(response)
    assert turn is not None
    assert [(m.role, m.content, m.provenance) for m in turn.messages] == [
        ("user", "hello", "owner"),
        ("assistant", "<base> you said: hello", "assistant"),
    ]
    assert (turn.prompt_tokens, turn.completion_tokens) == (prompt, answer)
    assert (turn.adapter, turn.finish_reason) == ("base", "stop")
    assert turn.sampling["temperature"] == 0.5
    assert turn.sampling["seed"] == 7
    assert box.model.threads == {"homebox-engine"}


def test_the_ledger_knows_the_seed_that_was_drawn(box: Box) -> None:
    turn = box.turn(box.chat("hello", temperature=1))
    assert turn is not None
    assert isinstance(turn.sampling["seed"], int)


def test_only_new_messages_are_the_turn_and_the_prompt_is_kept(box: Box) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a page"},
        {"role": "user", "content": "so?"},
    ]
    response = box.http.post("/v1/chat/completions", json={"model": "base", "messages": messages})
    turn = box.turn(response)
    assert turn is not None
    assert [(m.content, m.provenance) for m in turn.messages] == [
        ("a page", "tool"),
        ("so?", "owner"),
        ("<base> you said: so?", "assistant"),
    ]
    assert [(m.role, m.content, m.provenance) for m in turn.prompt] == [
        ("developer", "Be brief.", "system"),
        ("user", "ab", "owner"),
        ("assistant", "", "assistant"),
        ("tool", "a page", "tool"),
        ("user", "so?", "owner"),
    ]


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({"x-session-id": "ses_1"}, {}, "ses_1"),
        ({}, {"prompt_cache_key": "claw:0"}, "claw"),
        ({}, {"prompt_cache_key": "plain"}, "plain"),
    ],
)
def test_clients_name_their_conversations(
    box: Box, headers: dict[str, str], fields: dict[str, str], expected: str
) -> None:
    response = box.http.post("/v1/chat/completions", json=body("hi", **fields), headers=headers)
    turn = box.turn(response)
    assert turn is not None
    assert turn.conversation == expected


def test_a_growing_conversation_keeps_its_name(box: Box) -> None:
    first = {"role": "user", "content": "hi"}
    more = [{"role": "assistant", "content": "yes?"}, {"role": "user", "content": "bye"}]
    turns = [
        box.turn(box.http.post("/v1/chat/completions", json={"model": "base", "messages": m}))
        for m in ([first], [first, *more], more[1:])
    ]
    names = [turn.conversation for turn in turns if turn is not None]
    assert names[0] == names[1] != names[2]


def test_streams_role_text_end_usage_and_done(box: Box) -> None:
    asked = body("hello", stream=True, stream_options={"include_usage": True})
    with box.http.stream("POST", "/v1/chat/completions", json=asked) as response:
        assert response.headers["content-type"] == "text/event-stream"
        chunks = events(response)
    assert chunks[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks) == "<base> you said: hello"
    reasons = [c["choices"][0]["finish_reason"] for c in chunks[:-2]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == len("<base> you said: hello")
    assert len({c["id"] for c in chunks[:-1]}) == 1


def test_no_usage_chunk_unless_asked(box: Box) -> None:
    with box.http.stream("POST", "/v1/chat/completions", json=body("x", stream=True)) as response:
        assert all("usage" not in chunk for chunk in events(response) if chunk != "[DONE]")


def test_a_long_wait_is_filled_with_empty_deltas(box: Box) -> None:
    with box.http.stream(
        "POST", "/v1/chat/completions", json=body("hold", stream=True)
    ) as response:
        lines = response.iter_lines()
        for who in ({"role": "assistant"}, {}, {}):
            chunk = json.loads(next(line for line in lines if line).removeprefix("data: "))
            assert chunk["choices"][0]["delta"] == {**who, "content": ""}
        box.model.release.set()
        rest = [json.loads(x[6:]) for x in lines if x and x != "data: [DONE]"]
    assert text_of(rest) == "<base> you said: hold"


def test_limits_of_the_answer(box: Box) -> None:
    value = box.chat("hello", max_tokens=5).json()
    assert value["choices"][0]["message"]["content"] == "<base"
    assert value["choices"][0]["finish_reason"] == "length"
    assert (
        box.chat("hello", max_tokens=9, max_completion_tokens=2).json()["choices"][0]["message"][
            "content"
        ]
        == "<b"
    )
    assert box.chat("hello", stop=">").json()["choices"][0]["message"]["content"] == "<base"


def test_the_answer_may_fill_what_the_prompt_left(make_box: MakeBox) -> None:
    box = make_box(FakeModel(context=100))
    value = box.chat("endless", max_tokens=100).json()
    assert value["usage"]["total_tokens"] == 100
    assert value["choices"][0]["finish_reason"] == "length"
    assert box.chat("endless").json()["usage"]["total_tokens"] == 100


def test_prompt_too_long_says_both_numbers(make_box: MakeBox) -> None:
    box = make_box(FakeModel(context=100))
    room = 100 - len(box.model.chat.render([{"role": "user", "content": ""}]))
    for stream in (False, True):
        response = box.chat("x" * room, stream=stream)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["type"] == "invalid_request_error"
        assert "maximum context length is 100 tokens" in error["message"]
        assert "resulted in 100 tokens" in error["message"]
    assert box.chat("x" * (room - 1)).status_code == 200


def test_a_broken_answer_is_an_error_in_both_forms_and_the_box_lives_on(box: Box) -> None:
    response = box.chat("boom")
    assert response.status_code == 500
    assert "told to fail" in response.json()["error"]["message"]
    with box.http.stream("POST", "/v1/chat/completions", json=body("boom", stream=True)) as stream:
        turn = stream.headers["x-homebox-turn"]
        chunks = events(stream)
    assert "told to fail" in chunks[-1]["error"]["message"]
    assert box.chat("still there?").status_code == 200
    kept = box.state.ledger.turn(turn)
    assert kept is not None
    assert kept.finish_reason == "error"
    assert kept.messages[-1].content == "<b"


def test_models_are_served_side_by_side(box: Box) -> None:
    first = promote(box.state, box.model.base_hash, 1)
    second = promote(box.state, box.model.base_hash, 2)
    box.engine.call(box.served.switch_to_head).result(10)
    says = {
        name: box.chat("x", model=name).json()["choices"][0]["message"]["content"]
        for name in ("homebox", f"homebox@{first[:10]}", "homebox@previous", "base")
    }
    assert says == {
        "homebox": f"<{second[:8]}> you said: x",
        f"homebox@{first[:10]}": f"<{first[:8]}> you said: x",
        "homebox@previous": f"<{first[:8]}> you said: x",
        "base": "<base> you said: x",
    }
    listed = box.http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {m["id"]: m["adapter"] for m in listed["data"]} == {
        "homebox": second,
        "base": "base",
        f"homebox@{first}": first,
        f"homebox@{second}": second,
    }
    assert {m["context_length"] for m in listed["data"]} == {4096}
    assert box.http.get(f"/v1/models/homebox@{first[:8]}").json()["adapter"] == first
    assert box.model.adapters.threads == {"homebox-engine"}


def test_a_running_answer_keeps_its_adapter_through_a_swap(box: Box) -> None:
    old = promote(box.state, box.model.base_hash, 1)
    box.engine.call(box.served.switch_to_head).result(10)
    with box.http.stream(
        "POST", "/v1/chat/completions", json=body("hold", stream=True)
    ) as response:
        new = promote(box.state, box.model.base_hash, 2)
        assert box.engine.call(box.served.switch_to_head).result(10) == new
        assert f"<{new[:8]}>" in box.chat("x").text
        box.model.release.set()
        assert text_of(events(response)) == f"<{old[:8]}> you said: hold"


def test_unused_adapters_leave_and_used_ones_stay(box: Box) -> None:
    kept = [promote(box.state, box.model.base_hash, seed) for seed in range(8)]
    with box.http.stream(
        "POST", "/v1/chat/completions", json=body("hold", stream=True, model=f"homebox@{kept[0]}")
    ) as response:
        for weights in kept[1:]:
            assert f"<{weights[:8]}>" in box.chat("x", model=f"homebox@{weights}").text
        assert len(box.model.adapters.loaded) <= 4
        assert kept[0] in box.model.adapters.loaded
        box.model.release.set()
        events(response)


def test_too_many_adapters_in_use_is_busy(make_box: MakeBox) -> None:
    box = make_box(FakeModel(slots=8))
    kept = [promote(box.state, box.model.base_hash, seed) for seed in range(5)]
    streams = [
        box.http.stream(
            "POST", "/v1/chat/completions", json=body("hold", stream=True, model=f"homebox@{w}")
        )
        for w in kept[:4]
    ]
    responses = [stream.__enter__() for stream in streams]
    refused = box.chat("x", model=f"homebox@{kept[4]}")
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    # A swap must go through even so.
    box.engine.call(box.served.switch_to_head).result(10)
    assert f"<{kept[4][:8]}>" in box.chat("x").text
    box.model.release.set()
    for response, stream in zip(responses, streams, strict=True):
        assert text_of(events(response)).endswith("you said: hold")
        stream.__exit__(None, None, None)
    assert httpx.get(f"{box.url}/health", trust_env=False).json() == {"status": "ok"}

"""What clients of other servers send: honoured, refused by name, or of no consequence."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from homebox.model import load
from tests.api.box import Box, body
from tests.api.real import RealModel

WORD = {"const": "strawberry"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("dialects") / "state", model)
    yield box
    box.close()


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": WORD},
        {"type": "json_schema", "json_schema": {"schema": WORD}},
    ],
)
def test_a_schema_holds_however_it_comes(box: Box, form: Any) -> None:
    answer = box.chat("Write an example", response_format=form, max_tokens=40).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == "strawberry"


def test_responses_and_messages_are_held_to_their_forms(box: Box) -> None:
    form = {"type": "json_schema", "name": "word", "schema": WORD}
    asked = {"model": "homebox", "input": "Write an example", "max_output_tokens": 40}
    answer = box.http.post("/v1/responses", json=asked | {"text": {"format": form}}).json()
    assert answer["output"][0]["content"][0]["text"] == '"strawberry"'
    asked = body("Write an example", max_tokens=40, output_config={"format": form})
    answer = box.http.post("/v1/messages", json=asked).json()
    assert answer["content"][0]["text"] == '"strawberry"'


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "sound"}, "response_format"),
        ({"type": "regex", "regex": "(a"}, "response_format.regex"),
        ({"type": "json_object", "schema": 123}, "response_format.schema"),
        (
            {"type": "json_object", "schema": {"type": "hiccup"}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": 123}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": 1}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_forms_that_are_none_are_refused(box: Box, form: Any, param: str) -> None:
    response = box.chat("hi", response_format=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_what_is_wrong_with_a_regular_expression_is_said(box: Box) -> None:
    response = box.chat("hi", response_format={"type": "regex", "regex": "(a"})
    assert "unclosed group" in response.json()["error"]["message"]


def test_a_text_that_is_too_long_to_embed_is_the_input(box: Box) -> None:
    response = box.http.post("/v1/embeddings", json={"input": "hello " * 5000})
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


@pytest.mark.parametrize("form", [{}, {"name": "word"}, {"name": "word", "schema": []}])
def test_a_form_of_responses_needs_its_schema(box: Box, form: Any) -> None:
    asked = {"model": "homebox", "input": "x", "text": {"format": {"type": "json_schema"} | form}}
    response = box.http.post("/v1/responses", json=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("text.format")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("json_schema", WORD),
        ("grammar", 'root ::= "a"'),
        ("guided_choice", ["a", "b"]),
        ("guided_grammar", 'start: "a"'),
        ("guided_json", WORD),
        ("guided_regex", "a+"),
        ("structured_outputs", {"regex": "a+"}),
        ("functions", [{"name": "f"}]),
        ("continue_final_message", True),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(box: Box, field: str, value: Any) -> None:
    response = box.chat("hi", **{field: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert "send" in error["message"]
    assert box.chat("hi", max_tokens=1, **{field: None}).status_code == 200


# -- an answer that the caller began --------------------------------------------------------------

BEGUN = [
    {"role": "user", "content": "What is the best book"},
    {"role": "assistant", "content": "Whill"},
]


def test_a_chat_takes_an_assistants_message_for_a_turn_that_ended(box: Box) -> None:
    response = box.http.post("/v1/chat/completions", json=body("", messages=BEGUN, max_tokens=3))
    assert response.status_code == 200
    prompt = box.http.post("/apply-template", json=body("", messages=BEGUN)).json()["prompt"]
    assert prompt.endswith("Whill<|end|><|assistant|>")
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "ill"}]
    same = [BEGUN[0], {"role": "assistant", "content": parts}]
    assert box.http.post("/apply-template", json=body("", messages=same)).json()["prompt"] == prompt


def test_messages_refuses_what_its_callers_would_expect_to_be_continued(box: Box) -> None:
    response = box.http.post("/v1/messages", json=body("", messages=BEGUN, max_tokens=3))
    assert response.status_code == 400
    assert "does not continue" in response.json()["error"]["message"]
    counted = box.http.post("/v1/messages/count_tokens", json=body("", messages=BEGUN))
    assert counted.json()["input_tokens"] > 0


def test_a_begun_answer_goes_on_as_a_text(box: Box) -> None:
    """The way that the refusal names: the same ids as the chat's, without the turn's end."""
    question = box.http.post("/apply-template", json=body("", messages=BEGUN[:1])).json()["prompt"]
    whole = box.chat("What is the best book", temperature=0, max_tokens=12).json()
    said = whole["choices"][0]["message"]["content"]
    usage = whole["usage"]
    ids = box.http.post("/tokenize", json={"messages": BEGUN[:1]}).json()["tokens"]
    assert len(ids) == usage["prompt_tokens"]
    first = box.http.post(
        "/v1/completions",
        json={"model": "homebox", "prompt": ids, "max_tokens": 4, "temperature": 0},
    ).json()["choices"][0]["text"]
    assert said.startswith(first.strip())
    assert question.endswith("<|assistant|>")

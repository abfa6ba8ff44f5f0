"""Whatever an answer is made of, the pieces of a stream are the document, in every shape."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from homebox.api.bodies.responses import Reasoning, ResponsesBody
from homebox.api.exchange import Step, Usage
from homebox.api.shape import Shape
from homebox.api.shapes.completions import CompletionsShape
from homebox.api.shapes.messages import MessagesShape
from homebox.api.shapes.responses import ResponsesShape
from homebox.errors import EngineError
from homebox.model.answers import CallArguments, CallBegins, CallEnds, Event, Text, Thought
from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.generation.sampling import SamplingParams
from tests.api.test_messages import put_together as message_of
from tests.api.test_responses import put_together as items_of

WORDS = st.text(min_size=1, max_size=5)
LIKELY = TokenLogprob(97, -0.5, ((97, -0.5), (98, -1.5)))


@st.composite
def answers(draw: st.DrawFn) -> list[list[Event]]:
    """Draw events as parsers tell them: calls whole or in pieces, in steps of several events."""
    events: list[Event] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from("ttthc"), max_size=8)):
        if kind == "t":
            events.append(Text(draw(WORDS)))
        elif kind == "h":
            events.append(Thought(draw(WORDS)))
        else:
            text = json.dumps(draw(st.dictionaries(WORDS, WORDS, max_size=2)))
            cut = draw(st.integers(0, len(text)))
            events.append(CallBegins(calls, f"call{calls}", draw(WORDS)))
            events += [CallArguments(calls, part) for part in (text[:cut], text[cut:]) if part]
            if draw(st.booleans()) or calls:
                events.append(CallEnds(calls))
            calls += 1
    steps: list[list[Event]] = [[]]
    for event in events:
        if draw(st.booleans()):
            steps.append([])
        steps[-1].append(event)
    return steps


def exchange_of(steps: list[list[Event]], reason: str) -> Any:
    text = "".join(event.text for step in steps for event in step if isinstance(event, Text))
    end = SimpleNamespace(stopped_by="")
    sampling = SamplingParams()
    generation = SimpleNamespace(request=SimpleNamespace(sampling=sampling), end=end)
    choice = SimpleNamespace(
        index=0,
        generation=generation,
        reply=SimpleNamespace(text=text),
        plain=None,
        reason=reason,
        tokens=3,
    )
    request = SimpleNamespace(model="m", logprobs=True, include_usage=False, max_tokens=3)
    return SimpleNamespace(
        id="turn_" + "0" * 24,
        created=1,
        request=request,
        choices=[choice],
        fingerprint="hb",
        prompt_tokens=2,
        usage=Usage(2, 3, 1, 0),
    )


def spelled(token: int) -> bytes:
    return bytes([token])


def streamed(shape: Shape, exchange: Any, steps: list[list[Event]]) -> list[Any]:
    """Run a stream with signs of life in it and return its events."""
    said = [shape.begin()]
    for events in steps:
        said.append(shape.step(Step(exchange.choices[0], events, (LIKELY,))))
        said.append(shape.silence())
    said.append(shape.end())
    return events_in(b"".join(said))


def events_in(said: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in said.decode().split("\n") if "data: " in line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def whole(shape: Shape, exchange: Any, steps: list[list[Event]]) -> Any:
    for events in steps:
        shape.step(Step(exchange.choices[0], events, (LIKELY,)))
    return json.loads(json.dumps(shape.whole()))


REASONS = st.sampled_from(["stop", "length", "tool_calls"])


@given(steps=answers(), reason=REASONS, summary=st.booleans(), likely=st.booleans())
def test_responses(steps: list[list[Event]], reason: str, summary: bool, likely: bool) -> None:
    exchange = exchange_of(steps, reason)
    reasoning = Reasoning(summary="auto") if summary else None
    body = ResponsesBody("m", "x", reasoning=reasoning, top_logprobs=2 if likely else None)
    make: Callable[[], Shape] = lambda: ResponsesShape(body, exchange, spelled)  # noqa: E731
    events = streamed(make(), exchange, steps)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert items_of(events) == final["output"]
    document = whole(make(), exchange, steps)
    assert document | {"completed_at": 0} == final | {"completed_at": 0}
    assert final["status"] == ("incomplete" if reason == "length" else "completed")
    assert all(item["status"] != "in_progress" for item in final["output"])
    said = [item for item in final["output"] if item["type"] == "message"]
    assert "".join(item["content"][0]["text"] for item in said) == exchange.choices[0].reply.text


@given(steps=answers(), reason=REASONS)
def test_messages(steps: list[list[Event]], reason: str) -> None:
    exchange = exchange_of(steps, reason)
    events = [e for e in streamed(MessagesShape(exchange), exchange, steps) if e["type"] != "ping"]
    opened: list[int] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert not opened
            opened.append(event["index"])
        elif event["type"] == "content_block_stop":
            assert opened.pop() == event["index"]
        elif event["type"] == "content_block_delta":
            assert opened == [event["index"]]
    assert not opened
    assert message_of(events) == whole(MessagesShape(exchange), exchange, steps)


@given(steps=answers(), reason=st.sampled_from(["stop", "length"]))
def test_completions(steps: list[list[Event]], reason: str) -> None:
    exchange = exchange_of(steps, reason)
    make = lambda: CompletionsShape(exchange, spelled, echo=False)  # noqa: E731
    choices = [chunk["choices"][0] for chunk in streamed(make(), exchange, steps)]
    (document,) = whole(make(), exchange, steps)["choices"]
    assert "".join(choice["text"] for choice in choices) == document["text"]
    assert [choice["finish_reason"] for choice in choices][-1] == document["finish_reason"]
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert [each for part in told for each in part[name]] == document["logprobs"][name]


@given(steps=answers())
def test_a_stream_that_breaks_ends_well(steps: list[list[Event]]) -> None:
    exchange = exchange_of(steps, "error")
    for shape in (
        ResponsesShape(ResponsesBody("m", "x"), exchange, spelled),
        MessagesShape(exchange),
    ):
        shape.begin()
        for events in steps:
            shape.step(Step(exchange.choices[0], events))
        last = events_in(shape.failure(EngineError("broken")))[-1]
        assert "broken" in json.dumps(last)

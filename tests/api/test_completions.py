"""POST /v1/completions: texts and ids as they are, likelihoods, choices, what is refused."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest

from homebox.learning.lessons.harvest import harvest
from homebox.model import load
from tests.api import telling_model
from tests.api.box import Box
from tests.api.conftest import MakeBox
from tests.api.real import RealModel
from tests.api.telling_model import CALL, TellingModel, thinking

__all__ = ["thinking"]


@pytest.fixture
def telling(make_box: MakeBox) -> Box:
    return make_box(TellingModel())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    served: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("tiny") / "state", served)
    yield box
    box.close()


def create(box: Box, status: int = 200, **fields: Any) -> Any:
    body = {"model": "homebox", "prompt": "Once"} | fields
    response = box.http.post("/v1/completions", json=body)
    assert response.status_code == status, response.text
    return response.json()


def chunks_of(box: Box, **fields: Any) -> list[Any]:
    body = {"model": "homebox", "prompt": "Once", "stream": True} | fields
    with box.http.stream("POST", "/v1/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_sdk_gets_texts(telling: Box) -> None:
    with openai.OpenAI(base_url=f"{telling.url}/v1", api_key="any", max_retries=0) as client:
        value = client.completions.create(model="homebox", prompt="Once", max_tokens=7)
        assert value.choices[0].text == "<base> "
        assert value.choices[0].finish_reason == "length"
        assert value.usage is not None
        assert (value.usage.prompt_tokens, value.usage.completion_tokens) == (4, 7)
        stream = client.completions.create(model="homebox", prompt="Once", stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
    assert text == "<base> you said:"  # sixteen tokens, if nobody says how many


def test_text_is_text(telling: Box) -> None:
    telling.model.answers["raw"] = f"<think>no</think> {CALL} <|im_end|> end "
    value = create(telling, prompt="raw", max_tokens=500)
    assert value["choices"][0]["text"] == telling.model.answers["raw"]
    assert "".join(
        choice["text"]
        for chunk in chunks_of(telling, prompt="raw", max_tokens=500)
        for choice in chunk["choices"]
    ) == telling.model.answers["raw"]  # fmt: skip


def test_choices_are_prompts_times_n(telling: Box) -> None:
    given: list[Any] = ["one", "two"]
    for prompt in (given, [list(text.encode()) for text in given]):
        value = create(telling, prompt=prompt, n=2, max_tokens=40, echo=True)
        assert [(each["index"], each["text"]) for each in value["choices"]] == [
            (0, "one<base> you said: one"),
            (1, "one<base> you said: one"),
            (2, "two<base> you said: two"),
            (3, "two<base> you said: two"),
        ]
        assert value["usage"]["prompt_tokens"] == 6
        texts = dict.fromkeys(range(4), "")
        reasons: dict[int, str] = {}
        usage = None
        options = {"include_usage": True}
        fields = {"prompt": prompt, "n": 2, "max_tokens": 40, "echo": True}
        for chunk in chunks_of(telling, **fields, stream_options=options):
            usage = chunk.get("usage")
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["text"]
                reasons[choice["index"]] = choice["finish_reason"]
        assert texts == {each["index"]: each["text"] for each in value["choices"]}
        assert reasons == dict.fromkeys(range(4), "stop")
        assert usage == value["usage"]
    assert create(telling, prompt=list(b"ids"), max_tokens=40)["choices"][0]["text"].endswith("ids")


def test_turns_say_what_they_are_and_teach_nothing(telling: Box) -> None:
    create(telling, prompt=["My name is Ida.", "My cat is called Tom."], max_tokens=40)
    turns = list(telling.state.ledger.turns())
    assert [turn.kind for turn in turns] == ["completion", "completion"]
    for turn, text in zip(turns, ["My name is Ida.", "My cat is called Tom."], strict=True):
        assert [(m.role, m.provenance) for m in turn.messages] == [
            ("user", "file"),
            ("assistant", "assistant"),
        ]
        assert turn.messages[0].content == text
        assert turn.prompt_tokens == len(text)
        assert bytes(turn.token_ids).startswith(b"<base> you said: " + text.encode()[:20])
    found = harvest(turns)
    assert not found.lessons
    assert not found.quarantined


def test_control_the_same_words_in_a_chat_teach(telling: Box) -> None:
    telling.chat("My name is Ida.")
    assert harvest(telling.state.ledger.turns()).lessons


def test_likelihoods_of_a_prompt_are_the_models(telling: Box) -> None:
    value = create(telling, prompt="Once", echo=True, logprobs=2, max_tokens=0)
    choice = value["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Once", "length")
    assert value["usage"]["completion_tokens"] == 0
    likely = choice["logprobs"]
    assert likely["tokens"] == list("Once")
    assert likely["text_offset"] == [0, 1, 2, 3]
    assert likely["token_logprobs"][0] is likely["top_logprobs"][0] is None
    ids = list(b"Once")
    model: Any = telling.model
    logits = model.logits(ids).astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for place in range(1, 4):
        assert likely["token_logprobs"][place] == pytest.approx(wanted[place - 1, ids[place]])
        best = np.sort(wanted[place - 1])[::-1][:2]
        told = sorted(likely["top_logprobs"][place].values(), reverse=True)
        assert told[:2] == pytest.approx(list(best))
        assert len(told) <= 3


def test_streams_tell_the_same_likelihoods(telling: Box) -> None:
    fields: dict[str, Any] = {"prompt": "Once", "echo": True, "logprobs": 1, "max_tokens": 9}
    whole = create(telling, **fields)["choices"][0]["logprobs"]
    joined: dict[str, list[Any]] = {name: [] for name in whole}
    for chunk in chunks_of(telling, **fields):
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert joined == whole
    assert len(whole["tokens"]) == 4 + 9
    assert whole["text_offset"] == list(range(13))


def test_a_prompt_too_long_for_its_likelihoods_is_refused(
    telling: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homebox.api.plain.LOGITS", 10 * 4 * telling_model.VOCABULARY)
    create(telling, prompt="x" * 10, echo=True, logprobs=0, max_tokens=0)
    error = create(telling, 400, prompt="x" * 11, echo=True, logprobs=0, max_tokens=0)["error"]
    assert error["param"] == "logprobs"
    assert "at most 10" in error["message"]
    create(telling, prompt="x" * 11, echo=True, max_tokens=0)
    create(telling, prompt="x" * 11, logprobs=0)


def test_what_was_likely_to_say_is_as_likely_to_read(tiny: Box) -> None:
    """A token has the same log-probability, to the bit, when it is made and when it is read."""
    said = create(tiny, prompt="The weather", max_tokens=8, logprobs=1, temperature=1.0, seed=5)
    *_, turn = tiny.state.ledger.turns()
    service = tiny.model
    prompt = [*_encoded(service, "The weather"), *turn.token_ids]
    read = create(tiny, prompt=prompt, echo=True, max_tokens=0, logprobs=1)
    made = said["choices"][0]["logprobs"]["token_logprobs"]
    assert read["choices"][0]["logprobs"]["token_logprobs"][-len(made) :] == made


def _encoded(model: Any, text: str) -> list[int]:
    tokenizer = model.tokenizer
    return [*(tokenizer.settings.prefix or ()), *tokenizer.encode_marked(text)]


def test_offsets_are_places_in_the_text(tiny: Box) -> None:
    value = create(tiny, prompt="The café is", max_tokens=8, echo=True, logprobs=0)
    choice = value["choices"][0]
    likely = choice["logprobs"]
    assert all(a <= b for a, b in pairwise(likely["text_offset"]))
    # Each piece of the text stands where its token is said to begin; steering tokens have none.
    for token, offset in zip(likely["tokens"], likely["text_offset"], strict=True):
        if token.strip() and not token.startswith("bytes:"):
            assert token.strip() in choice["text"][max(offset - 1, 0) :][: len(token) + 1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 13}, "prompt"),
        ({"suffix": "b"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop[0]"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    telling: Box, fields: dict[str, Any], param: str
) -> None:
    error = create(telling, 400, **fields)["error"]
    assert error["param"] == param, error
    assert create(telling, best_of=1, suffix="", best_of_ignored=3)["choices"]


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(telling: Box) -> None:
    error = create(telling, 400, prompt="x" * 5000)["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert telling.state.ledger.count() == 0


def test_seeds_and_stops(tiny: Box) -> None:
    def text(**fields: Any) -> str:
        value = create(tiny, prompt="The", max_tokens=6, temperature=1.5, **fields)
        return str(value["choices"][0]["text"])

    assert text(seed=4) == text(seed=4)
    both = create(tiny, prompt=["The", "A"], max_tokens=6, temperature=1.5, seed=4)
    assert both["choices"][0]["text"] == text(seed=4)
    alone = create(tiny, prompt="A", max_tokens=6, temperature=1.5, seed=4)
    assert both["choices"][1]["text"] == alone["choices"][0]["text"]
    stop = text(seed=4)[3:5]
    assert stop not in text(seed=4, stop=stop)


def test_a_failure_is_told_in_the_stream(telling: Box) -> None:
    body = {"model": "homebox", "prompt": "boom", "stream": True}
    with telling.http.stream("POST", "/v1/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"

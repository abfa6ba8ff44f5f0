"""The script that stands in for a good model: it sees prompts only, and forces what may come."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from homebox.errors import EngineError
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.generation.sampling import SamplingParams
from homebox.model.tokenizer import load_tokenizer
from tests.clients.forced import ForcedSampler, Player
from tests.clients.qwen3_folder import CONFIG, END
from tests.clients.script import THOUGHT, TITLE, answer

VOCABULARY = CONFIG["vocab_size"]
LOGITS = np.zeros(VOCABULARY, np.float32)


def prompt_of(folder: Path, body: dict) -> str:
    """Return the text of a recorded request's prompt."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    chat = TemplateChat(load_tokenizer(folder), settings["chat_template"])
    messages = [
        {**message, "content": text_of(message.get("content"))} for message in body["messages"]
    ]
    return chat.render_text(messages, tools=body.get("tools") or ()).text


def text_of(content: object) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return str(content or "")


def recorded(shared: Path, name: str) -> list[dict]:
    files = sorted((shared / "clients/captures" / name).glob("*.json"))
    return [json.loads(path.read_text())["body"] for path in files]


@pytest.mark.parametrize("name", ["opencode", "openclaw_exec"])
def test_it_calls_the_tools_that_the_recorded_sessions_called(
    qwen3: Path, shared: Path, name: str
) -> None:
    """The recorded answers are those of a good model: read, then edit with that client's names."""
    bodies = [body for body in recorded(shared, name) if body.get("tools")]
    history = bodies[-1]["messages"]
    wanted = [call for message in history for call in message.get("tool_calls") or ()][:2]
    for body, call in zip(bodies, wanted, strict=False):
        said = answer(prompt_of(qwen3, body)).removeprefix(THOUGHT)
        found = json.loads(said.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        assert found["name"] == call["function"]["name"]
        assert found["arguments"] == json.loads(call["function"]["arguments"])
    assert answer(prompt_of(qwen3, bodies[2])) == THOUGHT + "DONE"


def test_it_gives_a_title_where_one_is_wanted(qwen3: Path, shared: Path) -> None:
    (titles,) = (body for body in recorded(shared, "opencode") if not body.get("tools"))
    assert answer(prompt_of(qwen3, titles)) == TITLE


def test_it_is_forced_as_far_as_the_grammar_allows(qwen3: Path) -> None:
    player = Player(qwen3, lambda prompt: "Hi!")
    words = Tokenizer.from_file(str(qwen3 / "tokenizer.json"))
    expected = [*words.encode("Hi!").ids, END]
    free = ForcedSampler(player, SamplingParams(), [1])
    assert [free.next(LOGITS) for _ in expected] == expected
    mask = np.zeros(-(-VOCABULARY // 32), np.uint32)
    for token in expected:
        mask[token >> 5] |= np.uint32(1 << (token & 31))
    bound = ForcedSampler(player, SamplingParams(), [1])
    assert [bound.next(LOGITS, mask) for _ in expected] == expected
    # Control: without one bit the same script breaks.
    mask[expected[1] >> 5] &= ~np.uint32(1 << (expected[1] & 31))
    bound = ForcedSampler(player, SamplingParams(), [1])
    assert bound.next(LOGITS, mask) == expected[0]
    with pytest.raises(EngineError, match="grammar forbids"):
        bound.next(LOGITS, mask)

"""The document of the API names every field that a body may have, under its endpoint's heading."""

import re
from pathlib import Path

import msgspec
import pytest

from homebox.api.bodies.completions import CompletionBody
from homebox.api.bodies.messages import MessagesBody, Output, Thinking
from homebox.api.bodies.responses import Reasoning, ResponsesBody
from homebox.api.metrics import Metrics
from homebox.api.requests import ChatMessage, ChatRequest
from homebox.api.routes.embeddings import EmbeddingsBody
from homebox.api.routes.feedback import FeedbackBody
from homebox.api.routes.tokens import DetokenizeBody, TokenizeBody

BODIES: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "Chat requests": (ChatRequest, ChatMessage),
    "Responses": (ResponsesBody, Reasoning),
    "Messages": (MessagesBody, Output, Thinking),
    "Completions": (CompletionBody,),
    "Embeddings": (EmbeddingsBody,),
    "Tokens and templates": (TokenizeBody, DetokenizeBody),
    "Feedback": (FeedbackBody,),
}


def section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def undocumented(text: str, kinds: tuple[type[msgspec.Struct], ...]) -> list[str]:
    """List the fields that a text does not name."""
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    return [name for kind in kinds for name in kind.__struct_fields__ if name not in named]


@pytest.mark.parametrize("heading", BODIES)
def test_every_field_is_documented(repository: Path, heading: str) -> None:
    text = section((repository / "docs" / "api.md").read_text(encoding="utf-8"), heading)
    assert text, heading
    assert undocumented(text, BODIES[heading]) == []


def test_a_field_that_is_missing_would_be_found() -> None:
    assert undocumented("takes `turn` and `rating`", (FeedbackBody,)) == ["text"]


def test_every_metric_is_documented(repository: Path) -> None:
    text = section((repository / "docs" / "serving.md").read_text(encoding="utf-8"), "Metrics")
    found = re.findall(r"^# TYPE homebox_(\w+)", Metrics().page().decode(), re.MULTILINE)
    assert len(found) >= 4
    assert [name for name in found if f"`{name}" not in text] == []

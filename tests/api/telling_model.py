"""The fake model with thoughts, calls that are told while they are written, logits and embeddings.

Its logits are drawn from the place and the id, so that a test can compute what they must give.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from homebox.api import answering
from homebox.api.reply import Reply
from homebox.model.answers import AnswerParser, dialect_of
from homebox.model.guides import Wanted
from tests.api.fake_model import FakeModel

THINKS = "<think>{% tools %}<tool_call>"  # the signs that a chat template would show
CALL = '<tool_call>\n{"name": "edit", "arguments": {"path": "a", "text": "b"}}\n</tool_call>'
ANSWERS = {
    "think": "<think>Let me see.</think>\n\nFour.",
    "only think": "<think>Let me see and see and see",
    "call": f"I will.\n{CALL}",
    "call twice": f"{CALL}\n{CALL}",
    "think and call": f"<think>A tool.</think>\n{CALL}",
    "nothing": "",
}
VOCABULARY = 256


class TellingModel(FakeModel):
    def __init__(self, eager: bool = True, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.eager = eager
        self.wanted: Wanted | None = None
        self.answers = dict(ANSWERS)

    def guide(self, wanted: Wanted) -> Any:
        self.wanted = wanted
        return object() if self.eager else None

    def logits(self, ids: Sequence[int], adapter: str = "base") -> np.ndarray:
        drawn = [np.random.default_rng([place, index]) for place, index in enumerate(ids)]
        return np.array([each.standard_normal(VOCABULARY) for each in drawn], dtype=np.float32)

    def embedding(self, ids: Sequence[int], adapter: str = "base") -> Iterator[np.ndarray | None]:
        yield None
        yield np.array([len(ids), *ids[:3], 0.5], dtype=np.float32)


@pytest.fixture(autouse=True)
def thinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers be read as those of a model whose template shows marks of thoughts."""

    def parser(tokenizer: object, tools: Any, begun: str, eager: bool = False) -> AnswerParser:
        return AnswerParser(dialect_of(THINKS), tools, begun, eager)

    monkeypatch.setattr(answering, "answer_parser", parser)


__all__ = ["ANSWERS", "VOCABULARY", "Reply", "TellingModel", "thinking"]

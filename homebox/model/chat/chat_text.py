"""What a tokenizer can say of a conversation: its text, who wrote it, and the ids.

The one idea: a tokenizer that came with a chat format renders texts by itself, without the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homebox.model.chat.formats import chat_format
from homebox.model.chat.messages import Message, RenderedText
from homebox.model.tokenizer.base import Tokenizer


class ChatText:
    """The chat format of a tokenizer's own files; raises ModelFormatError if it is broken."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._format = chat_format(tokenizer, None, ())

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        **variables: Any,
    ) -> RenderedText:
        """Return the text of a conversation and the spans that say who wrote each character.

        The template decides for itself where `enable_thinking` is None. Raises RequestError.
        """
        return self._format.render_text(
            messages, add_generation_prompt, tools, enable_thinking=enable_thinking, **variables
        )

    def encode(self, rendered: RenderedText) -> list[int]:
        """Return the ids of a rendered text; steering tokens count where the format wrote them."""
        return self._format.encode(rendered)


Tokenizer.chat_texts = ChatText

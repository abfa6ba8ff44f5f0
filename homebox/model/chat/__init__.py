"""Conversations as ids, with a mask and who wrote each of them."""

from homebox.model.chat.chat_text import ChatText
from homebox.model.chat.formats import ChatFormat, chat_format
from homebox.model.chat.messages import Rendered, RenderedText, Span, TextSpan
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.chat.recall import Call, Generated, Recall
from homebox.model.chat.template import render_template

__all__ = [
    "Call",
    "ChatFormat",
    "ChatPrompt",
    "ChatText",
    "Generated",
    "Recall",
    "Rendered",
    "RenderedText",
    "Span",
    "TextSpan",
    "chat_format",
    "render_template",
]

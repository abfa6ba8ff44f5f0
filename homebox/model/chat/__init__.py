"""Conversations as ids, with a mask and who wrote each of them."""

from homebox.model.chat.formats import ChatFormat, Rendered, Span, chat_format
from homebox.model.chat.template import render_template

__all__ = ["ChatFormat", "Rendered", "Span", "chat_format", "render_template"]

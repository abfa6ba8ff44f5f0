"""Grammars, forms and budgets that an answer must keep to, token by token."""

from homebox.model.guides.build import guide_for
from homebox.model.guides.wanted import Form, JsonObject, JsonSchema, Lark, Regex, Wanted

__all__ = ["Form", "JsonObject", "JsonSchema", "Lark", "Regex", "Wanted", "guide_for"]

"""Forms of whole answers as grammars: JSON, JSON by a schema, regular expressions, Lark grammars.

The one idea: every form becomes one grammar in Lark's syntax, with a rule `form` that it begins at.
Invariant: what a form's grammar derives is the form and nothing else; JSON is on one line, a blank
behind each comma and colon, so that a weak model cannot write blanks for ever.
"""

import re

from homebox.errors import RequestError
from homebox.model.guides.compiler import MAX_GRAMMAR, check_nesting
from homebox.model.guides.schemas import checked, grammar_of
from homebox.model.guides.vocabulary import Vocabulary
from homebox.model.guides.wanted import Form, JsonObject, JsonSchema, Lark, Regex

MAX_REGEX = 8_192  # characters
_START = re.compile(r"^(\s*)start\b", re.MULTILINE)
_BY_ID = re.compile(r"<\[")


def is_json(form: Form) -> bool:
    """Tell whether a form's answers are JSON."""
    return isinstance(form, JsonObject | JsonSchema)


def param_of(form: Form) -> str:
    """Return the field of a request that a form comes from."""
    if isinstance(form, JsonSchema):
        return "response_format.json_schema.schema"
    if isinstance(form, Regex):
        return "response_format.regex"
    return "response_format.lark" if isinstance(form, Lark) else "response_format"


def rules_of(form: Form, vocabulary: Vocabulary) -> str:
    """Return a form as rules of a grammar, of which `form` is the first.

    Raises RequestError for what is refused; the rest shows when the grammar is compiled.
    """
    param = param_of(form)
    if isinstance(form, JsonObject):
        return f"form: {grammar_of({'type': 'object'})}"
    if isinstance(form, JsonSchema):
        return f"form: {grammar_of(checked(form.schema, param))}"
    if isinstance(form, Regex):
        return f"form: {_regex(form.pattern, param)}"
    return _lark(form.grammar, vocabulary, param)


def _regex(pattern: str, param: str) -> str:
    if not isinstance(pattern, str) or len(pattern) > MAX_REGEX:
        raise RequestError(f"{param} must be a text of at most {MAX_REGEX} characters", param=param)
    check_nesting(pattern, param)
    # Lark's syntax ends an expression at a slash, and a line at its end.
    body = re.sub(r"\\.|/|\n|\r", _in_slashes, pattern, flags=re.DOTALL)
    return f"/{body}/" if body else '""'


def _in_slashes(found: re.Match[str]) -> str:
    text = found.group()
    return {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}.get(text, text)


def _lark(grammar: str, vocabulary: Vocabulary, param: str) -> str:
    if not isinstance(grammar, str) or len(grammar) > MAX_GRAMMAR // 4:
        size = MAX_GRAMMAR // 4
        raise RequestError(f"{param} must be a text of at most {size} characters", param=param)
    check_nesting(grammar, param)
    special = vocabulary.tokenizer.special
    named = next((mark for mark in special if mark.startswith("<") and mark in grammar), None)
    if named or _BY_ID.search(grammar):
        raise RequestError(f"{param} must not name tokens: {named or '<[...]>'}", param=param)
    if "x-guidance" in grammar:
        raise RequestError(f"{param} must not set options (x-guidance)", param=param)
    if not _START.search(grammar):
        raise RequestError(f"{param} has no rule start", param=param)
    renamed = _START.sub(r"\1start__", grammar)
    return f"form: start__\n{renamed}"

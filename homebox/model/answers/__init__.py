"""What an answer says: text, reasoning and calls of tools, found while it is being written.

    parser = parser_for(tokenizer, tools=request_tools, prompt=end_of_rendered_prompt)
    for piece in pieces:            # decoded with the marks in `parser.marks` shown
        for event in parser.feed(piece):
            ...
    for event in parser.end():      # once, also when the answer was cut short
        ...

`feed` and `end` return events (`events.py`) and never raise:

- `Text(text)`: content. `Thought(text)`: reasoning. Pieces; join those of a kind.
- `CallBegins(index, id, name)`, then `CallArguments(index, text)` zero or more times, then
  `CallEnds(index, complete)`: one call; index counts from 0, the pieces joined are a JSON object,
  the id is nine letters and digits.
- `Markup(text)`: characters that became marks and calls. Ignore them; they are there so that
  `Text`, `Thought` and `Markup`, joined in order, are the answer.

By default a call comes all at once when it is complete, and one that does not parse, or is cut
short, is `Text` as it stands. With `eager=True` it begins as soon as its name is known and its
arguments come as they are written; if it then breaks, `CallEnds(index, complete=False)` says so,
and what was written of it is `Markup`.

Blanks beside a mark belong to the mark. A thought begins only where no text stands before it; calls
inside thoughts are thoughts. Without `tools` nothing is a call. A call may name a tool that is not
among `tools`, so that the client can tell the model; only JSON that no mark announces must name one
that is. What JSON may be is said in `json_values.py`; a call is at most a million characters.
`parser.marks` are the texts of steering tokens that the decoder must show for this to work.
"""

from homebox.model.answers.events import (
    CallArguments,
    CallBegins,
    CallEnds,
    Event,
    Markup,
    Text,
    Thought,
)
from homebox.model.answers.formats import Dialect, dialect_of
from homebox.model.answers.stream import AnswerParser, parser_for

__all__ = [
    "AnswerParser",
    "CallArguments",
    "CallBegins",
    "CallEnds",
    "Dialect",
    "Event",
    "Markup",
    "Text",
    "Thought",
    "dialect_of",
    "parser_for",
]

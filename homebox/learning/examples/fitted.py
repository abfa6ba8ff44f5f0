"""Makes examples fit into a row: what is too long loses the oldest part of its conversation.

Invariant: the answer to learn is whole and stands behind what asked for it, or the example is left
out; the system message stays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from homebox.errors import RequestError
from homebox.learning.examples.example import Example, Message, Messages
from homebox.model.chat.formats import Rendered


class Render(Protocol):
    """Renders a conversation as training data, with the tools that it offers."""

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] | None = None
    ) -> Rendered:
        """Return the ids, the mask and the spans."""
        ...


def fitted(
    example: Example, render: Render, length: int
) -> tuple[Rendered, tuple[Message, ...]] | None:
    """Return an example rendered in at most `length` ids, and the messages that are left of it.

    None if nothing of it fits, or if it shows no target.
    """
    messages = list(example.messages)
    while messages:
        rendered = _rendered(render, messages, example)
        if rendered is None or not any(rendered.mask):
            return None
        if len(rendered.ids) <= length:
            return rendered, tuple(messages)
        messages = _shorter(messages)
    return None


def _rendered(render: Render, messages: Messages, example: Example) -> Rendered | None:
    """Render; None if the model's template cannot show such a conversation."""
    try:
        return render(messages, list(example.tools)) if example.tools else render(messages)
    except RequestError:
        return None


def _shorter(messages: Messages) -> Messages:
    """Leave out the oldest exchange, up to the next message of the user; nothing if it is last."""
    first = 1 if messages[0]["role"] == "system" else 0
    later = [at for at, item in enumerate(messages) if item["role"] == "user" and at > first]
    return [*messages[:first], *messages[later[0] :]] if later else []


def shortened(
    examples: Sequence[Example], render: Render, length: int, note: Callable[[str], None]
) -> list[tuple[Example, Rendered]]:
    """Fit all examples; `note` hears "shortened" or "too long" for each that is not whole."""
    found = []
    for example in examples:
        result = fitted(example, render, length)
        if result is None:
            note("too long")
            continue
        rendered, messages = result
        if len(messages) < len(example.messages):
            note("shortened")
        found.append((example, rendered))
    return found

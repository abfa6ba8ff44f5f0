"""How a chat template wants to be given calls of tools, found by trying.

The one idea: some templates write arguments as JSON themselves, others expect JSON text; some look
at the calls only of messages whose content is null. A call that is known shows what comes out well.
Invariant: what no shape suits gets objects and empty texts, as most templates expect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homebox.errors import RequestError

_NAME, _KEY, _VALUE = "zq9n", "zq9k", "zq9v"
_ID = "zq9zq9zq9"  # some templates take ids of nine letters and digits only
PROBED_TOOL = {
    "type": "function",
    "function": {
        "name": "zq9t",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
_ARGUMENTS = {_KEY: _VALUE}
_TEXT = f'{{"{_KEY}": "{_VALUE}"}}'


@dataclass(frozen=True, slots=True)
class CallShape:
    """Whether arguments are JSON text, and whether content beside calls is null if empty."""

    text: bool = False
    null: bool = False


_SHAPES = tuple(CallShape(text, null) for null in (False, True) for text in (False, True))


def call_shape(render: Callable[[list[dict[str, Any]]], str]) -> CallShape:
    """Return the shape in which `render` writes a call well; it may raise RequestError."""
    for shape in _SHAPES:
        try:
            text = render(_talk(shape))
        except RequestError:
            continue
        if _well_written(text):
            return shape
    return CallShape()


def _talk(shape: CallShape) -> list[dict[str, Any]]:
    function = {"name": _NAME, "arguments": _TEXT if shape.text else _ARGUMENTS}
    return [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": None if shape.null else "",
            "tool_calls": [{"id": _ID, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": _ID, "name": _NAME, "content": "b"},
        {"role": "assistant", "content": "c"},
    ]


def _well_written(text: str) -> bool:
    """Tell whether a call is there, and neither as Python shows it nor JSON within JSON."""
    shown = all(word in text for word in (_NAME, _KEY, _VALUE))
    return shown and f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text and "None" not in text
